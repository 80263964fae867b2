"""Addresses in lists: fetched within limits where allowed, from http and https alone."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from normpipe.manifests.vocabularies import SampleError
from normpipe.stages.ingest import Ingest, IngestConfig
from normpipe.stages.sources.containers.addresses import fetch_url, is_fetchable, is_url
from normpipe.stages.sources.fetching import SourceReader


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        place = self.path.strip("/")
        if place.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", place.removeprefix("to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif place == "gone":
            self.send_error(404)
        elif place == "broken":
            self.send_error(500)
        elif place == "slow header":
            pass
        elif place in ("drip", "drip-header"):
            self._drip(place == "drip-header")
        elif place == "endless":
            self.send_response(200)
            self.end_headers()
            while self._write(bytes(65536)):
                pass
        else:
            body = {"good": b"picture", "empty": b"", "short": b"half"}[place]
            self.send_response(200)
            self.send_header("Content-Length", "100" if place == "short" else str(len(body)))
            self.end_headers()
            self._write(body)
            self.close_connection = place == "short"

    def _drip(self, header: bool) -> None:
        if not header:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
        while self._write(b"x"):
            time.sleep(0.05)

    def _write(self, data: bytes) -> bool:
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True
            return False
        return True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def why(address: str, seconds: float = 5.0) -> str:
    with pytest.raises(SampleError) as caught:
        fetch_url(address, 1000, seconds)
    return caught.value.reason


def test_what_a_server_gives(server: str) -> None:
    assert fetch_url(f"{server}/good", 1000, 5.0) == b"picture"
    assert fetch_url(f"{server}/to/{server}/good", 1000, 5.0) == b"picture"
    assert why(f"{server}/gone") == "missing_file"
    assert why(f"{server}/broken") == "url_failed"
    assert why(f"{server}/empty") == "empty_file"
    assert why(f"{server}/short") == "url_failed"
    assert why(f"{server}/endless") == "too_many_bytes"
    assert why("http://127.0.0.1:9/closed") == "url_failed"
    with pytest.raises(SampleError, match="7 > 3"):
        fetch_url(f"{server}/good", 3, 5.0)


@pytest.mark.parametrize("place", ["drip", "drip-header"])
def test_a_server_that_drips_is_cut_off(server: str, place: str) -> None:
    begun = time.monotonic()
    assert why(f"{server}/{place}", 0.5) == "url_failed"
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "http://me:secret@127.0.0.1/"]
)
def test_redirects_lead_to_no_other_kind(server: str, target: str) -> None:
    assert why(f"{server}/to/{target}") == "url_not_allowed"


@pytest.mark.parametrize(
    "address",
    [
        *(
            "file:///etc/hostname",
            "ftp://host/a.jpg",
            "s3://bucket/a.jpg",
            "data:image/png;base64,",
        ),
        *("http://me:word@host/a.jpg", "http:///a.jpg", "http://[::1/a.jpg", "http://host:x/a.jpg"),
        *(
            "http://host/a b.jpg",
            "http://host/a\r\nX: y",
            "http://host/\N{LATIN SMALL LETTER E}\u0301",
        ),
    ],
)
def test_what_is_never_fetched(address: str) -> None:
    assert is_url(address) and not is_fetchable(address)
    assert why(address) == "url_not_allowed"


def test_names_of_files_are_no_addresses() -> None:
    assert not any(map(is_url, ("a.jpg", "http:/a.jpg", "a/https://b", "C:\\a.jpg", "x:y.jpg")))


def scan(folder: Path, paths: list[str], **settings: Any) -> dict[str, Any]:
    (folder / "list.csv").write_text("path\n" + "\n".join(paths) + "\n")
    table = Ingest(IngestConfig(**settings), folder / "list.csv", "set").scan().rows
    return {row["path"]: row for row in table.to_pylist()}


def test_a_list_s_addresses_need_leave(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = f"{server}/good", "file:///etc/hostname"
    rows = scan(tmp_path, [good, other])
    assert [rows[path]["reason"] for path in (good, other)] == ["url_not_allowed"] * 2
    assert "2 listed paths are addresses: --allow-urls" in caplog.text
    rows = scan(tmp_path, [good, other], allow_urls=True)
    assert rows[good]["status"] == "ok" and rows[good]["size_bytes"] is None
    assert rows[good]["key"] == f"set/{good}"
    assert rows[other]["reason"] == "url_not_allowed"
    assert SourceReader(tmp_path, 1000, 5.0, allow_urls=True).read(rows[good]) == b"picture"
    with pytest.raises(SampleError) as caught:
        SourceReader(tmp_path, 1000, 5.0, allow_urls=False).read(rows[good])
    assert caught.value.reason == "url_not_allowed"
