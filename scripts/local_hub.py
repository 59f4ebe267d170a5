"""A hub on loopback over real HTTP, with the faults of a bad line: for tests and benchmarks.

It serves `ROOT/ORG/NAME/…` as huggingface_hub and llmedge ask for it. Every request is kept, with
what was sent of its body, which is what came over the wire.

Usage: python scripts/local_hub.py ROOT [PORT]
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_BYTES = 10_000
TOKEN = "hf_good"
_PIECE = 16 << 10
_RESOLVE = re.compile(r"/(?:cdn/)*([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_INFO = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+?)/tree/([^/]+)")


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        cut_bytes: The connection ends after so many bytes of a large file.
        flips: How many answers carry one wrong byte.
        ignores_range: Whether ranges are overlooked.
        bytes_per_s: How fast a body is sent.
        statuses: Answers to the next requests for files, instead of the file.
        headers: Sent with those answers.
        error_code: Sent with those as `X-Error-Code`.
        portal: Whether every answer is a login page.
        redirect: Where large files are, as `http://host:port`.
        gated: A repository whose files want the token.
    """

    cut_bytes: int = 0
    flips: int = 0
    ignores_range: bool = False
    bytes_per_s: int = 0
    statuses: list[int] = field(default_factory=list[int])
    headers: dict[str, str] = field(default_factory=dict[str, str])
    error_code: str = ""
    portal: bool = False
    redirect: str = ""
    gated: str = ""


