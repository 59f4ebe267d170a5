"""Connections that are slow with their heads, on a real uvicorn protocol in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from llmedge.serve.head_deadline import protocol_with_head_deadline

DEADLINE_S = 0.3
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send) -> None:
    await asyncio.sleep(2 * DEADLINE_S if scope["path"] == "/slow" else 0)
    await PlainTextResponse("answered")(scope, receive, send)


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none")
    config.load()
    protocol, state = protocol_with_head_deadline(DEADLINE_S), ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        await asyncio.gather(*state.tasks)


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    """Read to the end; what is read is no answer."""
    start = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    return asyncio.get_running_loop().time() - start


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(8) == b"answered"
    return head


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HEAD[:-2]])
def test_a_head_that_does_not_come_ends_the_connection(sent: bytes):
    async def run() -> float:
        async with connection() as (reader, writer):
            writer.write(sent)
            return await seconds_until_closed(reader)

    assert DEADLINE_S / 2 < asyncio.run(run()) < 5


def test_bytes_that_trickle_in_do_not_move_the_deadline():
    async def run() -> int:
        async with connection() as (reader, writer):
            for n_sent in range(1, len(HEAD)):
                writer.write(HEAD[n_sent - 1 : n_sent])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DEADLINE_S / 4):
                        assert await reader.read() == b""
                        return n_sent
        raise AssertionError("it was never closed")

    assert 2 < asyncio.run(run()) < len(HEAD) - 5


def test_an_answer_may_take_longer_than_the_head():
    async def run() -> bytes:
        async with connection() as (reader, writer):
            writer.write(HEAD.replace(b"/", b"/slow", 1))
            return await answer(reader)

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200")


def test_the_next_head_of_a_connection_has_the_same_time():
    async def run() -> float:
        async with connection() as (reader, writer):
            for _ in range(2):
                writer.write(HEAD)
                await answer(reader)
            writer.write(HEAD[:9])
            return await seconds_until_closed(reader)

    assert DEADLINE_S / 2 < asyncio.run(run()) < 5


def test_a_connection_may_rest_between_its_requests():
    async def run() -> bytes:
        async with connection() as (reader, writer):
            for seconds in (1.5 * DEADLINE_S, 0):
                writer.write(HEAD)
                head = await answer(reader)
                await asyncio.sleep(seconds)
            return head

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200")
