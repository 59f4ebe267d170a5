"""Does `llmedge serve` stay what it is while clients come, go and leave at random?

Clients ask one after the other: chats and texts, streamed or not, with tools, schemas and regexes,
in OpenAI's, Anthropic's and Ollama's dialects, questions that cannot be answered, and some that are
left: before the answer, in the middle of it, inside a long prompt. With --kill, the engine is
killed now and then.

Prints JSON: requests by kind and outcome; errors that nobody injected; memory of the server's and
the engine's process over time, with its slope; slots and kv cells in use at the end; latencies.
Exits with 1 when something is not as it should be.

Usage: python scripts/soak_serve.py [--minutes N] [--clients N] [--model FILE] [--slots N]
[--ctx N] [--kill SECONDS] [--seed N] [-- FLAGS OF llmedge serve …]
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import psutil
from bench_serve import Server, fetch, free_port, quantile, started, words

from llmedge.engine.worker import Worker
from llmedge.host.memory import read_process_memory
from llmedge.recipe.demo import embedded_model

Body: TypeAlias = dict[str, Any]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SAMPLE_S = 5.0
WARM_SHARE = 1 / 3  # of the time, at first: what is cached grows to its bounds
WARM_MINUTES = 3.0  # where less than that is left out, the slope is no verdict
ANSWER_S = 300.0
MAX_SLOPE_MIB = 2.0  # a minute, of anonymous memory
SYSTEM = f"You are a helpful guide. {words(60)}"
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Tells the weather.", "parameters": PLACE}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to ask.

    Attributes:
        path: Where.
        body: Makes the body of one request; `stream` is added.
        status: What is answered where the client does not leave.
        ends: Pattern of the end of a stream; "" where it cannot be streamed.
        check: Whether an answer that is not streamed is one.
    """

    path: str
    body: Callable[[random.Random], Body]
    status: int = 200
    ends: str = r"data: \[DONE\]"
    check: Callable[[Body], bool] = bool


@dataclasses.dataclass
class Log:
    """What has happened."""

    outcomes: defaultdict[str, Counter[str]] = dataclasses.field(
        default_factory=lambda: defaultdict[str, Counter[str]](Counter[str])
    )
    seconds: defaultdict[str, list[float]] = dataclasses.field(
        default_factory=lambda: defaultdict[str, list[float]](list)
    )
    errors: list[str] = dataclasses.field(default_factory=list[str])
    memory: list[Body] = dataclasses.field(default_factory=list[Body])
    n_kills: int = 0
    killed_at: float = -1e9


def question(draw: random.Random) -> list[Body]:
    turns: list[Body] = [
        {"role": "user", "content": f"Tell me about {words(draw.randint(2, 20))}."}
    ]
    if draw.random() < 0.3:
        turns += [
            {"role": "assistant", "content": words(draw.randint(5, 40))},
            {"role": "user", "content": "And then?"},
        ]
    return turns


def with_system(draw: random.Random) -> list[Body]:
    return [{"role": "system", "content": SYSTEM}, *question(draw)]


def chat(draw: random.Random) -> Body:
    return {
        "messages": with_system(draw),
        "max_tokens": draw.randint(1, 48),
        "temperature": draw.choice([0, 0.8, 1.5]),
        "n": draw.choice([1, 1, 1, 2]),
        "logprobs": draw.random() < 0.2,
    }


def text(draw: random.Random) -> Body:
    return {"prompt": words(draw.randint(1, 60)), "max_tokens": draw.randint(1, 48), "seed": 0}


def long_text(draw: random.Random) -> Body:
    return {"prompt": words(draw.randint(400, 900)), "max_tokens": 2}


def tools(draw: random.Random) -> Body:
    choice = draw.choice(["required", "auto"])
    given = [{"type": "function", "function": WEATHER}]
    return {"messages": question(draw), "max_tokens": 64, "tools": given, "tool_choice": choice}


def form(draw: random.Random) -> Body:
    schema = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
    return {"messages": question(draw), "max_tokens": 80, "response_format": schema}


