import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.bench import place as place_module
from llmedge.bench.cell import Cell, measure
from llmedge.bench.judge import Readings
from llmedge.bench.place import Host, Observation, parse_place
from llmedge.bench.run import bench, latency_of
from llmedge.bench.suite import BenchOptions
from llmedge.bench.watch import CellWatch
from llmedge.core.errors import (
    IntegrityError,
    ResourceError,
    UnsupportedError,
    UntrustworthyError,
    UsageError,
)
from llmedge.core.progress import Task
from llmedge.core.settings import Settings
from llmedge.host.child import Talk
from llmedge.host.load import LoadReport
from llmedge.runtime.context import ContextOptions
from llmedge.store.records import read_records
from tests.fakes import RecordingProgress

SHORT = BenchOptions(
    n_prompt=40,
    n_gen=8,
    repetitions=3,
    context=ContextOptions(n_ctx=300, n_threads=1),
    contended="flag",
)
QUIET = Readings(LoadReport(0.0, 0.0, None), 1.0)
BUSY = Readings(LoadReport(0.9, 0.0, None), 0.5)


def test_a_result_has_every_figure(smollm2: Path, settings: Settings):
    progress = RecordingProgress()
    options = replace(SHORT, depths=(0, 64), is_cold=True, languages=("en", "hi"))
    first, deep = bench([smollm2], options, settings, progress).results
    assert (first.n_depth, deep.n_depth) == (0, 64)
    for result in (first, deep):
        assert (result.prompt.n_tokens, result.generation.n_tokens) == (40, 8)
        assert len(result.prompt.samples) == len(result.generation.samples) == 3
        assert result.prompt.best >= result.prompt.mean > 0
        assert result.latency is not None
        assert 0 < result.latency.inter_token_p50_s <= result.latency.inter_token_p99_s
        assert result.latency.first_token_s > 0
        assert result.load is not None
        assert result.load.warm_s > 0
        memory = result.memory
        assert memory is not None
        # The weights are mapped, so they are resident; the baseline is the interpreter.
        assert memory.resident_peak_bytes > result.facts.file_bytes * 0.8
        assert 0 < memory.baseline_bytes < memory.resident_peak_bytes
        assert memory.reserved_bytes > result.facts.tensor_bytes
        if sys.platform == "linux":
            assert memory.anonymous_peak_bytes is not None
            assert 0 < memory.anonymous_peak_bytes < memory.resident_peak_bytes
            assert memory.touched_file_bytes is not None
            assert memory.touched_file_bytes <= result.facts.file_bytes * 1.01
            assert memory.touched_file_bytes > result.facts.file_bytes * 0.5
            assert memory.proportional_peak_bytes is not None
        english, hindi = result.words
        assert english.words_per_s > hindi.words_per_s > 0
        assert result.fingerprint.n_threads == 1
        assert result.fingerprint.n_ctx == 512
        assert "Q4_1" in result.facts.description
    assert progress.updates[-1][1] == 12
    records = read_records(settings, "bench")
    assert [record["schema"] for record in records] == ["llmedge.bench/2"] * 2


def test_a_long_run_has_windows(tiny_model: Path, settings: Settings):
    options = replace(SHORT, repetitions=1, sustained_s=2.0)
    (result,) = bench([tiny_model], options, settings, RecordingProgress()).results
    assert result.sustained is not None
    assert result.sustained.windows
    assert result.sustained.plateau_tokens_per_s > 0


class Scripted:
    """A place where the real measurement runs, and its readings are made up."""

    name = "host"

    def __init__(self, *readings: Readings) -> None:
        self.readings = list(readings)
        self.n_tries = 0

    def run(self, cell: Cell, task: Task) -> Observation:
        self.n_tries += 1
        found = Host().run(cell, task)
        return replace(found, measured=replace(found.measured, readings=self.readings.pop(0)))

    def load_cold(self, cell: Cell) -> float | None:
        return None


@pytest.mark.parametrize(
    ("readings", "policy", "n_tries", "n_kept", "pauses"),
    [
        ([QUIET], "refuse", 1, 1, []),
        ([BUSY, QUIET], "refuse", 2, 1, [3.0]),
        ([BUSY, BUSY, BUSY], "refuse", 3, 0, [3.0, 6.0]),
        ([BUSY], "flag", 1, 1, []),
        ([replace(QUIET, power_source="charging")], "refuse", 1, 0, []),
    ],
)
def test_a_disturbed_cell_is_tried_again_then_refused(
    tiny_model: Path, settings: Settings, readings, policy, n_tries, n_kept, pauses
):
    place, waited = Scripted(*readings), []
    options = replace(SHORT, repetitions=1, contended=policy)
    outcome = bench(
        [tiny_model], options, settings, RecordingProgress(), place, pause=waited.append
    )
    assert (place.n_tries, len(outcome.results), waited) == (n_tries, n_kept, pauses)
    assert len(read_records(settings, "bench")) == n_kept
    if n_kept:
        outcome.require_trust()
        assert outcome.results[0].is_trusted == (policy == "refuse")
    else:
        with pytest.raises(UntrustworthyError, match="is not trustworthy: c"):
            outcome.require_trust()


def test_nothing_to_measure_is_refused(tiny_model: Path, settings: Settings):
    with pytest.raises(UsageError, match="at least 1"):
        bench([tiny_model], replace(SHORT, n_gen=0), settings, RecordingProgress())


def test_a_damaged_file_is_refused(tiny_copy: Path, settings: Settings):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        bench([tiny_copy], SHORT, settings, RecordingProgress())


def die(talk: Talk, cell: Cell) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_measuring_process_that_is_killed_is_a_resource_error(
    tiny_model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    assert place_module.measure is measure
    monkeypatch.setattr(place_module, "measure", die)
    with pytest.raises(ResourceError, match=r"ended by SIGKILL: most likely .* out of memory"):
        bench([tiny_model], SHORT, settings, RecordingProgress())
    assert read_records(settings, "bench") == []


def test_percentiles_are_over_all_tokens_of_all_repetitions():
    latency = latency_of([0.3, 0.1, 0.2], [[0.01] * 99, [1.0]])
    assert latency is not None
    assert (latency.first_token_s, latency.inter_token_p50_s) == (0.2, 0.01)
    assert latency.inter_token_p99_s == 1.0
    assert latency_of([], []) is None


def test_the_watch_keeps_the_peak_and_counts_the_clock_from_the_mark():
    heat, clock = iter([40.0, 60.0]), iter([1e9])
    watch = CellWatch(os.getpid(), lambda: next(heat), lambda: next(clock))
    watch.mark()
    seen = watch.stop()
    assert (seen.before_celsius, seen.peak_celsius, seen.after_celsius) == (40.0, 60.0, 60.0)
    assert seen.clock_least_hz == 1e9
    assert seen.memory.resident_bytes > 0


def test_only_this_machine_is_a_place():
    assert parse_place("host").name == "host"
    for text in ("ssh:pi@board", "adb:1", "cap:1GiB"):
        with pytest.raises(UnsupportedError, match="only this machine"):
            parse_place(text)
    with pytest.raises(UsageError):
        parse_place("moon")
