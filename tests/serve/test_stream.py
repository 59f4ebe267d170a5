import asyncio
import json

import pytest

from llmedge.serve.schema import ErrorBody, ErrorResponse
from llmedge.serve.stream import ClientLeft, encode_event, unless_client_leaves


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
