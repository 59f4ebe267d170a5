"""How does `llmedge serve` keep up with llama-server, side by side on the same model?

llama-server is built from the sources in llama-cpp-python's source distribution, with the same
flags as the library here. Both run with the same threads, context, slots and spin wait, at the same
time but never asked at the same time: each measurement asks one, then the other. No question is
asked twice.

  shared   chat prompts with one system prompt of about 200 tokens and short different questions
  alone    chat prompts that share nothing
  long     a prompt of about 2,000 tokens arrives among 8 running streams
  waiting  /health and /metrics while 64 clients wait

Prints JSON. Usage: python scripts/bench_serve.py [PART …] [--model FILE] [--rounds N]
[--slots N] [--threads N] [--server FILE] [--folder DIR]
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path
from typing import Any

import llama_build

from llmedge.recipe.demo import embedded_model

CLIENTS = (1, 4, 8, 16)
N_GENERATED = 48
SPIN_COUNT = "1000"
_TEXT = """
river mango monsoon lantern bicycle temple market cotton saffron railway monkey village
teacher harvest silver window kitchen letter garden bridge doctor pepper mirror thunder
peacock ledger candle orchard brass clinic tailor jasmine ferry copper school drum
"""
_WORDS = _TEXT.split()
_random = random.Random(2026)


@dataclasses.dataclass(frozen=True)
class Server:
    """One server that is up."""

    name: str
    port: int
    model: str
    pid: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """When the parts of one answer came, in seconds of `time.perf_counter`."""

    asked: float
    parts: tuple[float, ...]
    n_tokens: int

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.parts[0] - self.asked

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between tokens."""
        return [b - a for a, b in zip(self.parts, self.parts[1:], strict=False)]


def words(n: int) -> str:
    """Return words that were not said before."""
    return " ".join(_random.choice(_WORDS) for _ in range(n))


def messages(part: str, system: str) -> list[dict[str, str]]:
    """Return a question that nobody asked before."""
    own = words(150) if part == "alone" else system
    return [
        {"role": "system", "content": own},
        {"role": "user", "content": f"Tell me about {words(8)} in a few sentences."},
    ]


