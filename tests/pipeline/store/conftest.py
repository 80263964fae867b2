"""An object store to test with."""

from collections.abc import Iterator

import pytest

from ..stores import BUCKET, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An S3 server, which this process's clients find by their environment."""
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3")) as needed:
        for name, value in needed.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def address(server: None, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name}/out"
