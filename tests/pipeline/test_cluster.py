"""Workers in other processes, for real: started by the command, and those of a Dask cluster."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clusters import dask_cluster, digests, finish, toy_job


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The toy job's folder, made by one process, which never imports Dask."""
    out = tmp_path_factory.mktemp("toys") / "out"
    assert "dask imported: False" in finish(toy_job(out, {}))
    return digests(out)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_local_workers_make_the_same_bytes(
    workers: int, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    said = finish(toy_job(tmp_path / "out", {}, workers=workers))
    assert digests(tmp_path / "out") == undisturbed
    assert "Traceback" not in said and "distributed" not in said


@pytest.mark.slow
def test_a_running_cluster_makes_the_same_bytes(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    with dask_cluster(tmp_path, workers=2) as cluster:
        finish(toy_job(tmp_path / "out", {}, scheduler=cluster.address))
    assert digests(tmp_path / "out") == undisturbed
