"""A real S3 server in a process of its own (moto's), and what lies in it."""

import contextlib
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec

from normpipe.pipeline.store.lock import STORE_LOCK
from normpipe.pipeline.store.storage import location

from .clusters import wait_for

BUCKET = "faces"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start a server with an empty bucket; yield what its clients need in their environment."""
    log = folder / "s3.log"
    with log.open("w") as stream:
        # A port that is free, of the system's choice.
        command = [sys.executable, "-u", "-m", "moto.server", "-p", "0"]
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        found = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()))
        variables = {
            "AWS_ENDPOINT_URL": found[0],
            "AWS_ACCESS_KEY_ID": "of-tests",
            "AWS_SECRET_ACCESS_KEY": "of-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        client = boto3.client(
            "s3",
            endpoint_url=found[0],
            aws_access_key_id="of-tests",
            aws_secret_access_key="of-tests",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        # A client that was made for a server before, and is remembered, would look for that one.
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield variables
    finally:
        server.kill()
        server.wait()


def digests(address: str | Path) -> dict[str, str]:
    """Return path → sha256 of everything below an address but the lock."""
    root = location(address)
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.parent.name != STORE_LOCK
    }
