"""The real job, small: the package's samples, the embedded detector, random weights."""

import errno
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from normpipe.pipeline.store import commit
from normpipe.stages.networks.compact import CompactNormalizer
from normpipe.stages.networks.files.checkpoint import save_tensors


@pytest.fixture(autouse=True)
def _plain_logging() -> Iterator[None]:
    """Take away the handlers that commands add: they hold on to a stderr that is gone."""
    yield
    logging.getLogger("normpipe").handlers.clear()


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = CompactNormalizer()
    torch.nn.init.uniform_(network.decoder.template)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    notes = {"network": "compact", "settings": network.settings()}
    save_tensors(network.state_dict(), path, notes)
    return path


@pytest.fixture(scope="session")
def samples() -> Path:
    return Path(str(files("normpipe.stages") / "samples"))


@contextmanager
def small_disk(room: int, code: int = errno.ENOSPC) -> Generator[None, None, None]:
    """Let shards be written up to ``room`` bytes in all; then fail as a disk does."""
    written = 0
    original = commit.PendingFile.write

    def write(self: Any, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > room:
            raise OSError(code, os.strerror(code))
        return original(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit.PendingFile, "write", write)
        yield


@pytest.fixture
def settings(samples: Path, random_weights: Path) -> list[str]:
    """Command-line settings of a small job with several shards."""
    return [
        *("--input", str(samples)),
        *("--set", "ingest.shard_rows=5"),
        *("--set", "normalize.batch_size=4"),
        *("--set", f"normalize.weights={random_weights}"),
    ]
