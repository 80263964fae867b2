"""A finished job to read from."""

import pytest

from normpipe.manifests.schema import ALIGNED, NORMALIZED
from normpipe.pipeline.store.shards import write_table
from normpipe.stages.pair import PairConfig

from .pictured import LABELS, ROWS, row, write, write_pairs


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A finished job: 150 inputs in two shards, labels for every second one."""
    job = tmp_path_factory.mktemp("job")
    write(job / "aligned", ALIGNED, [row(n, 0, "align") for n in range(ROWS)])
    faces = [row(n, 9, "normalize") for n in range(ROWS)]
    write(job / "normalized/compact", NORMALIZED, faces)
    (job / "job.json").write_text("{}")
    write_table(job / "labels.parquet", LABELS)
    return job


@pytest.fixture(scope="module")
def paired(job, tmp_path_factory):
    write_pairs(job, PairConfig(variants="compact"))
    return job
