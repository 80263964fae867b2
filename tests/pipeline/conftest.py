"""The real job, small: the package's samples, the embedded detector, random weights."""

import logging
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from normpipe.stages.networks.checkpoint import save_tensors
from normpipe.stages.networks.compact import CompactNormalizer


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
    save_tensors(network.state_dict(), path, {})
    return path


@pytest.fixture(scope="session")
def samples() -> Path:
    return Path(str(files("normpipe.stages") / "samples"))


@pytest.fixture
def settings(samples: Path, random_weights: Path) -> list[str]:
    """Command-line settings of a small job with several shards."""
    return [
        *("--input", str(samples)),
        *("--set", "ingest.shard_rows=5"),
        *("--set", "normalize.batch_size=4"),
        *("--set", f"normalize.weights={random_weights}"),
    ]
