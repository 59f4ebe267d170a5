import asyncio
from collections.abc import AsyncIterator

import pytest

from llmedge.core.errors import UsageError
from llmedge.serve.exchange import Pinged, require_small
from llmedge.serve.requests import ignored_header


def test_a_ping_fills_each_silence_and_nothing_is_lost():
    async def events() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0.25)
        yield b"b"
        yield b"c"

    async def read() -> list[bytes]:
        return [event async for event in Pinged(events(), b"ping", every_s=0.1)]

    assert asyncio.run(read()) == [b"a", b"ping", b"ping", b"b", b"c"]


def test_who_stops_reading_in_a_silence_ends_what_makes_the_events():
    ended: list[bool] = []

    async def events() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def leave() -> None:
        pinged = Pinged(events(), b"ping", every_s=0.05)
        assert [await anext(pinged), await anext(pinged)] == [b"a", b"ping"]
        await pinged.aclose()
        await pinged.aclose()

    asyncio.run(leave())
    assert ended == [True]


def test_an_error_comes_through():
    async def events() -> AsyncIterator[bytes]:
        yield b"a"
        raise UsageError("wrong")

    async def read() -> None:
        async for _ in Pinged(events(), b"ping"):
            pass

    with pytest.raises(UsageError, match="wrong"):
        asyncio.run(read())


def test_only_names_that_are_safe_in_a_header_are_told():
    names = ["options.num_gpu", "a\r\nSet-Cookie: x", "ü", *(f"n{i}" for i in range(40))]
    (value,) = ignored_header(names).values()
    assert value.startswith("options.num_gpu, n0, ")
    assert value.endswith("n30, 11 more")
    assert ignored_header([]) == {}


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "x"]}, [[]] * 100, (1 << 64) - 1])
def test_a_small_value_is_small(value: object):
    require_small(value, "it")


def test_values_that_are_deep_large_or_of_huge_numbers_are_refused():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, [0] * 20_001, {"a": 1 << 64}, [-(1 << 63) - 1]):
        with pytest.raises(UsageError, match="it "):
            require_small(value, "it")
