"""Addresses in lists: refused, or fetched within limits if the job allows it."""

import http.client
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from ....manifests.vocabularies import SampleError

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://|^data:", re.ASCII)
_FETCHED = ("http", "https")
_CHUNK = 1 << 16
_GONE = (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE)


def is_url(path: str) -> bool:
    """Return whether a listed path is an address (``https://…``, ``file://…``), not a file name."""
    return _SCHEME.match(path) is not None


def is_fetchable(address: str) -> bool:
    """Return whether an address may be fetched: http or https, without a password."""
    try:
        parts = urllib.parse.urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    plain = address.isascii() and address.isprintable() and " " not in address
    return plain and parts.scheme in _FETCHED and bool(host) and "@" not in parts.netloc


def fetch_url(address: str, max_bytes: int, seconds: float) -> bytes:
    """Fetch an address and return its bytes.

    Redirects are followed to http and https only.

    Args:
        address: one that ``is_fetchable``.
        max_bytes: more is not read.
        seconds: time limit for the whole fetch, whatever the server does.

    Raises:
        SampleError: ``url_not_allowed``, ``url_failed``, ``missing_file`` (404), ``empty_file``,
            ``too_many_bytes``.
    """
    if not is_fetchable(address):
        raise SampleError("url_not_allowed", address)
    call = _Call(time.monotonic() + seconds)
    alarm = threading.Timer(seconds, call.end)
    alarm.daemon = True
    alarm.start()
    try:
        return call.fetch(address, max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        reason = "missing_file" if error.code in _GONE else "url_failed"
        if "is not allowed" in error.msg:  # urllib's message for redirects to files and the like
            reason = "url_not_allowed"
        raise SampleError(reason, f"{address}: {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SampleError("url_failed", f"{address}: {error}"[:200]) from None
    finally:
        alarm.cancel()
        call.end()


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any
    ) -> Any:
        if not is_fetchable(newurl):
            raise SampleError("url_not_allowed", f"{req.full_url} leads to {newurl}"[:200])
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Call(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """One fetch and its connections; shutting them down ends any call that waits for them."""

    def __init__(self, end: float) -> None:
        urllib.request.HTTPHandler.__init__(self)
        urllib.request.HTTPSHandler.__init__(self)
        self._end = end
        self._connections: list[http.client.HTTPConnection] = []
        self._ended = False

    def http_open(self, req: Any) -> Any:
        return self.do_open(self._plain, req)  # type: ignore[arg-type]

    def https_open(self, req: Any) -> Any:
        return self.do_open(self._secure, req)  # type: ignore[arg-type]

    def _plain(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._kept(http.client.HTTPConnection(host, **options))

    def _secure(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._kept(http.client.HTTPSConnection(host, **options))

    def _kept(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        self._connections.append(connection)
        return connection

    def fetch(self, address: str, max_bytes: int) -> bytes:
        opener = urllib.request.OpenerDirector()  # no file, ftp or data handlers in it
        for handler in (
            *(self, _Redirects(), urllib.request.ProxyHandler()),
            *(urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler()),
        ):
            opener.add_handler(handler)
        request = urllib.request.Request(address, headers={"User-Agent": "normpipe"})
        pieces: list[bytes] = []
        size = 0
        with opener.open(request, timeout=self._left()) as response:
            length = response.headers.get("Content-Length")
            if length is not None and length.isdigit() and int(length) > max_bytes:
                raise SampleError("too_many_bytes", f"{address}: {length} > {max_bytes}")
            while piece := response.read1(_CHUNK):
                self._left()
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes:
                    raise SampleError("too_many_bytes", f"{address}: more than {max_bytes}")
        if length is not None and length.isdigit() and size < int(length):
            raise SampleError("url_failed", f"{address}: {size} of {length} bytes")
        if not size:
            raise SampleError("empty_file", address)
        return b"".join(pieces)

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0 or self._ended:
            raise TimeoutError("took longer than the limit")
        return left

    def end(self) -> None:
        self._ended = True
        for connection in self._connections:
            connection.timeout = 0.0
            sock: Any = connection.sock
            if sock is not None:
                try:
                    sock.shutdown(2)
                except OSError:
                    continue
