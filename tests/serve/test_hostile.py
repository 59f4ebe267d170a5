"""The whole server against those who mean it harm: a real process, real HTTP, a real model.

After each attack the next request is right. What is tried out elsewhere, closer to where it is
refused, is not repeated here:

| what | where |
|:--|:--|
| grammars, schemas and regexes that cannot be kept, or never end | runtime/test_constraint.py |
| chat templates: loops, attributes, giant texts, recursion | runtime/test_chat_template.py |
| fields out of range; JSON that is no request | serve/test_requests.py, test_call_fields.py |
| keys, hosts, origins, DNS rebinding, announced and chunked sizes | serve/test_guard.py |
| heads that do not come, or trickle | serve/test_head_deadline.py |
| an engine that is killed, hangs, or dies while loading | engine/test_process.py |
| damaged files through the server | e2e/test_processes.py |
"""

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import psutil
import pytest

from llmedge.engine.worker import Worker
from tests.e2e.test_processes import HELLO, Server
from tests.gguf_files import write_tiny_model
from tests.runtime.test_chat_template import HOSTILE as TEMPLATES
from tests.serve.endpoint import CHAT, TEXT, Client

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's"),
]

QUESTION = {**HELLO, "max_tokens": 8}
ENDLESS = {"prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True}


def cases(names: Iterable[str], *in_gate: str) -> list[object]:
    """Return what to try; all but those for the gate are slow together."""
    unknown = set(in_gate) - set(names)
    assert not unknown, unknown
    return [
        pytest.param(name, marks=() if name in in_gate else pytest.mark.slow, id=name[:32])
        for name in names
    ]


class Target:
    """A server under attack."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = Client(server.url)
        host, port = self.client.host.split(":")
        self.address = (host, int(port))
        self.before = self.answer()

    def answer(self) -> str:
        status, body = self.client.post(CHAT, QUESTION)
        assert status == 200, body
        return body["choices"][0]["message"]["content"]

    def is_right(self) -> None:
        """Make sure that the server is up and answers as it did before."""
        assert self.server.process.poll() is None
        assert self.answer() == self.before

    def raw(self, data: bytes, *, ends: bool = False, wait_s: float = 20) -> bytes:
        """Send bytes and return what is answered, to the end of the connection."""
        with socket.create_connection(self.address, timeout=wait_s) as connection:
            # A server that has seen enough may close before it has read all.
            with contextlib.suppress(OSError):
                connection.sendall(data)
                if ends:
                    connection.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65536):
                    answer += part
            return answer

    def metric(self, name: str) -> float:
        text = self.client.request("GET", "/metrics")[1]
        lines = [line for line in text.splitlines() if line.startswith(f"llmedge_{name}{{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def engine(self) -> psutil.Process:
        (child,) = [
            child
            for child in psutil.Process(self.server.process.pid).children()
            if Worker.__module__ in child.cmdline()
        ]
        return child

    def is_free(self) -> bool:
        return not self.metric("requests_running") and not self.metric("requests_waiting")


def until(is_so: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def under_attack(model: Path, *arguments: object) -> Iterator[Target]:
    server = Server(model, *arguments)
    try:
        yield Target(server)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def target(smollm2: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMEDGE_HOME", str(tmp_path_factory.mktemp("home")))
        with under_attack(smollm2, "--ctx", 2048) as target:
            assert "New Delhi" in target.before
            yield target


def schema(of: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": of}}}


def chain_of_references(n: int) -> dict[str, object]:
    links: dict[str, object] = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(n)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{n}": {"type": "boolean"}}}


CONSTRAINTS: dict[str, dict[str, object]] = {
    "an undefined rule": {"grammar": "root ::= missing"},
    "an undefined rule of lark": {"grammar": "start: missing"},
    "left recursion": {"grammar": 'root ::= root "a" | "a"'},
    "left recursion without an end": {"grammar": "root ::= root"},
    "rules that call each other": {"grammar": "start: a\na: b\nb: a"},
    "20,000 parentheses": {"grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000},
    "an impossible class": {"regex": "^[z-a]$"},
    "a regex that goes back": {"regex": "(a+)+$"},
    "a long repetition": {"regex": "x{100000}"},
    "repetitions of repetitions": {"regex": "((x{1000}){1000}){1000}"},
    "a look-ahead": {"regex": "(?=a)b"},
    "a look-behind": {"regex": "(?<!a)b"},
    "a reference back": {"regex": r"(a)\1"},
    "an enum of 15,000": schema({"enum": [f"value-{i}" for i in range(15_000)]}),
    "references to references": schema(chain_of_references(5000)),
    "a million items": schema(
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1_000_000}
    ),
    "a billion characters": schema({"type": "string", "minLength": 10**9, "maxLength": 10**9}),
    "a schema of itself": schema({"$ref": "#"}),
    "a tree without an end": schema(
        {
            "$ref": "#/$defs/a",
            "$defs": {
                "a": {
                    "type": "object",
                    "properties": {"l": {"$ref": "#/$defs/a"}, "r": {"$ref": "#/$defs/a"}},
                    "required": ["l", "r"],
                }
            },
        }
    ),
    "a file": schema({"$ref": "file:///etc/passwd"}),
    "alternatives of alternatives": schema(
        {"anyOf": [{"anyOf": [{"const": f"{i}-{j}"} for j in range(90)]} for i in range(90)]}
    ),
}


@pytest.mark.parametrize(
    "name",
    cases(
        CONSTRAINTS,
        "an undefined rule",
        "left recursion without an end",
        "20,000 parentheses",
        "an impossible class",
        "a million items",
        "a tree without an end",
    ),
)
def test_a_form_that_explodes_is_refused_or_kept_in_time(target: Target, name: str):
    start = time.monotonic()
    status, text, _ = target.client.request(
        "POST", CHAT, {**QUESTION, "max_tokens": 3, **CONSTRAINTS[name]}
    )
    assert time.monotonic() - start < 10
    assert status in (200, 400), text
    assert "Traceback" not in text
    target.is_right()


@pytest.mark.slow
def test_the_schema_of_a_tool_may_explode_as_well(target: Target):
    function = {"name": "f", "parameters": CONSTRAINTS["a tree without an end"]}
    body = {**QUESTION, "tools": [{"type": "function", "function": function}]}
    for choice in ("auto", "required"):
        status, _, _ = target.client.request(
            "POST", CHAT, {**body, "max_tokens": 3, "tool_choice": choice}
        )
        assert status in (200, 400)
    target.is_right()


def message(content: bytes) -> bytes:
    return b'{"messages": [{"role": "user", "content": ' + content + b'}], "max_tokens": 2}'


BODIES: dict[str, bytes] = {
    "bytes that are no text": message(b'"\xff\xfe"'),
    "half a pair": message(b'"\\ud800"'),
    "half a pair of bytes": message(b'"\xed\xa0\x80"'),
    "not a number": b'{"messages": [], "temperature": NaN}',
    "a number beyond all": b'{"messages": [], "temperature": 1e400}',
    "a whole number of 400 digits": b'{"messages": [], "max_tokens": 1' + b"0" * 400 + b"}",
    "100,000 lists": b"[" * 100_000,
    "100,000 lists that end": message(b"[" * 100_000 + b"]" * 100_000),
    "100,000 objects": b'{"a":' * 100_000,
    "a compressed body": gzip.compress(message(b'"Hello"')),
    "zeros": b"\x00" * 1000,
    "a marker of UTF-16": "\ufeff{}".encode("utf-16"),
    "nothing": b"",
    "four megabytes of spaces": b" " * (4 << 20),
    "five megabytes": message(b'"' + b"a" * (5 << 20) + b'"'),
    "four megabytes of words": message(b'"' + b"word " * 800_000 + b'"'),
    "a million keys": b'{"messages": [], ' + b'"a":1,' * 600_000 + b'"b": 1}',
}


@pytest.mark.parametrize(
    "name", cases(BODIES, "half a pair", "a number beyond all", "100,000 lists", "five megabytes")
)
def test_a_body_that_is_no_request_is_refused_in_every_dialect(target: Target, name: str):
    for path in (CHAT, "/v1/responses", "/v1/messages", "/api/chat", "/tokenize"):
        status, text, _ = target.client.request("POST", path, BODIES[name])
        assert status in (400, 413), (path, text[:500])
        assert len(text) < 2000
    target.is_right()


def test_zeros_in_a_text_and_fields_that_come_twice_harm_nobody(target: Target):
    for body in (message(b'"a\\u0000b"'), message(b'"a"')[:-1] + b', "max_tokens": 3}'):
        assert target.client.request("POST", CHAT, body)[0] == 200
    target.is_right()


LOCAL = b"Host: localhost\r\nContent-Type: application/json\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + LOCAL
BODY = json.dumps(QUESTION).encode()
LENGTH = b"Content-Length: %d\r\n"

WIRE: dict[str, bytes] = {
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a secure greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "no protocol": os.urandom(64) + b"\r\n\r\n",
    "a head of a megabyte": b"GET /health HTTP/1.1\r\n" + LOCAL + b"X-A: " + b"a" * (1 << 20),
    "100,000 headers": b"GET /health HTTP/1.1\r\n" + LOCAL + b"X-A: a\r\n" * 100_000,
    "a path of a megabyte": b"GET /" + b"a" * (1 << 20),
    "zeros in the head": b"GET /health HTTP/1.1\r\nX: a\x00b\r\n" + LOCAL + b"\r\n",
    "zeros in the path": b"GET /\x00 HTTP/1.1\r\n" + LOCAL + b"\r\n",
    "a length that is none": POST + b"Content-Length: many\r\n\r\n" + BODY,
    "a length below nothing": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "two lengths": POST + LENGTH % len(BODY) + LENGTH % 3 + b"\r\n" + BODY,
    "a length and chunks": POST
    + LENGTH % len(BODY)
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n",
    "a chunk of a wrong size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY,
    "a chunk of an endless size": POST
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"f" * 40
    + b"\r\n",
    "a length that is too small": POST + LENGTH % 10 + b"Connection: close\r\n\r\n" + BODY,
    "a length that is too large": POST + LENGTH % (len(BODY) + 100) + b"\r\n" + BODY,
    "chunks without an end": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
}


@pytest.mark.parametrize(
    "name",
    cases(
        WIRE,
        "a secure greeting",
        "a head of a megabyte",
        "two lengths",
        "a length and chunks",
        "a length that is too large",
        "chunks without an end",
    ),
)
def test_what_is_no_http_ends_its_connection_and_no_more(target: Target, name: str):
    answer = target.raw(WIRE[name], ends=True)
    assert not answer or answer.split()[1] in (b"400", b"404", b"413", b"431"), answer[:300]
    assert b" 200 " not in answer
    target.is_right()


HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "localhost@evil.example",
    "evil.example:80@localhost",
    "localhost, evil.example",
    "0x7f.1",
    "169.254.169.254",
    "",
]


@pytest.mark.parametrize("host", cases(HOSTS, "127.0.0.1.evil.example"))
def test_a_name_that_was_made_to_point_here_is_not_answered(target: Target, host: str):
    for path in (b"/health", b"/v1/models", b"http://localhost/v1/models"):
        head = b"GET " + path + b" HTTP/1.1\r\nConnection: close\r\n"
        assert target.raw(head + b"Host: " + host.encode() + b"\r\n\r\n").split()[1] == b"400"
        twice = b"Host: localhost\r\nHost: " + host.encode() + b"\r\n\r\n"
        assert b" 200 " not in target.raw(head + twice)
    target.is_right()


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows\\win.ini",
    "C:\\",
    "file:///etc/passwd",
    "a\x00b",
    "smollm2\n\rX-A: b",
    "%2e%2e%2fetc%2fpasswd",
    "hf.co/evil/model",
    "x" * 100_000,
]


@pytest.mark.parametrize("name", cases(NAMES, "../../etc/passwd", "a\x00b"))
def test_a_name_like_a_path_is_no_model(target: Target, name: str):
    asked = {"model": name, **QUESTION}
    for path, body in (
        (CHAT, asked),
        (TEXT, {"model": name, "prompt": "x"}),
        ("/v1/responses", {"model": name, "input": "x"}),
        ("/v1/messages", asked),
        ("/api/chat", asked),
        ("/api/show", {"model": name}),
        ("/tokenize", {"model": name, "content": "x"}),
    ):
        status, text, headers = target.client.request("POST", path, body)
        assert status == 404, (path, text)
        assert "x-a" not in headers
        assert "root:" not in text
        assert len(text) < 2000
    target.is_right()


def test_a_path_to_a_file_is_no_route(target: Target):
    for path in ("/v1/models/../../etc/passwd", "/v1/models//etc/passwd", "/../etc/passwd"):
        answer = target.raw(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer.split()[1] == b"404"
        assert b"root:" not in answer


HUGE: dict[str, dict[str, object]] = {
    "answers": {"n": 10**6},
    "answers beyond 64 bits": {"n": 10**30},
    "stops": {"stop": ["x"] * 100_000},
    "a stop": {"stop": "x" * 1_000_000},
    "biases": {"logit_bias": {str(i): 1 for i in range(100_000)}},
    "a bias": {"logit_bias": {"9" * 5000: 1}},
    "messages": {"messages": [{"role": "user", "content": "x"}] * 100_000},
    "tools": {
        "tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(10_000)]
    },
    "chances": {"top_logprobs": 10**6, "logprobs": True},
    "a seed": {"seed": 10**40},
    "a penalty": {"frequency_penalty": 1e300},
    "arguments of the template": {"chat_template_kwargs": {f"a{i}": i for i in range(10_000)}},
}


@pytest.mark.parametrize("name", cases(HUGE, "answers", "messages"))
def test_numbers_and_lists_without_measure_are_refused(target: Target, name: str):
    status, text, _ = target.client.request("POST", CHAT, {**QUESTION, **HUGE[name]})
    assert status == 400, text
    assert len(text) < 2000
    target.is_right()


CHARACTERS = ["a", " ", "\n", "0", "!", "😀", "क", "\u0301", "<", "\t"]


@pytest.mark.parametrize("character", cases(CHARACTERS, "a"))
def test_30_000_equal_characters_are_tokens_and_no_stack_overflow(target: Target, character: str):
    content = character * 30_000
    status, body = target.client.post("/tokenize", {"content": content})
    assert status == 200
    assert len(body["tokens"]) > 100
    if len(body["tokens"]) > 2048:
        question = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        status, body = target.client.post(CHAT, question)
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
    target.is_right()


def test_a_template_that_a_client_sends_is_not_run(target: Target):
    status, text, headers = target.client.request(
        "POST", CHAT, {**QUESTION, "chat_template": "{% for i in range(10**9) %}{% endfor %}"}
    )
    assert status == 200
    assert json.loads(text)["choices"][0]["message"]["content"] == target.before
    assert headers["x-llmedge-ignored"] == "chat_template"


@contextmanager
def streams(target: Target, n: int, body: dict[str, object]) -> Iterator[list[socket.socket]]:
    """Ask for streams and read nothing of them."""
    data = json.dumps(body).encode()
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        for _ in range(n):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.settimeout(60)
            connection.connect(target.address)
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\n" + LOCAL + LENGTH % len(data) + b"\r\n" + data
            )
            sockets.append(connection)
        yield sockets


def test_clients_that_read_nothing_stall_nobody_and_leave_nothing(target: Target):
    body = {**ENDLESS, "logprobs": 5, "max_tokens": 150}
    with streams(target, 3, body):
        until(lambda: target.metric("requests_running") == 3)
        target.is_right()
    with streams(target, 8, ENDLESS):
        until(lambda: target.metric("requests_running") == 4)
    until(target.is_free)
    target.is_right()


def test_connections_that_say_nothing_keep_nobody_waiting(target: Target):
    with contextlib.ExitStack() as stack:
        for index in range(200):
            connection = stack.enter_context(socket.create_connection(target.address, timeout=5))
            if index % 2:
                connection.sendall(POST + LENGTH % 1000 + b"\r\n{")
        target.is_right()
    target.is_right()


def read_to_end(connection: socket.socket) -> str:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            answer += part
            if b"0\r\n\r\n" in part:
                break
    return answer.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSEGV]
)
def test_an_engine_that_is_killed_in_mid_stream_ends_its_streams_and_comes_back(
    target: Target, number: signal.Signals
):
    n_before = target.metric("engine_restarts_total")
    with streams(target, 3, ENDLESS) as connections:
        until(lambda: target.metric("requests_running") == 3)
        engine = target.engine()
        engine.send_signal(number)
        for connection in connections:
            text = read_to_end(connection)
            assert number.name in text
            assert "[DONE]" not in text
    target.is_right()  # it waits for the new engine
    assert target.metric("engine_restarts_total") == n_before + 1
    assert not engine.is_running()
    assert target.client.get("/health") == (200, {"status": "ok"})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_an_engine_without_memory_fails_requests_and_not_the_server(target: Target):
    import resource

    engine = target.engine()
    words = " ".join(f"word{i}" for i in range(30))
    bodies: tuple[dict[str, object], ...] = (
        {"prompt": words, "max_tokens": 2, "logprobs": 5},
        {"prompt": "x", "max_tokens": 2, "regex": "(a|b)*a(a|b){14}"},
        {"prompt": "x" * 60_000},
    )
    for n_bytes in (20 << 20, 1 << 20):
        limit = engine.memory_info().vms + n_bytes
        resource.prlimit(engine.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for body in bodies:
            status, text, _ = target.client.request("POST", TEXT, body)
            assert status in (200, 400, 503), text
        if not engine.is_running():
            break
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(engine.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    target.is_right()


def choosing(templates: dict[str, str]) -> str:
    """Return a template that does what the first message asks for."""
    branches = "".join(
        f"{{% if messages[0].content == {name!r} %}}{source}{{% endif %}}"
        for name, source in templates.items()
    )
    return branches + "{{ messages[-1].content }}"


MORE_TEMPLATES = {
    "refusing": "{{ raise_exception('<no>' * 100000) }}",
    "half a character": "{{ '\\ud800' }}",
    "control tokens": "{{ '</s>' * 100 }}",
}


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory):
    """Serve a model whose template does what its user should not ask for."""
    folder = tmp_path_factory.mktemp("templated")
    cases = {
        name: source for name, source in {**TEMPLATES, **MORE_TEMPLATES}.items() if "'" not in name
    }

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_chat_template(choosing(cases))

    model = write_tiny_model(folder / "templated.gguf", change=change)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMEDGE_HOME", str(folder / "home"))
        with under_attack(model, "--ctx", 512) as target:
            yield target, list(cases)


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_template_that_attacks_ends_its_request_alone(
    templated: tuple[Target, list[str]], share: int
):
    target, names = templated
    assert len(names) > 30
    for name in names[::-share]:
        body = {"messages": [{"role": "user", "content": name}], "max_tokens": 1}
        start = time.monotonic()
        for path in (CHAT, "/apply-template"):
            status, text, _ = target.client.request("POST", path, body)
            assert status in (200, 400, 422, 500), (name, text)
            assert "Traceback" not in text
            assert len(text) < 4000, name
        assert time.monotonic() - start < 10, name
    target.is_right()


@pytest.mark.slow
def test_bodies_that_do_not_come_are_given_up(target: Target):
    start = time.monotonic()
    for data in (
        POST + LENGTH % 1000 + b"\r\n{",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ):
        assert target.raw(data, wait_s=60).split()[1] == b"408"
    assert 55 < time.monotonic() - start < 90
    target.is_right()


@pytest.mark.slow
def test_more_silent_connections_than_are_let_in_are_gone_after_ten_seconds(target: Target):
    with contextlib.ExitStack() as stack:
        for _ in range(800):
            stack.enter_context(socket.create_connection(target.address, timeout=5))
        time.sleep(14)
        target.is_right()


@pytest.mark.slow
def test_an_engine_that_is_stopped_is_replaced_within_two_minutes(target: Target):
    target.engine().send_signal(signal.SIGSTOP)
    start = time.monotonic()
    connection = http.client.HTTPConnection(*target.address, timeout=150)
    body = json.dumps(QUESTION)
    connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 503
    assert "hangs" in response.read().decode()
    assert 55 < time.monotonic() - start < 90
    connection.close()
    target.is_right()
