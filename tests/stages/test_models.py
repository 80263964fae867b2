"""Weights and packs by digest: what is known, downloads from a local server, pins of a job."""

import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from normpipe.pipeline.errors import InputError
from normpipe.stages.align import Align, AlignConfig
from normpipe.stages.checks import models
from normpipe.stages.checks.downloads import fetch, partial_path
from normpipe.stages.checks.model_files import check_packs
from normpipe.stages.faces.packs import PACKS, pack_files
from normpipe.stages.normalize import Normalize, NormalizeConfig

ASSETS = Path(os.environ.get("NORMPIPE_TEST_ASSETS", Path(__file__).parents[2] / "../shared"))
NETWORKS = {"det_10g.onnx": b"detection" * 4000, "w600k_r50.onnx": b"recognition" * 4000}


class Server(ThreadingHTTPServer):
    """Serves one file at any path. ``breaks_after``: bytes, once; ``ranges``: honours Range."""

    data = b""
    breaks_after: int | None = None
    ranges = True
    pause_seconds = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/pack.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        time.sleep(server.pause_seconds)
        if "absent" in self.path:
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and server.ranges else 0
        if wanted and server.ranges:
            if start >= len(server.data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.data)}")
                self.end_headers()
                return
            self.send_response(206)
            last = len(server.data) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        else:
            self.send_response(200)
        body = server.data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, server.breaks_after = server.breaks_after, None
        self.wfile.write(body[:cut])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        made.data = packed(NETWORKS)
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def packed(files: dict[str, bytes], folder: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{folder}{name}", data)
    return stream.getvalue()


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def get(folder: Path, server: Server, **settings: Any) -> Path:
    wanted = {"accept": True, "url": server.url, **settings}
    return models.get_pack("buffalo_l", folder, **wanted)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_pack_appears_whole_and_is_recorded(tmp_path: Path, server: Server) -> None:
    target = get(tmp_path, server, sha256=digest(server.data))
    assert {path.name: path.read_bytes() for path in target.glob("*.onnx")} == NETWORKS
    record = json.loads((target / "normpipe.json").read_text())
    assert record["archive_sha256"] == digest(server.data) and record["url"] == server.url
    assert names(tmp_path) == ["buffalo_l", models.ACCEPTED]
    assert [file.state for file in pack_files(tmp_path)] == ["as recorded"] * 2
    assert get(tmp_path, server) == target and len(server.asked) == 1
    with pytest.raises(InputError, match="is there already"):
        get(tmp_path, server, sha256="0" * 64)
    with (target / "det_10g.onnx").open("ab") as stream:
        stream.write(b"x")
    changed, same = pack_files(tmp_path)
    assert (changed.state, same.state) == ("not as recorded", "as recorded")
    assert [one.verdict for one in check_packs(tmp_path)] == ["warn", "yes"]


def test_an_archive_may_hold_a_folder(tmp_path: Path, server: Server) -> None:
    server.data = packed({**NETWORKS, "../__MACOSX/x": b""}, "buffalo_l/")
    assert {path.name for path in get(tmp_path, server).glob("*.onnx")} == set(NETWORKS)
    assert names(tmp_path) == ["buffalo_l", models.ACCEPTED]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_broke_off(
    tmp_path: Path, server: Server, ranges: bool
) -> None:
    server.ranges, server.breaks_after = ranges, 30_000
    with pytest.raises(InputError, match=r"broke after 30,000 of .*run the same command again"):
        get(tmp_path, server)
    assert partial_path(tmp_path / "buffalo_l.zip").stat().st_size == 30_000
    assert not (tmp_path / "buffalo_l").exists()
    get(tmp_path, server, sha256=digest(server.data))
    assert server.asked == [None, "bytes=30000-"]


def test_a_part_that_is_whole_or_too_long(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "file"
    partial_path(path).write_bytes(server.data)
    assert fetch(server.url, path, digest(server.data)) == digest(server.data)
    assert path.read_bytes() == server.data
    partial_path(path).write_bytes(server.data + b"more")
    assert fetch(server.url, path) == digest(server.data)
    assert path.read_bytes() == server.data and not partial_path(path).exists()


def test_another_file_is_refused_and_removed(tmp_path: Path, server: Server) -> None:
    with pytest.raises(InputError, match="gave a file with sha256") as caught:
        get(tmp_path, server, sha256="0" * 64)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == [models.ACCEPTED]


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        packed(NETWORKS).replace(b"detection", b"xx"),
        packed(NETWORKS).replace(b"detection", b"detectiom"),
    ],
)
def test_a_broken_archive_is_removed(tmp_path: Path, server: Server, data: bytes) -> None:
    server.data = data
    with pytest.raises(InputError, match=r"no whole \.zip"):
        get(tmp_path, server)
    assert names(tmp_path) == [models.ACCEPTED]