async def ask(server: Server, chat: Sequence[dict[str, str]], n_tokens: int) -> Answer:
    """Ask one question and note when each part of the answer comes."""
    body = {
        "model": server.model,
        "messages": chat,
        "max_tokens": n_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    asked = time.perf_counter()
    parts: list[float] = []
    n_generated = 0
    async for data in events(server.port, json.dumps(body).encode()):
        if data == "[DONE]":
            break
        event = json.loads(data)
        if "error" in event:
            sys.exit(f"{server.name}: {event['error']}")
        choices: list[Any] = event.get("choices") or []
        if choices and choices[0].get("delta", {}).get("content"):
            parts.append(time.perf_counter())
        if event.get("usage"):
            n_generated = event["usage"]["completion_tokens"]
    if not parts:
        sys.exit(f"{server.name}: an answer without text")
    return Answer(asked, tuple(parts), n_generated)


async def events(port: int, body: bytes) -> AsyncIterator[str]:
    """Send one chat request and yield the data of its server-sent events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            sys.exit(f"{status.decode().strip()}: {(await reader.read()).decode()[-500:]}")
        async for line in reader:
            if line.startswith(b"data: "):
                yield line[6:].decode().strip()
    finally:
        writer.close()


async def clients(
    server: Server, part: str, n_clients: int, n_each: int, system: str
) -> list[Answer]:
    """Let clients ask one question after the other, all at once."""

    async def client() -> list[Answer]:
        return [await ask(server, messages(part, system), N_GENERATED) for _ in range(n_each)]

    answers = await asyncio.gather(*(client() for _ in range(n_clients)))
    return [answer for one in answers for answer in one]


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Return what a user of the server would say of it."""
    begin = min(answer.asked for answer in answers)
    end = max(answer.parts[-1] for answer in answers)
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    return {
        "tokens_per_s": round(sum(answer.n_tokens for answer in answers) / (end - begin), 2),
        "first_token_p95_s": round(quantile([answer.first_s for answer in answers], 0.95), 4),
        "gap_p50_s": round(quantile(gaps, 0.5), 4),
        "gap_p99_s": round(quantile(gaps, 0.99), 4),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def bench_throughput(part: str, servers: Sequence[Server], rounds: int) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for n_clients in CLIENTS:
        n_each = max(2, 8 // n_clients)
        found: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
        for number in range(rounds):
            # The order changes, so that no server always comes when the machine is warm.
            for server in servers if number % 2 == 0 else servers[::-1]:
                system = f"You are a helpful guide. {words(180)}"
                answers = asyncio.run(clients(server, part, n_clients, n_each, system))
                found[server.name].append(figures(answers))
        rows[str(n_clients)] = with_ratios(found)
    return rows


def with_ratios(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians, and the first server's figures by the others', round by round."""
    names = list(found)
    keys = list(found[names[0]][0])
    medians: dict[str, Any] = {
        name: {key: statistics.median(row[key] for row in rows) for key in keys}
        for name, rows in found.items()
    }
    for other in names[1:]:
        pairs = list(zip(found[names[0]], found[other], strict=True))
        medians[f"{names[0]} / {other}"] = {
            key: round(statistics.median(a[key] / b[key] for a, b in pairs if b[key]), 3)
            for key in keys
        }
    return medians


def bench_long(servers: Sequence[Server], rounds: int) -> dict[str, Any]:
    async def once(server: Server) -> dict[str, float]:
        system = words(20)
        running = [
            asyncio.create_task(ask(server, messages("shared", system), 200)) for _ in range(8)
        ]
        await asyncio.sleep(2)
        chat = [{"role": "user", "content": words(1400)}]
        arrived = time.perf_counter()
        late = await ask(server, chat, 4)
        answers = await asyncio.gather(*running)
        before = [
            b - a
            for answer in answers
            for a, b in zip(answer.parts, answer.parts[1:], strict=False)
            if b < arrived
        ]
        during = [
            b - a
            for answer in answers
            for a, b in zip(answer.parts, answer.parts[1:], strict=False)
            if arrived <= b <= late.parts[0]
        ]
        normal = quantile(before, 0.5)
        return {
            "normal_step_s": round(normal, 4),
            "gap_p99_s": round(quantile(during, 0.99), 4),
            "gap_p99_in_steps": round(quantile(during, 0.99) / normal, 2),
            "first_token_s": round(late.first_s, 3),
        }

    found: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            found[server.name].append(asyncio.run(once(server)))
    return with_ratios(found)


def bench_waiting(server: Server) -> dict[str, float]:
    async def once() -> dict[str, float]:
        system = words(20)
        waiting = [
            asyncio.create_task(ask(server, messages("shared", system), N_GENERATED))
            for _ in range(64)
        ]
        await asyncio.sleep(1)
        found: dict[str, float] = {}
        for path in ("/health", "/metrics"):
            taken: list[float] = []
            for _ in range(40):
                start = time.perf_counter()
                await asyncio.to_thread(fetch, server.port, path)
                taken.append(time.perf_counter() - start)
                await asyncio.sleep(0.05)
            found[f"{path}_p95_s"] = round(quantile(taken, 0.95), 4)
        await asyncio.gather(*waiting)
        return found

    return asyncio.run(once())


def fetch(port: int, path: str) -> bytes:
    """Get one page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def started(name: str, command: Sequence[object], port: int) -> Generator[Server]:
    """Run a server until it is no longer needed."""
    environ = os.environ | {"GOMP_SPINCOUNT": SPIN_COUNT}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, env=environ
        )
        try:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    models = json.loads(fetch(port, "/v1/models"))
                    if b'"ok"' in fetch(port, "/health"):
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"{name} did not start: {log.read()[-2000:].decode()}")
                time.sleep(0.2)
            yield Server(name, port, models["data"][0]["id"], process.pid)
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["shared", "alone", "long", "waiting"])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--server", type=Path, help="llama-server; built where this is missing")
    parser.add_argument("--folder", type=Path, default=Path(".cache"))
    chosen = parser.parse_args()
    model = chosen.model or embedded_model()
    server = chosen.server
    if server is None:
        chosen.folder.mkdir(exist_ok=True)
        folder = llama_build.build(chosen.folder.absolute(), ("llama-server",), has_server=True)
        server = folder / "llama-server"
    n_ctx, n_slots, n_threads = 16384, chosen.slots, chosen.threads
    ours, theirs = free_port(), free_port()
    common = ["--threads", n_threads, "--port"]
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "llmedge", "serve", model, "--ctx", n_ctx]
        command += ["--slots", n_slots, *common, ours]
        servers = [stack.enter_context(started("llmedge", command, ours))]
        command = [server, "-m", model, "-c", n_ctx, "-np", n_slots, "--kv-unified", *common]
        servers.append(stack.enter_context(started("llama-server", [*command, theirs], theirs)))
        result: dict[str, Any] = {"schema": "llmedge.bench_serve/1", "model": model.name}
        result |= {"slots": n_slots, "threads": n_threads, "ctx": n_ctx, "rounds": chosen.rounds}
        for part in chosen.parts:
            if part == "long":
                result[part] = bench_long(servers, chosen.rounds)
            elif part == "waiting":
                result[part] = bench_waiting(servers[0])
            else:
                result[part] = bench_throughput(part, servers, chosen.rounds)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
