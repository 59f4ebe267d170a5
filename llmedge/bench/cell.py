"""One measurement, as it runs in a process of its own: load, warm up, repeat, report, wait.

It measures and judges nothing. What only an onlooker can see (peak memory, the hottest sensor) is
`watch`'s.
"""

from __future__ import annotations

import os
import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.bench.judge import Readings, flags_of, judge
from llmedge.bench.plateau import Window
from llmedge.core.errors import EngineError
from llmedge.host.clock import read_clock_hz, read_throttling
from llmedge.host.effort import EffortWatch, forget_touched, read_mapped_pages
from llmedge.host.load import LoadWatch
from llmedge.host.memory import read_process_memory
from llmedge.host.sensors import EnergyMeter, read_power_source, read_temperature
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.library import library, library_info, log_listener
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmedge.host.child import Talk

# Source: llama.cpp's log of `llama_model_load` and `llama_context`, `NAME buffer size = 1.5 MiB`.
_BUFFER = re.compile(r"(\S+) +(?:\S+ +)?buffer size = +([0-9.]+) MiB")
_MIB = 1 << 20
_LEAST_WINDOW_S, _MOST_WINDOW_S, _WINDOWS = 1.0, 10.0, 60
_DISTURBED = {"contended", "swapping"}


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured in one process.

    Attributes:
        path: The model's file.
        n_prompt: Tokens of prompt processing.
        n_gen: Tokens of token generation.
        n_depth: Tokens in the kv cache before each repetition.
        repetitions: How often each is measured, after one that is thrown away.
        model: How to load.
        context: How to run, with the tokens of context.
        sustained_s: Seconds of generation without a pause, afterwards; 0 for none.
    """

    path: Path
    n_prompt: int
    n_gen: int
    n_depth: int
    repetitions: int
    model: ModelOptions
    context: ContextOptions
    sustained_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Begun:
    """Said when the measuring begins: the model is loaded and warm."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the process found.

    Attributes:
        load_s: From opening the file to a context that is ready.
        prompt_s: Seconds of each repetition of prompt processing.
        first_token_s: The same with the choice of the first token.
        token_s: Seconds of each token of each repetition of generation.
        prompt_j: Joules of all repetitions of the prompt, `None` where they cannot be read.
        generation_j: The same of generation.
        n_generated: Tokens generated in all repetitions.
        baseline_bytes: Resident memory before the model was loaded.
        touched_file_bytes: Mapped pages of the file that were touched.
        reserved_bytes: Sum of llama.cpp's buffers.
        repacked_bytes: Of it, repacked weights.
        description: llama.cpp's words for the model.
        n_params: Its weights.
        n_threads: Threads in use.
        n_ctx: Tokens of context, padded.
        readings: What disturbed it.
        clock_hz: Before, after.
        windows: Of the long run.
    """

    load_s: float
    prompt_s: tuple[float, ...]
    first_token_s: tuple[float, ...]
    token_s: tuple[tuple[float, ...], ...]
    prompt_j: float | None
    generation_j: float | None
    n_generated: int
    baseline_bytes: int
    touched_file_bytes: int | None
    reserved_bytes: int
    repacked_bytes: int
    description: str
    n_params: int
    n_threads: int
    n_ctx: int
    readings: Readings
    clock_hz: tuple[float | None, float | None]
    windows: tuple[Window, ...]


class Disturbance:
    """Reads what disturbs this process, from its making on.

    Args:
        n_threads: Threads that compute.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._clock_hz = read_clock_hz()
        self._throttling = read_throttling()
        self._effort = EffortWatch()
        self._load = LoadWatch(os.getppid())  # who started us watches, and counts as ours

    def read(self) -> Readings:
        """Return the readings since then."""
        load, effort = self._load.stop(), self._effort.stop()
        throttling, clock = read_throttling(), read_clock_hz()
        before, after = self._throttling.n_events, throttling.n_events
        switches = effort.involuntary_switches
        return Readings(
            load=load,
            cpu_efficiency=effort.efficiency(self._n_threads),
            waiting=effort.waiting_share,
            switches_per_s=None
            if switches is None
            else switches / max(effort.wall_s, 1e-9) / self._n_threads,
            swapped_in_bytes=effort.swapped_in_bytes,
            n_throttle_events=None if before is None or after is None else after - before,
            is_capped=throttling.is_capped,
            clock_share=clock / self._clock_hz if clock and self._clock_hz else None,
            power_source=read_power_source(),
            is_offloaded=library_info().can_offload,
        )


