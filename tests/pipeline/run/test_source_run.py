"""A source's rows become shards once; later inputs become further shards."""

from pathlib import Path

import pytest

from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.errors import InputError

from ..living import digests
from ..toys import (
    NAMES,
    ToyMap,
    ToySource,
    flow,
    rows,
    run,
)


def test_new_inputs_make_new_shards_and_leave_old_ones_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow(NAMES[:15]))
    before = {k: v for k, v in digests(out).items() if "shard-" in k}
    stages = flow(["a5", *NAMES])
    run(out, stages)
    after = digests(out)
    assert all(after[name] == value for name, value in before.items())
    assert len(rows(out, "made")) == len(NAMES) + 2
    assert isinstance(stages[1], ToyMap)
    assert "n3" not in stages[1].processed and "a5" in stages[1].processed
    assert verify(out).differences == []


def test_changed_input_is_refused_then_redone_on_request(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, flow())
    stages = flow()
    assert isinstance(stages[0], ToySource)
    stages[0].sizes = {"n3": 7}
    with pytest.raises(InputError, match=r"1 inputs were changed .*toy/n3"):
        run(out, stages)
    stages = flow()
    assert isinstance(stages[0], ToySource) and isinstance(stages[1], ToyMap)
    stages[0].sizes = {"n3": 7}
    run(out, stages, overwrite=True)
    assert set(stages[1].processed) == {f"n{i}" for i in range(10)}
    assert verify(out).differences == []
