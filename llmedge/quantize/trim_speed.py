"""Tokens per second and memory of two models, in turns, so that a busy machine disturbs both.

Each runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import EngineError, ResourceError
from llmedge.host.child import Child, ChildDied
from llmedge.host.memory import read_process_memory
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmedge.core.progress import Task
    from llmedge.host.child import Talk

N_ROUNDS = 7
N_GEN = 64
_N_CTX = 256


@dataclass(frozen=True, slots=True)
class Speed:
    """What one model does on this machine.

    Attributes:
        tg_tokens_per_s: Median of the rounds.
        resident_bytes: Memory of its process afterwards, mapped weights included.
    """

    tg_tokens_per_s: float
    resident_bytes: int | None


def measure_speeds(
    runs: Sequence[tuple[Path, Sequence[int]]], n_threads: int, task: Task
) -> tuple[Speed, ...]:
    """Let models generate in turns.

    Args:
        runs: A model's file, and the tokens it is fed, at most `N_GEN`.
        n_threads: Threads to compute with.
        task: Shown the rounds that are done.

    Raises:
        ResourceError: A model's process was killed.
    """
    rates: list[list[float]] = [[] for _ in runs]
    try:
        with contextlib.ExitStack() as stack:
            children = [
                stack.enter_context(Child(_generate, path, list(tokens), n_threads))
                for path, tokens in runs
            ]
            answers = [child.messages() for child in children]
            for done in range(1, N_ROUNDS + 1):
                for child, answer, measured in zip(children, answers, rates, strict=True):
                    child.say("go")
                    measured.append(next(answer))
                task.update(float(done))
            memory = [read_process_memory(child.pid) for child in children]
    except ChildDied as death:
        raise ResourceError(
            f"measuring ended by {death.cause}: {death.stderr or 'most likely out of memory'}",
            "--no-bench leaves the measuring out",
        ) from None
    return tuple(
        Speed(statistics.median(measured), used.resident_bytes if used else None)
        for measured, used in zip(rates, memory, strict=True)
    )


def _generate(talk: Talk, path: Path, tokens: list[int], n_threads: int) -> None:
    """Run in the child: one round a word from the parent, until it ends us."""
    options = ContextOptions(n_ctx=_N_CTX, n_threads=n_threads)
    with Model.load(path) as model, Context(model, options) as context, Batch(1) as batch:
        _run(context, batch, tokens)  # pages, caches and thread pool are cold once
        while talk.hear():
            start = time.perf_counter()
            _run(context, batch, tokens)
            talk.say(len(tokens) / (time.perf_counter() - start))


def _run(context: Context, batch: Batch, tokens: list[int]) -> None:
    context.clear()
    for position, token in enumerate(tokens):
        batch.fill([token], position)
        if context.decode(batch) is not DecodeResult.OK:
            raise EngineError("the context is too small for the measurement")