def load_only(talk: Talk, cell: Cell) -> float:
    """Run in a child: return the seconds from opening the file to a context that is ready."""
    del talk
    library()
    start = time.perf_counter()
    with Model.load(cell.path, cell.model) as model, Context(model, cell.context):
        return time.perf_counter() - start


def measure(talk: Talk, cell: Cell) -> None:
    """Run in a child: measure, say what was found, and wait to be let go."""
    library()
    baseline = read_process_memory(os.getpid())
    log: list[str] = []
    start = time.perf_counter()
    with (
        log_listener(lambda _, text: log.append(text)),
        Model.load(cell.path, cell.model) as model,
        Context(model, cell.context) as context,
        Batch(context.n_batch) as batch,
    ):
        load_s = time.perf_counter() - start
        bench = _Bench(talk, cell, context, batch)
        bench.warm_up()
        clock_hz = read_clock_hz()
        talk.say(Begun())
        disturbance = Disturbance(context.n_threads)
        bench.repeat()
        readings = disturbance.read()
        touched = read_mapped_pages(os.getpid(), cell.path)
        reserved, repacked = _buffers("".join(log))
        windows = bench.run_long() if cell.sustained_s else ()
        measured = Measured(
            load_s=load_s,
            prompt_s=tuple(bench.prompt_s),
            first_token_s=tuple(bench.first_token_s),
            token_s=tuple(bench.token_s),
            prompt_j=bench.prompt_j.total,
            generation_j=bench.generation_j.total,
            n_generated=sum(map(len, bench.token_s)),
            baseline_bytes=baseline.resident_bytes if baseline else 0,
            touched_file_bytes=touched,
            reserved_bytes=reserved,
            repacked_bytes=repacked,
            description=model.description,
            n_params=model.n_params,
            n_threads=context.n_threads,
            n_ctx=context.n_ctx,
            readings=readings,
            clock_hz=(clock_hz, read_clock_hz()),
            windows=windows,
        )
        talk.say(measured)
        talk.hear()  # memory is still to be read


class _Joules:
    """Adds up joules; one stretch that cannot be read makes the sum unknown."""

    def __init__(self) -> None:
        self.total: float | None = 0.0

    def add(self, joules: float | None) -> None:
        self.total = None if joules is None or self.total is None else self.total + joules