def test_an_archive_without_networks_is_removed(tmp_path: Path, server: Server) -> None:
    server.data = packed({"readme.txt": b"x"})
    with pytest.raises(InputError, match="no network"):
        get(tmp_path, server)
    assert names(tmp_path) == [models.ACCEPTED]


def test_terms_are_accepted_once(tmp_path: Path, server: Server) -> None:
    with pytest.raises(InputError, match=r"non-commercial research only.*--accept-licence"):
        get(tmp_path, server, accept=False)
    assert not server.asked
    get(tmp_path, server)
    models.get_pack("buffalo_s", tmp_path, accept=False, url=server.url)


def test_what_cannot_be_downloaded_is_one_line(tmp_path: Path, server: Server) -> None:
    with pytest.raises(InputError, match="did you mean 'buffalo_l'"):
        models.get_pack("bufalo_l", tmp_path, True)
    with pytest.raises(InputError, match="no pack 'mini' can be downloaded"):
        models.get_pack("mini", tmp_path, True)
    with pytest.raises(InputError, match="404"):
        get(tmp_path, server, url=server.url + "/absent")
    with pytest.raises(InputError, match="http://"):
        get(tmp_path, server, url=Path(__file__).as_uri())
    with pytest.raises(InputError, match="refused"):
        get(tmp_path, server, url="http://127.0.0.1:9/pack.zip")


def test_insightface_says_where_its_packs_are() -> None:
    assert models._address("buffalo_l.zip").endswith("/model-zoo/buffalo_l.zip")


def test_two_processes_at_once_give_one_good_pack(tmp_path: Path, server: Server) -> None:
    server.pause_seconds = 1.0  # the second one comes while the first one is at it
    code = (
        "import sys; from pathlib import Path; from normpipe.stages.checks.models import get_pack; "
        "get_pack('buffalo_l', Path(sys.argv[1]), True, sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(tmp_path), server.url]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
    assert len(server.asked) == 1
    assert [file.state for file in pack_files(tmp_path)] == ["as recorded"] * 2


def test_the_list_names_what_is_here_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/det.onnx").write_bytes(b"x")
    found = {(one.name, one.file): one for one in models.known_models(tmp_path)}
    assert found["compact", "compact.safetensors"].state == "as recorded"
    assert found["mine", "det.onnx"].state == "no digest recorded"
    assert found["buffalo_l", ""].state == "not here"
    assert "non-commercial" in found["buffalo_l", ""].line()
    assert digest(b"x") in found["mine", "det.onnx"].line()


@pytest.mark.assets
def test_the_test_pack_is_the_recorded_one() -> None:
    folder = ASSETS / "insightface/models"
    if not folder.is_dir():
        pytest.skip(f"no packs at {folder} (set NORMPIPE_TEST_ASSETS)")
    here = {file.name: file.state for file in pack_files(folder) if file.pack == "mini"}
    assert here == dict.fromkeys(PACKS["mini"].digests, "as recorded")
    pin = PACKS["mini"].digests["det_500m_kps.onnx"]
    settings = {"detector": "insightface", "pack": str(folder / "mini"), "device": "cpu"}
    Align(AlignConfig(**settings, pack_sha256=pin), folder).open()
    with pytest.raises(InputError, match=r"align\.pack_sha256 pins 0000"):
        Align(AlignConfig(**settings, pack_sha256="0" * 64), folder).open()


def test_pinned_weights_stop_the_run_when_they_are_others() -> None:
    pin = next(one.sha256 for one in models.known_models(Path("none")) if one.name == "compact")
    Normalize(NormalizeConfig(device="cpu", weights_sha256=pin)).open()
    with pytest.raises(InputError, match=r"normalize\.weights_sha256 pins 0000") as caught:
        Normalize(NormalizeConfig(device="cpu", weights_sha256="0" * 64)).open()
    assert "\n" not in str(caught.value)


def test_a_pin_is_a_digest_of_a_pack_that_is_used() -> None:
    with pytest.raises(ValueError, match="pattern"):
        NormalizeConfig(weights_sha256="abc")
    with pytest.raises(ValueError, match=r"set align\.detector=insightface"):
        AlignConfig(pack_sha256="0" * 64)
