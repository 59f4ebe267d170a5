"""Server-sent events, several answers as one stream, and the end of work for a client that left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence

    from starlette.requests import Request
    from starlette.types import Message, Send

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_S = 15.0

_MAX_WAITING_ITEMS = 64


class ClientLeft(Exception):  # noqa: N818 - what happened
    """The client closed the connection before it had its answer."""


class PartsResponse(StreamingResponse):
    """A response that comes in parts, and ends what makes them however it ends itself.

    Starlette stops reading when the client leaves, and leaves the rest to the garbage collector.

    Args:
        parts: What to send, each part at once.
        headers: Further headers.
        media_type: What the parts make up.
        ping: Sent whenever there was no part for a while; `None` sends nothing.
        ping_s: How long that is.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        headers: dict[str, str],
        media_type: str,
        ping: bytes | None = None,
        ping_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._parts = parts
        self._ping, self._ping_s = ping, ping_s
        self._last_s = 0.0
        # Nginx and its kin hold a stream back unless they are told not to.
        own = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(parts, headers={**headers, **own}, media_type=media_type)

    async def stream_response(self, send: Send) -> None:
        """Send all parts."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        loop = asyncio.get_running_loop()
        self._last_s = loop.time()
        pinger = (
            None if self._ping is None else loop.create_task(self._send_pings(send, self._ping))
        )
        try:
            async for part in self._parts:
                self._last_s = loop.time()
                await send(_body(part))
        finally:
            if pinger is not None:
                pinger.cancel()
            await close(self._parts)
        await send(_body(b"", more=False))

    async def _send_pings(self, send: Send, ping: bytes) -> None:
        # Beside the parts, so that these need no task and no timer each.
        loop = asyncio.get_running_loop()
        while True:
            rest_s = self._last_s + self._ping_s - loop.time()
            if rest_s <= 0:
                self._last_s = loop.time()
                await send(_body(ping))
            else:
                await asyncio.sleep(rest_s)


def event_stream(
    events: AsyncIterator[bytes],
    headers: dict[str, str],
    ping: bytes = KEEP_ALIVE,
    ping_s: float = KEEP_ALIVE_S,
) -> PartsResponse:
    """Return a response of server-sent events, with a sign of life while there are none."""
    return PartsResponse(events, headers, "text/event-stream", ping, ping_s)


def encode_event(payload: object) -> bytes:
    """Encode one event; JSON has no raw line ends, so it is always one line."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def merge(sources: Sequence[AsyncIterator[ItemT]]) -> AsyncGenerator[tuple[int, ItemT], None]:
    """Yield what several iterators yield, as it comes, each with the iterator's index.

    What fails in one of them is raised, and ends all. A reader that is slow lets them wait.

    Args:
        sources: Closed at the end, however it comes.
    """
    return _only(sources[0]) if len(sources) == 1 else _side_by_side(sources)


async def _only(source: AsyncIterator[ItemT]) -> AsyncGenerator[tuple[int, ItemT], None]:
    try:
        async for item in source:
            yield 0, item
    finally:
        await close(source)


async def _side_by_side(
    sources: Sequence[AsyncIterator[ItemT]],
) -> AsyncGenerator[tuple[int, ItemT], None]:
    queue: asyncio.Queue[tuple[int, ItemT] | BaseException | None] = asyncio.Queue(
        _MAX_WAITING_ITEMS
    )

    async def pump(index: int, source: AsyncIterator[ItemT]) -> None:
        try:
            async for item in source:
                await queue.put((index, item))
        except Exception as error:  # noqa: BLE001 - raised where the items are read
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(i, source)) for i, source in enumerate(sources)]
    n_open = len(tasks)
    try:
        while n_open:
            word = await queue.get()
            if word is None:
                n_open -= 1
            elif isinstance(word, BaseException):
                raise word
            else:
                yield word
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_all(sources)


async def gather(work: Sequence[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
    """Do several things at once; what fails first is raised, and ends all."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def close_all(sources: Sequence[AsyncIterator[Any]]) -> None:
    """Close iterators that are not read to their end; this cancels what they stand for."""
    for source in sources:
        await close(source)


async def close(source: AsyncIterator[Any]) -> None:
    """Close an iterator, however far it is; one that has no end of its own stays."""
    if (aclose := getattr(source, "aclose", None)) is not None:
        await aclose()


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
        # What the work reads cannot be closed before the work has let go of it.
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