class _Bench:
    """The repetitions of one cell."""

    def __init__(self, talk: Talk, cell: Cell, context: Context, batch: Batch) -> None:
        self._talk, self._cell, self._context, self._batch = talk, cell, context, batch
        n_most = max(cell.n_prompt, cell.n_gen, cell.n_depth)
        self._tokens = random_tokens(context.model.vocab.n_tokens, n_most)
        self._meter = EnergyMeter()
        self._state: bytes | None = None
        self.prompt_s: list[float] = []
        self.first_token_s: list[float] = []
        self.token_s: list[tuple[float, ...]] = []
        self.prompt_j, self.generation_j = _Joules(), _Joules()

    def warm_up(self) -> None:
        """Fill the depth, and run both once: pages, caches and thread pool are cold once."""
        cell, context = self._cell, self._context
        forget_touched()
        if cell.n_depth:
            process_prompt(context, self._batch, self._tokens[: cell.n_depth])
            # A sliding window has dropped what a longer sequence no longer sees.
            if not context.model.can_rewind or context.model.window:
                self._state = context.save_state()
        self._rewind()
        self._prompt()
        self._rewind()
        self._generate()

    def repeat(self) -> None:
        """Measure both as often as wanted."""
        for done in range(self._cell.repetitions):
            self._rewind()
            self._meter.take()
            whole, first = self._prompt()
            self.prompt_j.add(self._meter.take())
            self.prompt_s.append(whole)
            self.first_token_s.append(first)
            self._talk.say(done + 1)
        for done in range(self._cell.repetitions):
            self._rewind()
            self._meter.take()
            self.token_s.append(self._generate())
            self.generation_j.add(self._meter.take())
            self._talk.say(self._cell.repetitions + done + 1)

    def run_long(self) -> tuple[Window, ...]:
        """Generate without a pause; what rewinding takes is not counted."""
        seconds = self._cell.sustained_s
        length = min(max(seconds / _WINDOWS, _LEAST_WINDOW_S), _MOST_WINDOW_S)
        begin = time.perf_counter()
        windows: list[Window] = []
        while time.perf_counter() - begin < seconds:
            start_s = time.perf_counter() - begin
            disturbance = Disturbance(self._context.n_threads)
            n_tokens, spent_s = 0, 0.0
            while spent_s < length:
                self._rewind()
                token_s = self._generate()
                n_tokens += len(token_s)
                spent_s += sum(token_s)
            flags = flags_of(judge(disturbance.read()))
            windows.append(
                Window(
                    start_s,
                    n_tokens / spent_s,
                    read_temperature(),
                    read_clock_hz(),
                    is_disturbed=bool(_DISTURBED & set(flags)),
                )
            )
            self._talk.say(2 * self._cell.repetitions)
        return tuple(windows)

    def _rewind(self) -> None:
        if not self._cell.n_depth:
            self._context.clear()
        elif self._state is None:
            self._context.remove(0, self._cell.n_depth)
        else:
            self._context.clear()
            self._context.restore_state(self._state)

    def _prompt(self) -> tuple[float, float]:
        cell = self._cell
        start = time.perf_counter()
        process_prompt(
            self._context, self._batch, self._tokens[: cell.n_prompt], cell.n_depth, is_first=False
        )
        done = time.perf_counter()
        self._context.likeliest(self._batch.n_tokens - 1)
        return done - start, time.perf_counter() - start

    def _generate(self) -> tuple[float, ...]:
        cell = self._cell
        return generate(
            self._context,
            self._batch,
            self._tokens[: cell.n_gen],
            cell.n_depth,
        )


def process_prompt(
    context: Context,
    batch: Batch,
    tokens: Sequence[int],
    n_depth: int = 0,
    *,
    is_first: bool = True,
) -> None:
    """Decode a prompt, as many tokens a call as the batch holds.

    Args:
        context: Where.
        batch: What carries it.
        tokens: The prompt.
        n_depth: Tokens before it in the kv cache.
        is_first: Whether to begin with an empty kv cache.
    """
    if is_first:
        context.clear()
    for position in range(0, len(tokens), batch.n_max):
        part = tokens[position : position + batch.n_max]
        batch.fill(part, n_depth + position, n_logits=int(position + len(part) == len(tokens)))
        _decode(context, batch)


def generate(
    context: Context,
    batch: Batch,
    tokens: Sequence[int],
    n_depth: int = 0,
) -> tuple[float, ...]:
    """Decode tokens one a call, as generation does; nothing is sampled.

    Returns:
        The seconds of each.
    """
    last = time.perf_counter()
    seconds: list[float] = []
    for position, token in enumerate(tokens, start=n_depth):
        batch.fill([token], position)
        _decode(context, batch)
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    return tuple(seconds)


def _decode(context: Context, batch: Batch) -> None:
    if context.decode(batch) is not DecodeResult.OK:
        raise EngineError("the context is too small for the measurement", "leave --ctx away")


def random_tokens(n_vocab: int, n: int) -> list[int]:
    """Return tokens, always the same: a mixture of experts takes another path for others."""
    source = random.Random(0)
    return [source.randrange(n_vocab) for _ in range(n)]


def _buffers(log: str) -> tuple[int, int]:
    """Return the sum of llama.cpp's buffers, and of it the repacked weights."""
    found = [(name, float(size) * _MIB) for name, size in _BUFFER.findall(log)]
    repacked = sum(size for name, size in found if "REPACK" in name)
    return int(sum(size for _, size in found)), int(repacked)
