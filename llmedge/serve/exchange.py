"""What the dialects' handlers share: a request's body in, a response or a stream out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
from starlette.responses import Response, StreamingResponse

from llmedge.core.errors import LlmedgeError, UsageError
from llmedge.engine.generation import Started
from llmedge.serve.answer import Answer, collect
from llmedge.serve.errors import error_response
from llmedge.serve.requests import decode_request
from llmedge.serve.stream import KEEP_ALIVE, KEEP_ALIVE_S, unless_client_leaves

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from llmedge.serve.answer import ChatPart

    Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
ResultT = TypeVar("ResultT")

_MAX_DEPTH = 64
_MAX_VALUES = 20_000


def shaped(handler: Handler, refuse: Callable[[LlmedgeError], Response]) -> Handler:
    """Return a handler whose errors are answered in its dialect's own form."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except LlmedgeError as error:
            return refuse(error)

    return endpoint


async def read_request(request: Request, kind: type[RequestT]) -> tuple[RequestT, list[str]]:
    """Read and decode a request's body.

    Args:
        request: Its content type and size have been checked by the guard.
        kind: What it must be.

    Returns:
        The request, and the names of its fields that are not known and thus ignored.

    Raises:
        UsageError: The body is not JSON, or a field has the wrong type.
    """
    return decode_request(await request.body(), kind)


def convert(value: object, kind: type[RequestT], where: str) -> RequestT:
    """Turn a part of a request that was left open into what it must be.

    Raises:
        UsageError: It is something else.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where} is not valid: {error}") from None


def require_small(value: object, where: str) -> None:
    """Make sure that an open JSON value (a schema, arguments) can be walked and written again.

    Raises:
        UsageError: It is nested too deep, too large, or has a number that JSON's readers refuse.
    """
    waiting: list[tuple[object, int]] = [(value, 0)]
    n_values = 0
    while waiting:
        item, depth = waiting.pop()
        n_values += 1
        if depth > _MAX_DEPTH or n_values > _MAX_VALUES:
            raise UsageError(
                f"{where} is nested deeper than {_MAX_DEPTH} or has more than {_MAX_VALUES} values"
            )
        children: list[Any] = []
        if isinstance(item, dict):
            children = list(item.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        elif isinstance(item, list):
            children = item  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(item, int) and not -(1 << 63) <= item < 1 << 64:
            raise UsageError(f"{where} has a whole number of more than 64 bits")
        waiting += [(child, depth + 1) for child in children]


def json_response(
    payload: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a response with a JSON body."""
    return Response(msgspec.json.encode(payload), status, headers, media_type="application/json")


def refusal(error: LlmedgeError, payload: object) -> Response:
    """Return an error in a dialect's own form, with the status and headers it has everywhere."""
    usual = error_response(error)
    response = json_response(payload, status=usual.status_code)
    if (seconds := usual.headers.get("retry-after")) is not None:
        response.headers["retry-after"] = seconds
    return response


async def start(request: Request, parts: AsyncIterator[ChatPart]) -> Started:
    """Wait until an answer has begun: one that cannot be given gets its status, not a stream."""
    part = await unless_client_leaves(request, _first(parts))
    if not isinstance(part, Started):
        raise RuntimeError("the answer did not start")
    return part


async def whole(request: Request, parts: AsyncIterator[ChatPart]) -> Answer:
    """Wait for a whole answer, unless the client leaves."""
    return await unless_client_leaves(request, ending(parts, collect(parts)))


async def ending(parts: AsyncIterator[Any], work: Awaitable[ResultT]) -> ResultT:
    """Do work that reads parts, and end them when it is over, however it ends."""
    try:
        return await work
    finally:
        await close(parts)


async def close(parts: AsyncIterator[Any]) -> None:
    """End an answer, however far it is; an iterator that has no end of its own stays."""
    if (aclose := getattr(parts, "aclose", None)) is not None:
        await aclose()


def event_stream(
    events: AsyncIterator[bytes], headers: dict[str, str], ping: bytes = KEEP_ALIVE
) -> Response:
    """Return a response of server-sent events, with a sign of life while there are none."""
    return PartsResponse(Pinged(events, ping), headers, "text/event-stream")


class PartsResponse(StreamingResponse):
    """A response that comes in parts, and ends what makes them however it ends itself.

    Starlette stops reading when the client leaves, and leaves the rest to the garbage collector.
    """

    def __init__(self, source: Pinged, headers: dict[str, str], media_type: str) -> None:
        self._source = source
        headers = {**headers, "Cache-Control": "no-store"}
        super().__init__(source, headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all parts."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


class Pinged:
    """Passes parts on, and a ping whenever there was none for a while.

    Args:
        parts: What to pass on.
        ping: Sent in each silence; `None` sends nothing.
        every_s: How long a silence is.
    """

    def __init__(
        self, parts: AsyncIterator[bytes], ping: bytes | None = None, every_s: float = KEEP_ALIVE_S
    ) -> None:
        self._parts = parts
        self._ping = ping
        self._every_s = None if ping is None else every_s
        self._step: asyncio.Task[bytes | None] | None = None

    def __aiter__(self) -> Pinged:
        return self

    async def __anext__(self) -> bytes:
        """Return the next part, or a ping."""
        if self._step is None:
            self._step = asyncio.create_task(self._next())
        await asyncio.wait({self._step}, timeout=self._every_s)
        if self._ping is not None and not self._step.done():
            return self._ping
        step, self._step = self._step, None
        if (part := step.result()) is None:
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """End what makes the parts, also while it makes one."""
        if self._step is not None:
            self._step.cancel()
            await asyncio.wait({self._step})
        await close(self._parts)

    async def _next(self) -> bytes | None:
        return await anext(self._parts, None)


def event_bytes(name: str, payload: object) -> bytes:
    """Encode one event with a name; JSON has no raw line ends, so its data is one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(payload))


async def _first(parts: AsyncIterator[ChatPart]) -> ChatPart:
    try:
        return await anext(parts)
    except BaseException:
        await close(parts)
        raise
