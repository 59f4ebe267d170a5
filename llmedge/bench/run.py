"""Prompt and generation speed, load time and memory of models on this machine.

Every model is measured in a fresh process, so that its peak memory is its own.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmedge.bench.fingerprint import take_fingerprint
from llmedge.bench.record import BenchResult, Rate
from llmedge.core.errors import EngineError, ResourceError, UsageError
from llmedge.host.child import Child, ChildDied, Talk
from llmedge.host.load import LoadWatch
from llmedge.host.memory import PeakMemory, read_process_memory
from llmedge.host.sensors import energy_between, read_energy_j, read_temperature
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.first_load import ensure_loads
from llmedge.runtime.library import library
from llmedge.runtime.model import Model, ModelOptions
from llmedge.store.catalog import model_id
from llmedge.store.manifest import utc_now
from llmedge.store.records import append_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmedge.core.progress import Progress, Task
    from llmedge.core.settings import Settings
    from llmedge.gguf.reader import Header


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure; the defaults are llama-bench's.

    Attributes:
        n_prompt: Tokens of prompt processing.
        n_gen: Tokens of token generation.
        repetitions: How often each is measured, after one that is thrown away.
        model: How to load.
        context: How to run; its `n_ctx` must hold what is measured.
    """

    n_prompt: int = 512
    n_gen: int = 128
    repetitions: int = 5
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions()


@dataclass(frozen=True, slots=True)
class _Measured:
    prompt: tuple[float, ...]
    generation: tuple[float, ...]
    load_s: float
    baseline_bytes: int
    n_threads: int
    n_ctx: int


def bench(
    paths: Sequence[Path], options: BenchOptions, settings: Settings, progress: Progress
) -> list[BenchResult]:
    """Measure models one after the other, and record the results.

    Raises:
        UsageError: Nothing to measure.
        IntegrityError: A file is damaged.
        ResourceError: The measuring process was killed.
    """
    if min(options.n_prompt, options.n_gen, options.repetitions) < 1:
        raise UsageError("prompt tokens, generated tokens and repetitions must be at least 1")
    results: list[BenchResult] = []
    for path in paths:
        header = ensure_loads(path, settings.state_dir)
        with progress.task(path.stem, total=2 * options.repetitions, unit="runs") as task:
            result = _bench_one(header, options, settings, task)
        append_record(settings, "bench", result)
        results.append(result)
    return results


def _bench_one(
    header: Header, options: BenchOptions, settings: Settings, task: Task
) -> BenchResult:
    energy_before = read_energy_j()
    with Child(_measure, header.path, options) as child, PeakMemory(child.pid) as memory:
        load = LoadWatch(child.pid)
        try:
            for message in child.messages():
                if isinstance(message, _Measured):
                    break
                task.update(float(message))
            else:
                raise EngineError("the measuring process ended without a result")
            # The process waits for a word, so that its memory and CPU time can still be read.
            report, peak = load.stop(), memory.stop()
            child.say("done")
            child.wait()
        except ChildDied as death:
            raise ResourceError(
                f"measuring {header.path.name} ended by {death.cause}: "
                f"{death.stderr or 'most likely the system ran out of memory'}",
                "try a smaller model, or a smaller --batch and --ubatch",
            ) from None
    return BenchResult(
        model=model_id(settings, header.path),
        file_bytes=header.file_bytes,
        bits_per_weight=round(header.bits_per_weight, 4),
        prompt=Rate(options.n_prompt, message.prompt),
        generation=Rate(options.n_gen, message.generation),
        load_s=message.load_s,
        peak_resident_bytes=peak.resident_bytes,
        peak_anonymous_bytes=peak.anonymous_bytes,
        baseline_bytes=message.baseline_bytes,
        load=report,
        temperature_celsius=read_temperature(),
        energy_j=energy_between(energy_before, read_energy_j()),
        fingerprint=take_fingerprint(
            options.model, replace(options.context, n_ctx=message.n_ctx), message.n_threads
        ),
        created=utc_now(),
    )


def _measure(talk: Talk, path: Path, options: BenchOptions) -> None:
    """Run in the child: load the model, repeat both measurements, wait to be let go."""
    library()
    baseline = read_process_memory(os.getpid())
    start = time.perf_counter()
    with (
        Model.load(path, options.model) as model,
        Context(model, options.context) as context,
        Batch(context.n_batch) as batch,
    ):
        load_s = time.perf_counter() - start
        tokens = _random_tokens(model.vocab.n_tokens, max(options.n_prompt, options.n_gen))
        prompt, generation = tokens[: options.n_prompt], tokens[: options.n_gen]
        done = 0

        def repeat(run: Callable[[], None], n_tokens: int) -> tuple[float, ...]:
            nonlocal done
            run()  # pages, caches and thread pool are cold once
            samples: list[float] = []
            for _ in range(options.repetitions):
                begin = time.perf_counter()
                run()
                samples.append(n_tokens / (time.perf_counter() - begin))
                done += 1
                talk.say(done)
            return tuple(samples)

        measured = _Measured(
            prompt=repeat(lambda: process_prompt(context, batch, prompt), len(prompt)),
            generation=repeat(lambda: generate(context, batch, generation), len(generation)),
            load_s=load_s,
            baseline_bytes=baseline.resident_bytes if baseline else 0,
            n_threads=context.n_threads,
            n_ctx=context.n_ctx,
        )
        talk.say(measured)
        talk.hear()


def process_prompt(context: Context, batch: Batch, tokens: Sequence[int]) -> None:
    """Decode a prompt from an empty kv cache, as many tokens a call as the batch holds."""
    context.clear()
    for position in range(0, len(tokens), batch.n_max):
        part = tokens[position : position + batch.n_max]
        batch.fill(part, position, n_logits=int(position + len(part) == len(tokens)))
        _decode(context, batch)


def generate(context: Context, batch: Batch, tokens: Sequence[int]) -> None:
    """Decode tokens one a call from an empty kv cache, as generation does; nothing is sampled."""
    context.clear()
    for position, token in enumerate(tokens):
        batch.fill([token], position)
        _decode(context, batch)


def _decode(context: Context, batch: Batch) -> None:
    if context.decode(batch) is not DecodeResult.OK:
        raise EngineError("the context is too small for the measurement")


def _random_tokens(n_vocab: int, n: int) -> list[int]:
    # Always the same: mixtures of experts take different paths for different tokens.
    source = random.Random(0)
    return [source.randrange(n_vocab) for _ in range(n)]
