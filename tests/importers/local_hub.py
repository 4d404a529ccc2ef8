"""As much of the Hugging Face hub's HTTP protocol as a download needs, on a local port."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Serves directories as repositories and remembers what it was asked.

    `cuts` maps a file name to the number of bytes after which its next download breaks off, once;
    the files in `forbidden` may be listed but not downloaded.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.cuts: dict[str, int] = {}
        self.forbidden: set[str] = set()
        self.downloads: list[tuple[str, str | None]] = []  # file name, its Range header
        self.url = ""

    def answer(self, path: str) -> tuple[int, Any]:
        """Status, and a JSON value or the path of a file."""
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?", path):
            repo, kind = found.groups()
            if repo in self.repositories:
                files = sorted(p for p in self.repositories[repo].iterdir() if p.is_file())
                return 200, _listing(files) if kind == "tree" else _about(repo, files)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            repo, name = found.groups()
            if name in self.forbidden:
                return 403, {"error": "Access denied"}
            if repo in self.repositories and (self.repositories[repo] / name).is_file():
                return 200, self.repositories[repo] / name
        return 404, {"error": "Repository not found"}


def _about(repo: str, files: list[Path]) -> dict[str, Any]:
    return {
        "id": repo,
        "modelId": repo,
        "sha": COMMIT,
        "private": False,
        "siblings": [{"rfilename": p.name} for p in files],
    }


def _listing(files: list[Path]) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)} for p in files
    ]


@cache
def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def do_GET(self) -> None:
            self._reply(with_body=True)

        def _reply(self, *, with_body: bool) -> None:
            status, value = hub.answer(urlsplit(self.path).path)
            headers = {"X-Repo-Commit": COMMIT}
            if isinstance(value, Path):
                body = value.read_bytes()
                headers |= {"ETag": f'"{_etag(value)}"', "Accept-Ranges": "bytes"}
                if with_body:
                    status, body = self._part(value.name, body, headers)
            else:
                body = json.dumps(value).encode()
                headers["Content-Type"] = "application/json"
                if status == 404:
                    headers["X-Error-Code"] = "RepoNotFound"
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not with_body:
                return
            cut = hub.cuts.pop(Path(urlsplit(self.path).path).name, None)
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

        def _part(self, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
            asked = self.headers.get("Range")
            hub.downloads.append((name, asked))
            if asked is None:
                return 200, body
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            return 206, body[begin:]

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(hub: LocalHub) -> Iterator[None]:
    """Answer at `hub.url` until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
