"""Counters, gauges and histograms in Prometheus' text form.

Source: Prometheus documentation, "Exposition formats" (text, version 0.0.4).
"""

from __future__ import annotations

import asyncio
import bisect
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmedge.core.errors import LlmedgeError
from llmedge.serve.pressure import CAUSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llmedge.engine.engine import Engine, EngineStats
    from llmedge.serve.pressure import PressureWatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKENS = (1, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
_STATS_WAIT_S = 0.02
# Models come and go in a folder; a series that was begun stays until the end.
_MAX_MODELS = 64
_OTHER_MODELS = "other"

# Fields of EngineStats: name, type, help.
_STATS = (
    ("n_running", "requests_running", "gauge", "Requests that are being answered."),
    ("n_waiting", "requests_waiting", "gauge", "Requests that wait for a slot."),
    ("n_paused", "requests_paused", "gauge", "Requests set aside for lack of kv cache."),
    ("n_cells", "kv_cache_tokens", "gauge", "Tokens that the kv cache can hold."),
    ("n_cells_used", "kv_cache_used_tokens", "gauge", "Tokens that the kv cache holds."),
    ("n_cells_cached", "kv_cache_reusable_tokens", "gauge", "Of these, kept for later requests."),
    ("n_steps", "engine_steps_total", "counter", "Decode calls of the present process."),
    ("n_slots", "engine_slots", "gauge", "Requests that may be answered at once."),
    ("n_pauses", "engine_pauses_total", "counter", "Times that a request was set aside."),
    ("step_s", "engine_decode_seconds_total", "counter", "Seconds in decode calls."),
    ("sampling_s", "engine_sampling_seconds_total", "counter", "Seconds in sampling."),
    ("energy_j", "engine_energy_joules_total", "counter", "Joules of steps, where measured."),
    ("draft_s", "engine_draft_seconds_total", "counter", "Seconds of the draft model."),
    ("resident_bytes", "engine_resident_bytes", "gauge", "Memory of the engine's process."),
)


@dataclass(slots=True)
class Counter:
    """A number that only grows, by labels."""

    values: defaultdict[tuple[str, ...], float] = field(
        default_factory=lambda: defaultdict[tuple[str, ...], float](float)
    )

    def add(self, amount: float, *labels: str) -> None:
        """Count."""
        self.values[labels] += amount


class Histogram:
    """How often values fell into each bucket, by one label.

    Args:
        bounds: Upper bounds of the buckets, ascending; one for all that is larger is added.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets: dict[str, list[int]] = {}
        self.sums: defaultdict[str, float] = defaultdict(float)

    def observe(self, value: float, label: str) -> None:
        """Count a value."""
        buckets = self.buckets.get(label)
        if buckets is None:
            buckets = self.buckets[label] = [0] * (len(self.bounds) + 1)
        buckets[bisect.bisect_left(self.bounds, value)] += 1
        self.sums[label] += value


class Meters:
    """What the endpoint measures of the requests that it answers, by model."""

    def __init__(self) -> None:
        self.requests = Counter()
        self.prompt_tokens = Counter()
        self.cached_tokens = Counter()
        self.generated_tokens = Counter()
        self.drafted_tokens = Counter()
        self.accepted_tokens = Counter()
        self.first_token_s = Histogram(_SECONDS)
        self.token_gap_s = Histogram(_SECONDS)
        self.queue_s = Histogram(_SECONDS)
        self.request_s = Histogram(_SECONDS)
        self.prompt_size = Histogram(_TOKENS)
        self.answer_size = Histogram(_TOKENS)
        self._names: set[str] = set()
        self._stats: dict[str, EngineStats] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def label(self, model: str) -> str:
        """Return a model's name in the counters; those after the first many share one."""
        if model not in self._names:
            if len(self._names) >= _MAX_MODELS:
                return _OTHER_MODELS
            self._names.add(model)
        return model

    async def render(
        self,
        engines: Mapping[str, Engine],
        resident_bytes: int,
        watch: PressureWatch | None = None,
    ) -> str:
        """Return everything as text.

        An engine that does not answer at once is shown as it was when it last did.

        Args:
            engines: Those that are loaded, by model.
            resident_bytes: Memory of this process.
            watch: What the machine says, where it is asked.
        """
        await self._refresh(engines)
        lines = [
            *_family("process_resident_memory_bytes", "gauge", "Memory of the endpoint's process."),
            f"process_resident_memory_bytes {resident_bytes}",
            *self._counters(),
            *self._histograms(),
            *self._engines(engines),
            *(_pressure(watch) if watch is not None else ()),
        ]
        return "\n".join(lines) + "\n"

    async def _refresh(self, engines: Mapping[str, Engine]) -> None:
        for model in [name for name in self._stats if name not in engines]:
            del self._stats[model]
        for model, engine in engines.items():
            if model not in self._asking:
                task = asyncio.create_task(self._ask(model, engine))
                self._asking[model] = task
                task.add_done_callback(lambda _, model=model: self._asking.pop(model, None))
        if self._asking:
            await asyncio.wait(list(self._asking.values()), timeout=_STATS_WAIT_S)

    async def _ask(self, model: str, engine: Engine) -> None:
        try:
            self._stats[model] = await engine.stats()
        except LlmedgeError:
            self._stats.pop(model, None)  # restarting: there are no counters

    def _counters(self) -> Iterator[str]:
        yield from _counter(
            "requests",
            "Generations that ended or were refused, by outcome.",
            self.requests,
            "model",
            "outcome",
        )
        yield from _counter("prompt_tokens", "Tokens of prompts.", self.prompt_tokens, "model")
        yield from _counter(
            "cached_prompt_tokens",
            "Of these, tokens that were cached.",
            self.cached_tokens,
            "model",
        )
        yield from _counter(
            "generation_tokens", "Tokens generated.", self.generated_tokens, "model"
        )
        yield from _counter("drafted_tokens", "Tokens guessed ahead.", self.drafted_tokens, "model")
        yield from _counter(
            "accepted_tokens",
            "Of these, tokens that the model took.",
            self.accepted_tokens,
            "model",
        )

    def _histograms(self) -> Iterator[str]:
        for name, text, histogram in (
            ("time_to_first_token_seconds", "Until the first text.", self.first_token_s),
            ("inter_token_latency_seconds", "Between two parts of a text.", self.token_gap_s),
            ("queue_seconds", "Until a prompt was begun.", self.queue_s),
            ("request_seconds", "Whole generations.", self.request_s),
            ("request_prompt_tokens", "Tokens of one prompt.", self.prompt_size),
            ("request_generation_tokens", "Tokens of one answer.", self.answer_size),
        ):
            yield from _histogram(f"llmedge_{name}", text, histogram)

    def _engines(self, engines: Mapping[str, Engine]) -> Iterator[str]:
        yield from _family("llmedge_engine_up", "gauge", "Whether the engine is ready.")
        for model, engine in engines.items():
            yield f"llmedge_engine_up{_labels(model=model)} {int(engine.state == 'ready')}"
        yield from _family("llmedge_engine_restarts_total", "counter", "Engines started again.")
        for model, engine in engines.items():
            yield f"llmedge_engine_restarts_total{_labels(model=model)} {engine.n_restarts}"
        for attribute, name, kind, text in _STATS:
            yield from _family(f"llmedge_{name}", kind, text)
            for model, stats in self._stats.items():
                value = getattr(stats, attribute)
                if value is not None:
                    yield f"llmedge_{name}{_labels(model=model)} {value:.17g}"


def _pressure(watch: PressureWatch) -> Iterator[str]:
    name = "llmedge_parallelism_halvings"
    yield from _family(name, "gauge", "How often the slots are halved now.")
    yield f"{name} {watch.policy.level}"
    name = "llmedge_parallelism_lowered_total"
    yield from _family(name, "counter", "Times that the slots were halved.")
    yield f"{name} {watch.n_lowered}"
    name = "llmedge_pressure"
    yield from _family(name, "gauge", "Whether this is why there are fewer slots.")
    for cause in CAUSES:
        yield f"{name}{_labels(cause=cause)} {int(cause in watch.causes)}"
    condition = watch.condition
    if condition is None:
        return
    name = "llmedge_available_memory_bytes"
    yield from _family(name, "gauge", "Memory that can be used, within the limits.")
    yield f"{name} {condition.available_bytes}"
    if condition.stall is not None:
        name = "llmedge_memory_stall_ratio"
        yield from _family(name, "gauge", "Share of ten seconds that a task waited for memory.")
        yield f"{name} {condition.stall:.17g}"
    if condition.margin_celsius is not None:
        name = "llmedge_heat_margin_celsius"
        yield from _family(name, "gauge", "Degrees until the first sensor reaches its limit.")
        yield f"{name} {condition.margin_celsius:.17g}"


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _counter(name: str, text: str, counter: Counter, *names: str) -> Iterator[str]:
    full = f"llmedge_{name}_total"
    yield from _family(full, "counter", text)
    for labels, value in counter.values.items():
        yield f"{full}{_labels(**dict(zip(names, labels, strict=True)))} {value:.17g}"


def _histogram(name: str, text: str, histogram: Histogram) -> Iterator[str]:
    yield from _family(name, "histogram", text)
    for model, buckets in histogram.buckets.items():
        total = 0
        for bound, n in zip(_bounds(histogram), buckets, strict=True):
            total += n
            yield f"{name}_bucket{_labels(model=model, le=bound)} {total}"
        yield f"{name}_sum{_labels(model=model)} {histogram.sums[model]:.17g}"
        yield f"{name}_count{_labels(model=model)} {total}"


def _bounds(histogram: Histogram) -> Iterable[str]:
    return [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]


def _labels(**values: str) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in values.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