@dataclass
class Request:
    """A request, and what it got."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent_bytes: int = 0


class LocalHub:
    """The server; a `with` block runs it on a thread.

    Args:
        root: Folder of `ORG/NAME/…`.
        faults: What goes wrong; may be changed while it runs.
        port: 0 takes a free one.
    """

    def __init__(self, root: Path, faults: Faults | None = None, port: int = 0) -> None:
        self.root, self.faults = root, faults or Faults()
        self.requests: list[Request] = []
        self._hashes: dict[tuple[str, int], str] = {}
        hub = self

        class Handler(_Handler):
            def setup(self) -> None:
                self.hub = hub
                super().setup()

        self._server = _Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        """Its port."""
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def body_bytes(self) -> int:
        """Return what was sent of files."""
        return sum(r.sent_bytes for r in self.requests if "/resolve/" in r.path)

    def file_requests(self) -> list[Request]:
        """Return the requests for files' bytes."""
        return [r for r in self.requests if "/resolve/" in r.path and r.method == "GET"]

    def files(self, repo: str) -> list[Path]:
        """Return a repository's files."""
        return sorted(path for path in (self.root / repo).rglob("*") if path.is_file())

    def commit(self, repo: str) -> str:
        """Return a repository's commit: a hash over its files."""
        facts = [f"{p.relative_to(self.root)}:{self.oid(p)}" for p in self.files(repo)]
        return hashlib.sha1("\n".join(facts).encode()).hexdigest()

    def oid(self, path: Path) -> str:
        """Return SHA-256 of a large file, git's blob hash of a small one."""
        status = path.stat()
        key = (str(path), status.st_mtime_ns)
        if key not in self._hashes:
            data = path.read_bytes()
            is_lfs = status.st_size >= LFS_BYTES
            git = hashlib.sha1(b"blob %d\0" % len(data) + data)
            self._hashes[key] = hashlib.sha256(data).hexdigest() if is_lfs else git.hexdigest()
        return self._hashes[key]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub
    entry: Request

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        self.entry = Request(self.command, path, self.headers.get("Range"), authorization)
        self.hub.requests.append(self.entry)
        if self.hub.faults.portal:
            page = b"<!DOCTYPE html><title>Log in to Cafe WiFi</title>" + b" " * 20_000
            self._send(200, page, {"Content-Type": "text/html; charset=utf-8"})
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match[1], match[2], match[3])
        elif match := _TREE.fullmatch(path):
            if self._may_read(match[1]):
                self._json(200, [self._entry(match[1], p) for p in self.hub.files(match[1])])
        elif match := _INFO.fullmatch(path):
            self._info(match[1], match[2] or "main")
        else:
            self._json(404, {"error": f"not here: {path}"})

    def _info(self, repo: str, revision: str) -> None:
        if not self._may_list(repo):
            return
        commit = self.hub.commit(repo)
        if revision not in ("main", commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = [self._sibling(repo, path) for path in self.hub.files(repo)]
        is_gated = "auto" if repo == self.hub.faults.gated else False
        self._json(
            200,
            {
                "_id": "0" * 24, "id": repo, "modelId": repo, "sha": commit, "private": False,
                "gated": is_gated, "disabled": False, "tags": ["license:apache-2.0"],
                "cardData": {"license": "apache-2.0"}, "downloads": 0, "likes": 0,
                "siblings": siblings,
            },
        )  # fmt: skip

    def _sibling(self, repo: str, path: Path) -> dict[str, object]:
        entry = self._entry(repo, path)
        found = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            lfs: Any = entry["lfs"]
            found["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 134}
        return found

    def _entry(self, repo: str, path: Path) -> dict[str, object]:
        oid, size = self.hub.oid(path), path.stat().st_size
        name = path.relative_to(self.hub.root / repo).as_posix()
        entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": oid}
        if size >= LFS_BYTES:
            entry["lfs"] = {"oid": oid, "size": size, "pointerSize": 134}
            entry["oid"] = hashlib.sha1(oid.encode()).hexdigest()
        return entry

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        faults, path = self.hub.faults, self.hub.root / repo / name
        if not self._may_read(repo):
            return
        if faults.statuses:
            status = faults.statuses.pop(0)
            self._refuse(status, faults.error_code, f"status {status}", faults.headers)
        elif revision not in ("main", self.hub.commit(repo)):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif faults.redirect and path.stat().st_size >= LFS_BYTES:
            place = f"{faults.redirect}/cdn{self.path}?Expires=1"
            self._send(302, b"", {**self._facts(repo, path), "Location": place})
        else:
            self._send_file(repo, path)

    def _facts(self, repo: str, path: Path) -> dict[str, str]:
        oid = self.hub.oid(path)
        facts = {"X-Repo-Commit": self.hub.commit(repo), "ETag": f'"{oid}"'}
        if path.stat().st_size >= LFS_BYTES:
            facts |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(path.stat().st_size)}
        return facts | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}

    def _send_file(self, repo: str, path: Path) -> None:
        data, headers = path.read_bytes(), self._facts(repo, path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, status = 0, 200
        if asked and not self.hub.faults.ignores_range:
            start, status = int(asked[1]), 206
            stop = min(int(asked[2]) + 1, len(data)) if asked[2] else len(data)
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data = data[start:stop]
        if self.hub.faults.flips > 0 and len(data) >= LFS_BYTES and self.command == "GET":
            self.hub.faults.flips -= 1
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        self._send(status, data, headers)

    def _may_list(self, repo: str) -> bool:
        if (self.hub.root / repo).is_dir():
            return True
        status = 404 if self.headers.get("Authorization") else 401
        self._refuse(status, "RepoNotFound", "Repository not found")
        return False

    def _may_read(self, repo: str) -> bool:
        given = self.headers.get("Authorization")
        if repo == self.hub.faults.gated and given != f"Bearer {TOKEN}":
            self._refuse(403 if given else 401, "GatedRepo", f"Access to {repo} is restricted.")
            return False
        return self._may_list(repo)

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self._json(status, {"error": message}, named | (headers or {}))

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(value).encode(), kind | (headers or {}))

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        faults, start = self.hub.faults, time.monotonic()
        cut = faults.cut_bytes if len(data) >= LFS_BYTES else 0
        for at in range(0, len(data), _PIECE):
            piece = data[at : min(at + _PIECE, cut or len(data))]
            self.wfile.write(piece)
            self.entry.sent_bytes += len(piece)
            if cut and at + _PIECE >= cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if faults.bytes_per_s:
                late = (at + len(piece)) / faults.bytes_per_s - (time.monotonic() - start)
                time.sleep(max(0.0, late))


def main() -> None:
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with LocalHub(Path(sys.argv[1]), port=port) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
