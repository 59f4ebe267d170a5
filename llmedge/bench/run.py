"""Measure models cell by cell: try, judge, try again, refuse or record."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmedge.bench.fingerprint import take_fingerprint
from llmedge.bench.judge import PASSING, Finding, flags_of, judge
from llmedge.bench.place import Host, Observation, Place
from llmedge.bench.plateau import find_plateau
from llmedge.bench.record import (
    BenchResult,
    Energy,
    Heat,
    Latency,
    LoadTimes,
    MemoryUse,
    ModelFacts,
    Rate,
    Words,
)
from llmedge.bench.suite import plan_cells
from llmedge.core.errors import UntrustworthyError
from llmedge.host.sensors import read_power_source
from llmedge.measure.corpus import udhr_corpus
from llmedge.measure.fertility import model_fertility
from llmedge.runtime.first_load import ensure_loads
from llmedge.store.catalog import model_id
from llmedge.store.manifest import utc_now
from llmedge.store.records import append_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmedge.bench.cell import Cell, Measured
    from llmedge.bench.suite import BenchOptions
    from llmedge.core.progress import Progress, Task
    from llmedge.core.settings import Settings
    from llmedge.gguf.reader import Header

_TRIES = 3
_PAUSE_S = 3.0  # before the second try; twice that before the third


@dataclass(frozen=True, slots=True)
class Refusal:
    """A cell whose every try was disturbed.

    Attributes:
        model: The model's id.
        n_depth: Tokens in the kv cache.
        findings: What was wrong with the last try.
    """

    model: str
    n_depth: int
    findings: tuple[Finding, ...]

    def describe(self) -> str:
        """Say it in a line."""
        flags = ", ".join(flags_of(self.findings))
        reasons = "; ".join(finding.reason for finding in self.findings)
        return f"{self.model} at depth {self.n_depth} is not trustworthy: {flags} ({reasons})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark gave.

    Attributes:
        results: What was recorded.
        refusals: What was not.
    """

    results: tuple[BenchResult, ...]
    refusals: tuple[Refusal, ...] = ()

    def require_trust(self) -> None:
        """Raise when anything was refused.

        Raises:
            UntrustworthyError: Which cells, and why.
        """
        if self.refusals:
            raise UntrustworthyError(
                "\n".join(refusal.describe() for refusal in self.refusals),
                "close other programs and let the machine cool, or keep the figures marked with "
                "--contended flag",
            )


