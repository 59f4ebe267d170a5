"""What the dialects' handlers share: a request's body in, a response or a stream out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
from starlette.responses import Response

from llmedge.core.errors import LlmedgeError, UsageError
from llmedge.engine.generation import Started
from llmedge.serve.answer import Answer, collect
from llmedge.serve.errors import error_response, internal_error, stream_error
from llmedge.serve.requests import decode_request
from llmedge.serve.stream import close, close_all, encode_event, gather, unless_client_leaves

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from starlette.requests import Request

    from llmedge.serve.answer import ChatPart

    Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger("llmedge.serve")

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


async def start_all(request: Request, sources: Sequence[AsyncIterator[Any]]) -> list[Started]:
    """Wait until answers have begun: what cannot be answered gets its status, not a stream."""
    try:
        return await unless_client_leaves(request, gather([_start(parts) for parts in sources]))
    except BaseException:
        await close_all(sources)
        raise


async def whole(request: Request, parts: AsyncIterator[ChatPart]) -> Answer:
    """Wait for a whole answer, unless the client leaves."""
    return await unless_client_leaves(request, ending(parts, collect(parts)))


async def ending(parts: AsyncIterator[Any], work: Awaitable[ResultT]) -> ResultT:
    """Do work that reads parts, and end them when it is over, however it ends."""
    try:
        return await work
    finally:
        await close(parts)


async def told(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass a stream on, and end it with what goes wrong in it: its status was sent long ago."""
    try:
        async for event in events:
            yield event
    except LlmedgeError as error:
        yield encode_event(stream_error(error))
    except Exception:  # noqa: BLE001 - a bug ends one stream, and its client is told
        _log.exception("bug in a stream")
        yield encode_event(internal_error())
    finally:
        await close(events)


def event_bytes(name: str, payload: object) -> bytes:
    """Encode one event with a name; JSON has no raw line ends, so its data is one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(payload))


async def _start(parts: AsyncIterator[Any]) -> Started:
    part = await anext(parts)
    if not isinstance(part, Started):
        raise RuntimeError("the answer did not start")
    return part
