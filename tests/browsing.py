"""Pages as a real browser lays them out."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection, websocket_connect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Set by .ci/run: where it is, a test without a browser fails.
NEEDED = "NORMPIPE_TEST_BROWSER"


def _browser() -> str:
    """Return the browser's command; skip, or fail in CI, where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        missing = "no Chromium here: install it (Debian: apt-get install chromium)"
        if os.environ.get(NEEDED) == "required":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return browser


def _command(profile: Path) -> list[str]:
    return [
        _browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", f"--user-data-dir={profile}", "--window-size=1000,900",
    ]  # fmt: skip


def rendered(page: Path, profile: Path) -> str:
    """Return the page's document as Chromium has it; skip, or fail in CI, where there is none.

    ``profile``: a folder for the browser's own files.
    """
    command = [*_command(profile), "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


class Tab:
    """A page in a running browser, which a test drives as a person would."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop = loop
        self._numbers = itertools.count(1)
        #: Requests for anything but local files, and errors of the page.
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._socket = loop.run_until_complete(self._connect(address))
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    async def _connect(self, address: str) -> WebSocketClientConnection:
        return await websocket_connect(address, max_message_size=1 << 28)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol; return its result."""
        number = next(self._numbers)
        return self._loop.run_until_complete(self._call(number, method, params))

    async def _call(self, number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        message = {"id": number, "method": method, "params": params}
        await self._socket.write_message(json.dumps(message))
        while True:
            answer = json.loads(await asyncio.wait_for(self._socket.read_message(), 60) or "{}")
            self._note(answer)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _note(self, event: dict[str, Any]) -> None:
        found = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            url = found["request"]["url"]
            self.requests += [url] if not url.startswith(("file:", "data:", "blob:")) else []
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(found))
        if event.get("method") == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.errors.append(found["entry"]["text"])

    def run(self, script: str) -> Any:
        """Return the value of JavaScript in the page; a promise is awaited."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, page: Path, fragment: str = "") -> None:
        """Go to a page."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.as_uri() + fragment)

    def until(self, script: str, seconds: float = 60) -> Any:
        """Return the value of JavaScript once it is true."""
        end = time.monotonic() + seconds
        # While a page loads, it has no body and no functions yet.
        guarded = f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()"
        while not (found := self.run(guarded)):
            assert time.monotonic() < end, f"never true: {script}; {self.errors}"
            time.sleep(0.02)
        return found


@contextmanager
def browsing(profile: Path, downloads: Path | None = None) -> Iterator[Tab]:
    """Run a browser with one page; skip, or fail in CI, where there is none."""
    process = subprocess.Popen(
        [*_command(profile), "--remote-debugging-port=0", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    loop = asyncio.new_event_loop()
    try:
        file, end = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (file.is_file() and file.read_text().strip()):
            assert time.monotonic() < end and process.poll() is None, "the browser does not start"
            time.sleep(0.05)
        port = file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as stream:
            pages = [one for one in json.load(stream) if one["type"] == "page"]
        tab = Tab(loop, pages[0]["webSocketDebuggerUrl"])
        if downloads is not None:
            tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        yield tab
    finally:
        process.terminate()
        process.wait(60)
        loop.close()
