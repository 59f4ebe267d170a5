import asyncio
import json

import pytest

from llmedge.core.errors import UsageError
from llmedge.serve.schema import ErrorBody, ErrorResponse
from llmedge.serve.stream import (
    ClientLeft,
    PartsResponse,
    encode_event,
    merge,
    unless_client_leaves,
)


class FakeRequest:
    """A request whose client leaves after a while."""

    def __init__(self, leaves_after_s: float) -> None:
        self.leaves_after_s = leaves_after_s

    async def receive(self) -> dict[str, str]:
        await asyncio.sleep(self.leaves_after_s)
        return {"type": "http.disconnect"}


def run(work_s: float, leaves_after_s: float) -> tuple[object, list[str]]:
    log: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(work_s)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return "done"

    async def main() -> object:
        try:
            return await unless_client_leaves(FakeRequest(leaves_after_s), work())  # type: ignore[arg-type]
        finally:
            await asyncio.sleep(0)

    return asyncio.run(main()), log


def test_work_that_ends_first_is_the_result():
    assert run(0.01, 10) == ("done", [])


def test_a_client_that_leaves_first_cancels_the_work():
    with pytest.raises(ClientLeft):
        run(10, 0.01)


def test_an_event_is_one_line_of_json():
    data = encode_event(ErrorResponse(ErrorBody("line\nbreak\u2028 and नमस्ते", "server_error")))
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    assert json.loads(data[6:])["error"]["message"] == "line\nbreak\u2028 and नमस्ते"


async def counted(name: str, n: int, closed: list[str]):
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield f"{name}{i}"
    finally:
        closed.append(name)


def test_several_iterators_are_read_side_by_side_and_closed():
    closed: list[str] = []

    async def main() -> list[object]:
        return [item async for item in merge([counted("a", 100, closed), counted("b", 3, closed)])]

    items = asyncio.run(main())
    assert [item for item in items if item[0] == 0] == [(0, f"a{i}") for i in range(100)]
    assert [item for item in items if item[0] == 1] == [(1, f"b{i}") for i in range(3)]
    assert sorted(closed) == ["a", "b"]


def test_who_stops_reading_closes_all_also_what_was_begun_elsewhere():
    closed: list[str] = []

    async def main() -> None:
        sources = [counted("a", 10**9, closed), counted("b", 10**9, closed)]
        for source in sources:
            await anext(source)
        merged = merge(sources)
        await anext(merged)
        await merged.aclose()

    asyncio.run(main())
    assert sorted(closed) == ["a", "b"]


def test_a_failure_in_one_is_raised_and_ends_all():
    closed: list[str] = []

    async def fails():
        yield "x"
        raise KeyError("broken")

    async def main() -> None:
        async for _ in merge([counted("a", 10**9, closed), fails()]):
            pass

    with pytest.raises(KeyError):
        asyncio.run(main())
    assert closed == ["a"]


def sent_by(parts, *, leaves_after: int | None = None) -> list[bytes]:
    """Return the bodies that a response sends; the client may leave after some."""
    bodies: list[bytes] = []
    left = asyncio.Event()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            bodies.append(message["body"])  # type: ignore[arg-type]
            if len(bodies) == leaves_after:
                left.set()

    async def main() -> None:
        response = PartsResponse(parts, {}, "text/event-stream", b"ping", 0.1)
        await response({"type": "http"}, receive, send)  # type: ignore[arg-type]

    asyncio.run(main())
    return bodies


def test_a_ping_fills_each_silence_and_nothing_is_lost():
    async def events():
        yield b"a"
        await asyncio.sleep(1.0)
        yield b"b"
        yield b"c"

    bodies = sent_by(events())
    assert [body for body in bodies if body != b"ping"] == [b"a", b"b", b"c", b""]
    assert 3 <= bodies.count(b"ping") <= 9
    assert bodies[-3:] == [b"b", b"c", b""]


def test_a_client_that_leaves_in_a_silence_ends_what_makes_the_parts():
    ended: list[bool] = []

    async def events():
        try:
            yield b"a"
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    assert sent_by(events(), leaves_after=2) == [b"a", b"ping"]
    assert ended == [True]


def test_an_error_comes_through_and_no_end_is_sent():
    async def events():
        yield b"a"
        raise UsageError("wrong")

    with pytest.raises(UsageError, match="wrong"):
        sent_by(events())
