"""The endpoint on a real socket, and a client that speaks to it, right or wrong."""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from llmedge.serve.pool import ModelSource
from llmedge.serve.server import ServeOptions, background_server
from tests.fakes import FakeEngine

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


class Client:
    """Speaks HTTP to the endpoint, right or wrong."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc

    def request(self, method: str, path: str, body: object = None, **headers: str):
        connection = http.client.HTTPConnection(self.host, timeout=20)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            names.setdefault("Content-Type", "application/json")
        connection.request(method, path, data, names)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text, response.headers

    def post(self, path: str, body: object, **headers: str):
        status, text, _ = self.request("POST", path, body, **headers)
        return status, json.loads(text)

    def get(self, path: str):
        status, text, _ = self.request("GET", path)
        return status, json.loads(text)

    def events(self, path: str, body: dict[str, object]) -> list[object]:
        status, text, headers = self.request("POST", path, {**body, "stream": True})
        assert status == 200, text
        assert headers["content-type"].startswith("text/event-stream")
        assert text.endswith("\n\n")
        # Comments keep the connection alive and are no events.
        blocks = [block for block in text[:-2].split("\n\n") if not block.startswith(":")]
        events = [block.removeprefix("data: ") for block in blocks]
        return [event if event == "[DONE]" else json.loads(event) for event in events]


@contextmanager
def serving(engine: FakeEngine | Sequence[ModelSource], **options) -> Iterator[Client]:
    with background_server(engine, ServeOptions(port=0, **options)) as url:
        yield Client(url)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
