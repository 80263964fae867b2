"""A Hugging Face Hub for tests: the few answers that uploading a folder needs."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the server has seen. ``repos``: name → whether it is private."""

    address: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    branches: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    commits: int = 0
    broken: bool = False


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, value: Any, status: int = 200, **headers: str) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            self.wfile.write(data)

        def seen(self) -> tuple[str, bytes]:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            hub.tokens.add(self.headers.get("Authorization"))
            hub.asked.append(f"{self.command} {self.path}")
            return self.path.partition("?")[0], body

        def do_GET(self) -> None:
            path, _ = self.seen()
            repo = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/.*)?", path)
            if repo and repo[1] in hub.repos:
                found = {"id": repo[1], "private": hub.repos[repo[1]], "sha": "0" * 40}
                self.answer({**found, "siblings": [], "tags": []})
            else:
                self.answer({"error": "none"}, 404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            path, body = self.seen()
            if hub.broken:
                self.answer({"error": "no room here"}, 403)
            elif path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}"
                private = asked.get("private") or asked.get("visibility") == "private"
                hub.repos.setdefault(repo, bool(private))
                assert asked["type"] == "dataset"
                self.answer({"url": f"{hub.address}/datasets/{repo}"})
            elif path == "/api/validate-yaml":
                assert json.loads(body)["content"].startswith("---\n")
                self.answer({"errors": [], "warnings": []})
            elif "/branch/" in path:
                hub.branches.add(path.rpartition("/")[2])
                self.answer({})
            elif "/preupload/" in path:
                mode = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                files = [{**mode, "path": one["path"]} for one in json.loads(body)["files"]]
                self.answer({"files": files})
            elif "/commit/" in path:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        hub.files[entry["value"]["path"]] = content
                hub.commits += 1
                repo = path.removeprefix("/api/").partition("/commit/")[0]
                done = {"commitUrl": f"{hub.address}/{repo}/commit/1", "commitOid": "1" * 40}
                self.answer({**done, "success": True})
            else:
                self.answer({"error": path}, 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
