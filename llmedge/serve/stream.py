"""Server-sent events, and the end of work for a client that has left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from starlette.requests import Request

ResultT = TypeVar("ResultT")

DONE = b"data: [DONE]\n\n"


class ClientLeft(Exception):  # noqa: N818 - what happened
    """The client closed the connection before it had its answer."""


class EventStream(StreamingResponse):
    """A response of server-sent events.

    Starlette cancels the iterator when the client leaves, which cancels the generation.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        super().__init__(events, headers={**headers, "Cache-Control": "no-store"})


def encode_event(payload: object) -> bytes:
    """Encode one event; JSON has no raw line ends, so it is always one line."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run work for a request, and cancel it when the client leaves.

    Args:
        request: Its body has been read.
        work: What to run.

    Raises:
        ClientLeft: The client left first.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_until_disconnect(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for future in (task, watcher):
            future.cancel()


async def _until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
