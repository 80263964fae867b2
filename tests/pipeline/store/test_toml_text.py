"""Settings written as TOML are read back as exactly the same settings."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from normpipe.pipeline.config import RunConfig, portable
from normpipe.pipeline.stage import StageConfig
from normpipe.pipeline.store.toml_text import key_text, readable, table_lines, value_text
from normpipe.stages import CONFIGS
from normpipe.stages.synthesis.render_settings import SynthesizeConfig

# All that UTF-8 can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False)
VALUES = st.recursive(
    TEXTS | NUMBERS | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


class Inner(StageConfig):
    name: str = ""
    share: float | None = None


class Everything(StageConfig):
    """Every kind of setting that a stage may have."""

    text: str = "x"
    number: int = 1
    share: float = 0.5
    yes: bool = False
    maybe: float | None = None
    folder: Path | None = None
    names: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    columns: dict[str, str] = Field(default_factory=dict)
    free: dict[str, Any] = Field(default_factory=dict)
    sets: dict[str, Inner] = Field(default_factory=dict)


INNERS = st.builds(Inner, name=TEXTS, share=st.none() | st.floats(allow_nan=False))
EVERYTHING = st.builds(
    Everything,
    text=TEXTS,
    number=st.integers(),
    share=st.floats(allow_nan=False),
    yes=st.booleans(),
    maybe=st.none() | st.floats(allow_nan=False),
    folder=st.none() | TEXTS.filter(lambda t: t.strip("/.") != "").map(Path),
    names=st.lists(TEXTS, max_size=3).map(tuple),
    widths=st.lists(st.integers(), max_size=3).map(tuple),
    columns=st.dictionaries(TEXTS, TEXTS, max_size=3),
    free=st.dictionaries(TEXTS, VALUES, max_size=3),
    sets=st.dictionaries(TEXTS, INNERS, max_size=3),
)


def read_back(config: BaseModel) -> BaseModel:
    text = "\n".join(table_lines("table", type(config), portable(config)))
    return type(config).model_validate(tomllib.loads(text)["table"])


@given(VALUES)
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    found = tomllib.loads(f"value = {value_text(value)}")["value"]
    assert found == value and type(found) is type(value)


@given(TEXTS)
def test_a_key_is_read_back_as_it_was(key: str) -> None:
    assert tomllib.loads(f"{key_text(key)} = 1") == {key: 1}


@given(EVERYTHING)
@settings(deadline=None)
def test_settings_are_read_back_as_they_were(config: Everything) -> None:
    assert read_back(config) == config


def test_numbers_that_are_none_are_read_back() -> None:
    assert value_text(math.inf) == "inf" and value_text(-math.inf) == "-inf"
    found = tomllib.loads(f"value = {value_text(math.nan)}")["value"]
    assert math.isnan(found)


@pytest.mark.parametrize("name", ["run", *CONFIGS, "synthesize"])
def test_the_defaults_of_every_stage_are_read_back(name: str) -> None:
    model = {"run": RunConfig, **CONFIGS, "synthesize": SynthesizeConfig}[name]
    assert read_back(model()) == model()


def test_what_utf8_cannot_hold_is_still_written() -> None:
    # As Python has the bytes of a file's name that are no UTF-8.
    assert readable("caf\udce9") == "caf%E9"
    text = value_text("a\ud800b")
    assert tomllib.loads(f"x = {text}") == {"x": "a\ufffdb"}


def test_what_has_no_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="set"):
        value_text({1, 2})
