"""What is done and left, from the records alone."""

from pathlib import Path

import pytest

from normpipe.pipeline.care.status import status
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.runner import Options, Runner

from ..toys import (
    NAMES,
    flow,
)


def test_status_counts_what_is_left(tmp_path: Path) -> None:
    source, first, second, join = flow()
    settings = Options(identity={"dataset": "toy", "input": "here"})
    Runner(tmp_path / "out", [source, first, second, join], RunConfig(), settings).run([source])
    state = status(tmp_path / "out")
    assert [s["inputs_left"] for s in state["stages"]] == [0, len(NAMES), len(NAMES), len(NAMES)]
    with pytest.raises(InputError, match="holds no normpipe job"):
        status(tmp_path)
