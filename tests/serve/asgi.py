"""Asks an ASGI application without a socket, so that a part of the endpoint can be asked alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message


@dataclass(frozen=True)
class Reply:
    """What was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The stream's events, comments left out."""
        blocks = [block for block in self.body.decode().split("\n\n") if block.startswith("data: ")]
        texts = [block.removeprefix("data: ") for block in blocks]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


def scope_of(method: str, path: str, **headers: str) -> dict[str, Any]:
    names = {"host": "localhost", "content-type": "application/json", **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
        "client": ("127.0.0.1", 1234),
        "server": ("localhost", 80),
    }


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    body: object = None,
    *,
    leaves: asyncio.Event | None = None,
    **headers: str,
) -> Reply:
    """Ask once; the client leaves when it is told to, or when it has its answer."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    waiting: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope_of(method, path, **headers), receive, send)
    start, *parts = sent
    return Reply(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(part.get("body", b"") for part in parts),
    )