def is_place(answer: Body) -> bool:
    choice = answer["choices"][0]
    if choice["finish_reason"] == "length":
        return True
    return set(json.loads(choice["message"]["content"])) == {"city", "warm"}


def responses(draw: random.Random) -> Body:
    return {"input": question(draw), "instructions": SYSTEM, "max_output_tokens": 24}


def anthropic(draw: random.Random) -> Body:
    return {"messages": question(draw), "system": SYSTEM, "max_tokens": draw.randint(1, 32)}


def ollama(draw: random.Random) -> Body:
    return {"messages": question(draw), "options": {"num_predict": draw.randint(1, 32)}}


KINDS = {
    "chat": Kind(CHAT, chat),
    "text": Kind(TEXT, text),
    "long text": Kind(TEXT, long_text),
    "tools": Kind(CHAT, tools),
    "schema": Kind(CHAT, form, check=is_place),
    "regex": Kind(TEXT, lambda draw: text(draw) | {"regex": "(yes|no), [0-9]{2}"}),
    "responses": Kind("/v1/responses", responses, ends=r"event: response\.(completed|incomplete)"),
    "anthropic": Kind("/v1/messages", anthropic, ends="message_stop"),
    "anthropic count": Kind("/v1/messages/count_tokens", anthropic, ends=""),
    "ollama chat": Kind("/api/chat", ollama, ends='"done":true'),
    "ollama generate": Kind(
        "/api/generate",
        lambda draw: {"prompt": words(9), "options": {"num_predict": 9}},
        ends='"done":true',
    ),
    "tokenize": Kind("/tokenize", lambda draw: {"content": words(300)}, ends=""),
    "not a model": Kind(CHAT, lambda draw: chat(draw) | {"model": "gpt-4o"}, 404),
    "not a schema": Kind(CHAT, lambda draw: chat(draw) | {"regex": "^[z-a]$"}, 400),
    "too long": Kind(TEXT, lambda draw: {"prompt": words(9000)}, 400),
    "not a request": Kind(CHAT, lambda draw: {"messages": "Hello"}, 400, ends=""),
    "vectors": Kind("/v1/embeddings", lambda draw: {"input": words(9)}, 400, ends=""),
}
# Those that are asked more often than the others.
WEIGHTS = {"chat": 8, "text": 4, "long text": 2, "anthropic": 2, "ollama chat": 2, "tools": 2}


class Wrong(Exception):  # noqa: N818 - what happened
    """An answer is not what it should be."""


