import asyncio

import pytest

from llmedge.serve.guard import Guard, GuardOptions


def status(host: bytes | None, *allowed: str) -> int:
    """Send one request through a guard; 200 when it is passed on."""
    sent: list[dict[str, object]] = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    headers = [] if host is None else [(b"host", host)]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    guard = Guard(app, GuardOptions(hosts=frozenset(allowed)))
    asyncio.run(guard(scope, receive, send))  # type: ignore[arg-type]
    return int(str(sent[0]["status"]))


@pytest.mark.parametrize("host", [b"localhost", b"localhost:80", b"[::1]", b"[::1]:8080"])
def test_allowed_hosts_pass_with_any_port(host: bytes):
    assert status(host, "localhost", "::1") == 200


@pytest.mark.parametrize(
    "host", [None, b"", b"evil", b"localhost.evil", b"evil:localhost", b"[::2]"]
)
def test_other_hosts_are_refused(host: bytes | None):
    assert status(host, "localhost", "::1") == 400


def test_a_star_allows_all():
    assert status(b"anything", "*") == 200
