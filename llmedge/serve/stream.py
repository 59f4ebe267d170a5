"""Server-sent events, several answers as one stream, and the end of work for a client that left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence

    from starlette.requests import Request

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_S = 15.0

_MAX_WAITING_ITEMS = 64


class ClientLeft(Exception):  # noqa: N818 - what happened
    """The client closed the connection before it had its answer."""


class EventStream(StreamingResponse):
    """A response of server-sent events.

    Starlette cancels the iterator when the client leaves, which cancels the generation.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        # Nginx and its kin hold a stream back unless they are told not to.
        own = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers={**headers, **own})


def encode_event(payload: object) -> bytes:
    """Encode one event; JSON has no raw line ends, so it is always one line."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


async def merge(
    sources: Sequence[AsyncIterator[ItemT]], *, idle_s: float | None = None
) -> AsyncGenerator[tuple[int, ItemT] | None, None]:
    """Yield what several iterators yield, as it comes, each with the iterator's index.

    What fails in one of them is raised, and ends all. A reader that is slow lets them wait.

    Args:
        sources: Closed at the end, however it comes.
        idle_s: `None` is yielded after each so many seconds of silence.
    """
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
            try:
                async with asyncio.timeout(idle_s):
                    word = await queue.get()
            except TimeoutError:
                yield None
                continue
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


async def close_all(sources: Sequence[AsyncIterator[Any]]) -> None:
    """Close iterators that are not read to their end; this cancels what they stand for."""
    for source in sources:
        if (close := getattr(source, "aclose", None)) is not None:
            await close()


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