async def exchange(port: int, kind: Kind, body: Body, leave_after_s: float | None) -> float | None:
    """Ask once; return the seconds to the first byte of an answer, `None` where none was awaited.

    Raises:
        Wrong: The answer is not what it should be.
        OSError: The connection broke.
        TimeoutError: The client has left.
    """
    data = json.dumps(body).encode()
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(leave_after_s or ANSWER_S):
            head = (
                f"POST {kind.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            writer.write(head.encode() + data)
            first = await reader.readuntil(b"\r\n\r\n")
            seconds = time.perf_counter() - begin
            rest = (await reader.read()).decode("utf-8")
            check_answer(kind, body, int(first.split()[1]), rest)
            return seconds
    except TimeoutError:
        if leave_after_s is None:
            raise Wrong(f"no answer within {ANSWER_S:.0f} s") from None
        raise
    except asyncio.IncompleteReadError:
        raise Wrong("the connection ended before the answer's head") from None
    finally:
        # Not gently: who leaves is gone at once.
        writer.transport.abort()


def check_answer(kind: Kind, body: Body, status: int, rest: str) -> None:
    """Raise `Wrong` where an answer is not what it should be."""
    if status != kind.status:
        raise Wrong(f"status {status}, not {kind.status}: {rest[:300]}")
    if status != 200:
        if '"error"' not in rest:
            raise Wrong(f"an error without a word: {rest[:300]}")
    elif body["stream"]:
        if not re.search(kind.ends, rest[-20_000:]) or re.search(r'"error": ?[{"]', rest):
            raise Wrong(f"the stream did not end well: {rest[-300:]}")
    elif not kind.check(json.loads(rest)):
        raise Wrong(f"not what was asked for: {rest[:300]}")


async def client(server: Server, log: Log, draw: random.Random, ends_at: float) -> None:
    """Come, ask, and go, until it is over."""
    names = list(KINDS)
    weights = [WEIGHTS.get(name, 1) for name in names]
    while time.monotonic() < ends_at:
        name = draw.choices(names, weights)[0]
        kind = KINDS[name]
        can_stream = bool(kind.ends)
        body = {"model": server.model} | kind.body(draw)
        body["stream"] = can_stream and draw.random() < 0.6
        leave_after_s = draw.choice([0.02, 0.1, 0.3, 1.0]) if draw.random() < 0.25 else None
        asked = time.monotonic()
        try:
            seconds = await exchange(server.port, kind, body, leave_after_s)
            log.outcomes[name]["answered"] += 1
            if seconds is not None and kind.status == 200:
                log.seconds[name + (", streamed" if body["stream"] else "")].append(seconds)
        except TimeoutError:
            log.outcomes[name]["left"] += 1
        except (Wrong, OSError, ValueError) as error:
            is_injected = asked - 1 <= log.killed_at or time.monotonic() - log.killed_at < 5
            log.outcomes[name]["failed by the kill" if is_injected else "wrong"] += 1
            if not is_injected:
                log.errors.append(f"{name}: {type(error).__name__}: {error}")
        await asyncio.sleep(draw.expovariate(2.0))


def engine_pid(server: Server) -> int | None:
    """Return the id of the engine's process, where one runs."""
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.Error):
            if Worker.__module__ in child.cmdline():
                return child.pid
    return None


async def watch(server: Server, log: Log, ends_at: float) -> None:
    """Note how much memory is used."""
    begin = time.monotonic()
    while time.monotonic() < ends_at:
        row: Body = {"s": round(time.monotonic() - begin, 1)}
        for name, pid in (("server", server.pid), ("engine", engine_pid(server))):
            memory = None if pid is None else read_process_memory(pid)
            if memory is not None:
                row[f"{name}_resident_mib"] = round(memory.resident_bytes / 2**20, 2)
                row[f"{name}_anonymous_mib"] = round((memory.anonymous_bytes or 0) / 2**20, 2)
        log.memory.append(row)
        await asyncio.sleep(SAMPLE_S)


async def kill(server: Server, log: Log, every_s: float, ends_at: float) -> None:
    """Kill the engine now and then."""
    while time.monotonic() + every_s + 10 < ends_at:
        await asyncio.sleep(every_s)
        pid = engine_pid(server)
        if pid is not None:
            log.n_kills += 1
            log.killed_at = time.monotonic()
            psutil.Process(pid).kill()


def slope_per_minute(rows: list[Body], key: str) -> float | None:
    """Return the least squares' slope of what was noted once it was warm."""
    points = [(row["s"] / 60, row[key]) for row in rows if key in row]
    points = points[int(WARM_SHARE * len(points)) :]
    if len(points) < 3:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return round(
        sum((x - mean_x) * (y - mean_y) for x, y in points)
        / sum((x - mean_x) ** 2 for x, _ in points),
        3,
    )


def metric(page: str, name: str) -> float:
    found = re.findall(rf"^llmedge_{name}{{.*}} (\S+)$", page, re.MULTILINE)
    return sum(map(float, found))


