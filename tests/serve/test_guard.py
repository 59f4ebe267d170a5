"""Who may ask: keys, origins, sizes and times, on a real socket."""

import json
import socket
import time

import pytest

from llmedge.core.errors import UsageError
from llmedge.serve.guard import guard_for
from llmedge.serve.limits import Limits
from llmedge.serve.server import ServeOptions, bind
from tests.fakes import FakeEngine
from tests.serve.endpoint import CHAT, HELLO, Client, serving

KEYS = ("first-key-1234", "second-key-1234")
PAGE = "http://localhost:3000"


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def client(engine: FakeEngine):
    with serving(engine, api_keys=KEYS, origins=(PAGE,)) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEYS[0]}"},
        {"Authorization": f"bearer {KEYS[1]}"},
        {"X_Api_Key": KEYS[1]},
        {"Authorization": "Bearer wrong", "X_Api_Key": KEYS[0]},
    ],
)
def test_each_key_lets_in_by_either_header(client: Client, headers: dict[str, str]):
    assert client.post(CHAT, HELLO, **headers)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer first-key-123"},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"X_Api_Key": "é" * 14},
        {"X_Api_Key": ""},
    ],
)
def test_without_a_valid_key_nothing_is_told(client: Client, headers: dict[str, str]):
    for method, path, body in (("POST", CHAT, HELLO), ("GET", "/v1/models", None)):
        status, text, answer = client.request(method, path, body, **headers)
        assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")
        assert answer["www-authenticate"] == "Bearer"
    for path in ("/metrics", "/openapi.json", "/nothing", "/health/x", "/v1/models/fake:Q4_0"):
        assert client.request("GET", path, **headers)[0] == 401


def test_health_needs_no_key_and_tells_nothing_else(client: Client):
    for path in ("/health", "/ready"):
        assert client.get(path) == (200, {"status": "ok"})


def test_cached_prefixes_are_kept_apart_by_key(client: Client, engine: FakeEngine):
    engine.requests.clear()
    for key in (KEYS[0], KEYS[1], KEYS[0]):
        client.post(CHAT, HELLO, X_Api_Key=key)
    first, second, again = (request.cache_key for request in engine.requests)
    assert first == again != second
    assert not any(key in first + second for key in KEYS)


def test_the_errors_of_dialects_have_their_shapes(client: Client):
    _, text, _ = client.request("POST", "/v1/messages", {})
    assert json.loads(text)["type"] == "error"
    _, text, _ = client.request("POST", "/api/chat", {})
    assert json.loads(text) == {"error": "an API key is needed"}


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:30000", ""])
def test_pages_from_elsewhere_are_refused_even_with_a_key(client: Client, origin: str):
    for method in ("POST", "OPTIONS"):
        status, _, headers = client.request(
            method,
            CHAT,
            HELLO,
            Origin=origin,
            X_Api_Key=KEYS[0],
            Access_Control_Request_Method="POST",
        )
        assert status == 403
        assert "access-control-allow-origin" not in headers


def test_a_page_that_is_allowed_may_ask(client: Client):
    status, _, headers = client.request("POST", CHAT, HELLO, Origin=PAGE, X_Api_Key=KEYS[0])
    assert status == 200
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in headers
    status, _, headers = client.request(
        "OPTIONS",
        CHAT,
        Origin=PAGE,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization, content-type, a b",
    )
    assert status == 204
    assert headers["access-control-allow-headers"] == "authorization, content-type"


def test_an_answer_to_an_allowed_page_carries_errors_too(client: Client):
    status, _, headers = client.request("POST", CHAT, HELLO, Origin=PAGE)
    assert status == 401
    assert headers["access-control-allow-origin"] == PAGE


def send(client: Client, data: bytes, wait_s: float = 5.0) -> bytes:
    host, port = client.host.split(":")
    with socket.create_connection((host, int(port)), timeout=wait_s) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_a_head_that_does_not_come_ends_its_connection():
    with serving(FakeEngine(), limits=Limits(head_s=0.3)) as client:
        for data in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
            start = time.monotonic()
            assert send(client, data) == b""
            assert time.monotonic() - start < 3
        # An answer that takes longer than a head may is not cut.
        slow = FakeEngine(["late"], pause_s=0.6)
    with serving(slow, limits=Limits(head_s=0.3)) as client:
        assert client.post(CHAT, HELLO)[0] == 200


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(client: Client):
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEYS[0]}\r\n"
        "Content-Type: application/json\r\nExpect: 100-continue\r\n"
        "Content-Length: 99999999999\r\n\r\n"
    )
    assert send(client, head.encode()).startswith(b"HTTP/1.1 413")


def test_a_body_in_chunks_is_counted_as_it_comes(client: Client):
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEYS[0]}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    assert send(client, head.encode() + 5 * chunk + b"0\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_an_address_that_others_reach_needs_a_key_or_the_word():
    with pytest.raises(UsageError, match=r"others can reach 0\.0\.0\.0") as caught:
        bind(ServeOptions(host="0.0.0.0", port=0))
    assert "--allow-anonymous" in caught.value.hint
    assert guard_for("0.0.0.0", allow_anonymous=True).api_keys == ()
    assert guard_for("0.0.0.0", api_keys=KEYS).api_keys == KEYS
    assert guard_for("::1") == guard_for("127.0.0.1")


@pytest.mark.parametrize("key", ["short", "नमस्ते नमस्ते"])
def test_a_key_that_is_easy_to_guess_or_type_wrong_is_refused(key: str):
    with pytest.raises(UsageError, match="API key"):
        guard_for("127.0.0.1", api_keys=(key,))


def test_a_star_is_no_origin():
    with pytest.raises(UsageError, match="any web page"):
        guard_for("127.0.0.1", origins=["*"])


def test_an_open_address_answers_to_addresses_and_its_own_names_only():
    options = {"host": "0.0.0.0", "allow_anonymous": True, "hosts": ("box.lan",)}
    with serving(FakeEngine(), **options) as client:
        client.host = client.host.replace("0.0.0.0", "127.0.0.1")
        for host in ("192.168.1.7:80", "[fe80::1]", "BOX.lan", "localhost"):
            assert client.request("GET", "/health", Host=host)[0] == 200
        for host in ("evil.example", "192.168.1.7.evil.example", "1.2.3", ""):
            assert client.request("GET", "/health", Host=host)[0] == 400


def test_keys_are_not_shown_by_what_holds_them():
    options = ServeOptions(api_keys=KEYS)
    assert "first-key" not in repr(options) + repr(options.guard())
