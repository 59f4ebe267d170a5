import asyncio
import json

import pytest

from llmedge.serve.schema import ErrorBody, ErrorResponse
from llmedge.serve.stream import ClientLeft, encode_event, merge, unless_client_leaves


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


def test_silence_is_noticed_again_and_again():
    async def slow():
        await asyncio.sleep(0.25)
        yield "x"

    async def main() -> list[object]:
        return [item async for item in merge([slow()], idle_s=0.1)]

    assert asyncio.run(main()) == [None, None, (0, "x")]
