"""What is left to do: fingerprints decide."""

from pathlib import Path

import pytest

from normpipe.pipeline.errors import OutputError
from normpipe.pipeline.run.plan import refuse_other
from normpipe.pipeline.store.shards import ShardFolder

from ..toys import ToyMap, flow, run


def test_many_differences_are_counted(tmp_path: Path) -> None:
    run(tmp_path / "out", flow())
    stage = ToyMap()
    settings = {f"s{i}": i for i in range(12)}
    with pytest.raises(OutputError, match=r"toy-map\.s3: unset → 3.*; and 14 more\)"):
        refuse_other(stage, ShardFolder(tmp_path / "out/made"), {"settings": settings})