def bench(
    paths: Sequence[Path],
    options: BenchOptions,
    settings: Settings,
    progress: Progress,
    place: Place | None = None,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Measure models one after the other, and record what can be believed.

    Args:
        paths: Their files.
        options: What to measure.
        settings: Where the records are.
        progress: Shows how far it is.
        place: Where the cells run; this machine by default.
        pause: Waits before another try.

    Raises:
        UsageError: Nothing to measure.
        IntegrityError: A file is damaged.
        ResourceError: A measuring process was killed.
    """
    headers = [ensure_loads(path, settings.state_dir) for path in paths]
    plans = [plan_cells(header, options) for header in headers]
    run = _Run(options, settings, place or Host(), pause)
    for header, cells in zip(headers, plans, strict=True):
        run.measure(header, cells, progress)
    return Outcome(tuple(run.results), tuple(run.refusals))


class _Run:
    def __init__(
        self,
        options: BenchOptions,
        settings: Settings,
        place: Place,
        pause: Callable[[float], None],
    ) -> None:
        self._options, self._settings = options, settings
        self._place, self._pause = place, pause
        self.results: list[BenchResult] = []
        self.refusals: list[Refusal] = []

    def measure(self, header: Header, cells: Sequence[Cell], progress: Progress) -> None:
        name = model_id(self._settings, header.path)
        words = _tokens_per_word(header.path, self._options.languages)
        with progress.task(
            header.path.stem, total=2 * self._options.repetitions * len(cells), unit="runs"
        ) as task:
            cold_s: dict[str, float | None] = {}
            for number, cell in enumerate(cells):
                mode = cell.model.load_mode
                if self._options.is_cold and mode not in cold_s:
                    cold_s[mode] = self._place.load_cold(cell)
                shifted = _Shifted(task, 2 * cell.repetitions * number)
                observation, findings = self._try(cell, shifted)
                if findings and self._options.contended == "refuse":
                    self.refusals.append(Refusal(name, cell.n_depth, findings))
                    continue
                result = make_result(header, cell, observation, findings, place=self._place.name)
                result = replace(
                    result,
                    model=name,
                    load=LoadTimes(observation.measured.load_s, cold_s.get(mode)),
                    words=speeds_in(words, result.generation.mean),
                )
                append_record(self._settings, "bench", result)
                self.results.append(result)

    def _try(self, cell: Cell, task: Task) -> tuple[Observation, tuple[Finding, ...]]:
        """Run a cell until a try is undisturbed, or there have been enough of them."""
        n_tries = 1 if self._options.contended == "flag" else _TRIES
        number = 1
        while True:
            observation = self._place.run(cell, task)
            findings = judge_observation(observation)
            # What does not pass by itself is not waited for.
            is_passing = set(flags_of(findings)) <= PASSING
            if not findings or not is_passing or number == n_tries:
                return observation, findings
            self._pause(_PAUSE_S * number)
            number += 1


def judge_observation(observation: Observation) -> tuple[Finding, ...]:
    """Return what speaks against an observation; of a long run, whether too much was disturbed."""
    measured = observation.measured
    findings = judge(measured.readings)
    if measured.windows:
        long = find_plateau(measured.windows, 0)
        if not long.is_trusted:
            reason = f"{long.n_disturbed} of {len(long.windows)} windows were disturbed"
            findings = (*findings, Finding("contended", reason))
    return findings


def make_result(
    header: Header,
    cell: Cell,
    observation: Observation,
    findings: tuple[Finding, ...],
    place: str = "host",
) -> BenchResult:
    """Turn an observation into a record; the model's id is its file's stem."""
    measured, seen = observation.measured, observation.seen
    context = replace(cell.context, n_ctx=measured.n_ctx)
    return BenchResult(
        model=header.path.stem,
        facts=ModelFacts(
            file=header.path.name,
            file_bytes=header.file_bytes,
            tensor_bytes=header.tensor_bytes,
            n_params=measured.n_params,
            bits_per_weight=round(header.bits_per_weight, 4),
            description=measured.description,
        ),
        n_depth=cell.n_depth,
        prompt=Rate(cell.n_prompt, tuple(cell.n_prompt / s for s in measured.prompt_s)),
        generation=Rate(cell.n_gen, tuple(len(s) / sum(s) for s in measured.token_s)),
        latency=latency_of(measured.first_token_s, measured.token_s),
        load=LoadTimes(measured.load_s, None),
        memory=MemoryUse(
            touched_file_bytes=measured.touched_file_bytes,
            anonymous_peak_bytes=seen.memory.anonymous_bytes,
            resident_peak_bytes=seen.memory.resident_bytes,
            proportional_peak_bytes=seen.memory.proportional_bytes,
            reserved_bytes=measured.reserved_bytes,
            repacked_bytes=measured.repacked_bytes,
            baseline_bytes=measured.baseline_bytes,
        ),
        energy=_energy(cell, measured),
        heat=Heat(
            before_celsius=seen.before_celsius,
            peak_celsius=seen.peak_celsius,
            after_celsius=seen.after_celsius,
            clock_before_hz=measured.clock_hz[0],
            clock_least_hz=seen.clock_least_hz,
            clock_after_hz=measured.clock_hz[1],
        ),
        words=(),
        readings=measured.readings,
        flags=flags_of(findings),
        reasons=tuple(finding.reason for finding in findings),
        fingerprint=take_fingerprint(cell.model, context, measured.n_threads, place),
        created=utc_now(),
        sustained=find_plateau(measured.windows, cell.sustained_s) if measured.windows else None,
    )


def _energy(cell: Cell, measured: Measured) -> Energy:
    # A battery that charges says nothing of what the processor takes.
    if read_power_source() == "charging":
        return Energy()
    n_prompt = cell.n_prompt * len(measured.prompt_s)
    prompt, generation = measured.prompt_j, measured.generation_j
    return Energy(
        None if prompt is None else prompt / n_prompt,
        None if generation is None else generation / max(1, measured.n_generated),
    )


def latency_of(
    first_token_s: Sequence[float], token_s: Sequence[Sequence[float]]
) -> Latency | None:
    """Return medians and percentiles (nearest rank) over all repetitions; `None` without any."""
    tokens = sorted(seconds for repetition in token_s for seconds in repetition)
    firsts = sorted(first_token_s)
    if not tokens or not firsts:
        return None
    p50, p90, p99 = (tokens[min(len(tokens) - 1, len(tokens) * p // 100)] for p in (50, 90, 99))
    return Latency(firsts[len(firsts) // 2], p50, p90, p99)


def speeds_in(tokens_per_word: dict[str, float], tg_tokens_per_s: float) -> tuple[Words, ...]:
    """Return words per second in languages."""
    return tuple(
        Words(language, tokens, tg_tokens_per_s / tokens)
        for language, tokens in tokens_per_word.items()
    )


def _tokens_per_word(path: Path, languages: Sequence[str]) -> dict[str, float]:
    if not languages:
        return {}
    corpora = {udhr_corpus(language): language for language in languages}
    found = model_fertility(path, corpora)
    return {
        corpora[corpus]: round(fertility.tokens_per_word, 4)
        for corpus, fertility in found.items()
        if fertility is not None
    }


class _Shifted:
    """A task of which some is done already."""

    def __init__(self, task: Task, done: float) -> None:
        self._task, self._done = task, done

    def update(self, completed: float, note: str = "") -> None:
        self._task.update(self._done + completed, note)
