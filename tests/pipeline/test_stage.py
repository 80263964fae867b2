"""What a stage says of itself, and its settings."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from normpipe.pipeline.errors import InputError
from normpipe.pipeline.stage import StageConfig, check_digest, free, sha256_file

from .toys import ToyConfig, ToyMap

ROW = {"key": "d/a#face1", "parent_key": "d/a", "status": "ok", "reason": None, "decided_by": "x"}


class Settings(StageConfig):
    size_px: int = 112
    pack: str | None = None
    name: str = "plain"
    root: Path | None = free(None, description="where", path=True, relative_to_job_file=True)
    limit: int | None = free(None, description="how many", per_run=True, ge=1)
    needed: str


def test_an_unknown_setting_is_an_error_that_names_it() -> None:
    with pytest.raises(ValidationError, match="sise_px\n  Extra inputs are not permitted"):
        Settings.model_validate({"sise_px": 1, "needed": "x"})
    with pytest.raises(ValidationError, match="frozen"):
        Settings(needed="x").size_px = 3  # type: ignore[misc]


def test_empty_text_unsets_what_may_be_unset_and_nothing_else() -> None:
    """TOML has no null."""
    empty = Settings.model_validate({"pack": "", "root": "", "limit": "", "name": "", "needed": ""})
    assert (empty.pack, empty.root, empty.limit) == (None, None, None)
    assert (empty.name, empty.needed) == ("", "")
    with pytest.raises(ValidationError, match="size_px"):
        Settings.model_validate({"size_px": "", "needed": "x"})
    assert Settings.model_validate(empty) is empty


def test_settings_that_shape_results_are_all_but_the_free_ones() -> None:
    plain = Settings(needed="x").shaping()
    assert plain == {"size_px": 112, "pack": None, "name": "plain", "needed": "x"}
    assert Settings(needed="x", root=Path("a"), limit=4).shaping() == plain
    assert Settings(needed="x", size_px=113).shaping() != plain


def test_a_free_setting_has_its_marks_and_limits() -> None:
    def marks(name: str) -> Any:
        return Settings.model_fields[name].json_schema_extra

    assert marks("root") == {"shapes_results": False, "path": True, "relative_to_job_file": True}
    assert marks("limit") == {"shapes_results": False, "per_run": True}
    assert Settings.model_fields["limit"].description == "how many"
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Settings(needed="x", limit=0)


@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=3000))
def test_a_file_s_digest_is_that_of_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "hashed"
    path.write_bytes(data)
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()


def test_a_file_that_is_not_the_pinned_one_is_refused() -> None:
    check_digest("a.onnx", "0f", "align.sha256", "0f")
    with pytest.raises(InputError, match=r"a\.onnx has sha256 0f, but align\.sha256 pins ff"):
        check_digest("a.onnx", "0f", "align.sha256", "ff")


def test_rows_get_the_columns_that_every_row_has() -> None:
    stage = ToyMap()
    (row,) = stage.finish_row(ROW, 3, 9)
    own = {name: row[name] for name in ("key", "parent_key", "status", "decided_by", "number")}
    assert own == {
        "key": "d/a#face1", "parent_key": "d/a", "status": "ok", "decided_by": "toy-map",
        "number": 9,
    }  # fmt: skip
    keys = [one["key"] for one in stage.finish_row({**ROW, "key": "d/twins"}, 3, 9)]
    assert keys == ["d/twins#face0", "d/twins#face1"]
    stage.finish = lambda *_: [{"status": "rejected", "decided_by": "it", "parent_key": "p"}]
    (row,) = stage.finish_row(ROW, 3, 9)  # what a stage says itself stays
    assert (row["status"], row["decided_by"], row["parent_key"]) == ("rejected", "it", "p")
    stage.finish = lambda *_: []
    with pytest.raises(AssertionError, match="toy-map lost d/a#face1"):
        stage.finish_row(ROW, 3, 9)


def test_a_row_leaves_with_its_reason_and_who_gave_it() -> None:
    stage = ToyMap()
    common = {"key": "d/a#face1", "parent_key": "d/a"}
    rejected = {"status": "rejected", "reason": "no_face", "decided_by": "toy-map"}
    assert stage.refuse(ROW, "no_face") == {**common, **rejected}
    assert stage.refuse(ROW, "quarantined")["status"] == "failed"
    earlier = {**ROW, "status": "failed", "reason": "missing_file", "number": 3}
    decided = {"status": "failed", "reason": "missing_file", "decided_by": "x"}
    assert stage.pass_through(earlier) == {**common, **decided}


def test_a_stage_s_settings_stand_under_its_name_or_another() -> None:
    stage = ToyMap(ToyConfig())
    assert stage.table == "toy-map" == stage.name
    stage.settings_table = "toys"
    assert stage.table == "toys" and stage.resources() == {} and stage.device_class == "cpu"