def end_state(server: Server) -> Body:
    """Wait until nobody is answered, a few seconds at most, and return what is in use."""
    deadline = time.monotonic() + 15
    while True:
        page = fetch(server.port, "/metrics").decode()
        busy = {name: metric(page, f"requests_{name}") for name in ("running", "waiting", "paused")}
        if not any(busy.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    used = metric(page, "kv_cache_used_tokens")
    reusable = metric(page, "kv_cache_reusable_tokens")
    return {
        "requests": busy,
        "kv_cells": metric(page, "kv_cache_tokens"),
        "kv_cells_used": used,
        "kv_cells_of_nobody": used - reusable,
        "engine_restarts": metric(page, "engine_restarts_total"),
        "connections": len(psutil.Process(server.pid).net_connections()) - 1,
        "files": len(psutil.Process(server.pid).open_files()),
        "threads": psutil.Process(server.pid).num_threads(),
    }


async def soak(server: Server, chosen: argparse.Namespace, log: Log) -> None:
    # Memory of the kv cache is taken when it is used for the first time.
    filling = {"prompt": words(chosen.ctx // 2), "max_tokens": 2, "stream": False}
    for _ in range(2):
        await exchange(server.port, KINDS["text"], filling, None)
    ends_at = time.monotonic() + 60 * chosen.minutes
    tasks = [
        client(server, log, random.Random(chosen.seed * 1000 + number), ends_at)
        for number in range(chosen.clients)
    ]
    tasks.append(watch(server, log, ends_at))
    if chosen.kill:
        tasks.append(kill(server, log, chosen.kill, ends_at))
    await asyncio.gather(*tasks)


def verdict(log: Log, state: Body, slopes: dict[str, float | None]) -> list[str]:
    """Return what is not as it should be."""
    wrong = [f"{len(log.errors)} errors that nobody injected"] if log.errors else []
    wrong += [f"{n:g} requests are still {name}" for name, n in state["requests"].items() if n]
    if state["kv_cells_of_nobody"]:
        wrong.append(f"{state['kv_cells_of_nobody']:g} kv cells belong to nobody")
    if state["engine_restarts"] != log.n_kills:
        wrong.append(f"{state['engine_restarts']:g} restarts after {log.n_kills} kills")
    if log.memory[-1]["s"] / 60 * WARM_SHARE < WARM_MINUTES:
        return wrong
    # A new engine begins with little memory: where some are killed, its slope says nothing.
    watched = ("server",) if log.n_kills else ("server", "engine")
    for name in watched:
        slope = slopes[f"{name}_anonymous_mib"]
        if slope is not None and slope > MAX_SLOPE_MIB:
            wrong.append(f"the {name}'s memory grows by {slope} MiB a minute")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--kill", type=float, default=0, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="flags of llmedge serve")
    chosen = parser.parse_args()
    model, port, log = chosen.model or embedded_model(), free_port(), Log()
    command = [sys.executable, "-m", "llmedge", "serve", model, "--ctx", chosen.ctx]
    command += ["--slots", chosen.slots, "--port", port, *chosen.flags]
    with started("llmedge", command, port) as server:
        asyncio.run(soak(server, chosen, log))
        state = end_state(server)
    keys = [
        f"{name}_{kind}_mib" for name in ("server", "engine") for kind in ("resident", "anonymous")
    ]
    slopes = {key: slope_per_minute(log.memory, key) for key in keys}
    wrong = verdict(log, state, slopes)
    result = {
        "schema": "llmedge.soak_serve/1",
        "model": model.name,
        "minutes": chosen.minutes,
        "clients": chosen.clients,
        "slots": chosen.slots,
        "ctx": chosen.ctx,
        "requests": sum(sum(outcomes.values()) for outcomes in log.outcomes.values()),
        "outcomes": {name: dict(log.outcomes[name]) for name in KINDS},
        "kills": log.n_kills,
        "errors_not_injected": log.errors[:50],
        "end": state,
        "mib_per_minute": slopes,
        "seconds_to_answer": {
            name: {
                "n": len(taken),
                "p50": round(quantile(taken, 0.5), 3),
                "p95": round(quantile(taken, 0.95), 3),
            }
            for name, taken in sorted(log.seconds.items())
        },
        "memory": log.memory,
        "wrong": wrong,
    }
    print(json.dumps(result, indent=2))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
