"""A step's energy is shared out by the tokens in it."""

from __future__ import annotations

import math
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from llmedge.engine.backend import DecodeStatus
from llmedge.engine.core import open_core
from llmedge.engine.generation import Finished
from llmedge.engine.scheduler import Scheduler, SchedulerOptions
from tests.engine.fake_backend import FakeBackend, new_sequence
from tests.engine.test_core import load, request, run

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.engine.sequence import Sequence


class Meter:
    """Eight joules a step, and a thousand between two steps."""

    def __init__(self, *steps: float | None) -> None:
        self.readings = cycle([1000.0, *([8.0] if not steps else [steps[0]])])
        self.n_asked = 0

    def take(self) -> float | None:
        self.n_asked += 1
        return next(self.readings)


def answered(
    meter: Meter | None, *prompts: list[int], n_tokens: int = 4, n_batch: int = 16
) -> list[Sequence]:
    backend = FakeBackend(n_cells=400, n_batch=n_batch)
    take = None if meter is None else meter.take
    scheduler = Scheduler(backend, SchedulerOptions(4), clock=lambda: 0.0, take_joules=take)
    sequences = [new_sequence(backend, n, prompt, n_tokens) for n, prompt in enumerate(prompts)]
    for sequence in sequences:
        scheduler.add(sequence)
    while not scheduler.is_idle:
        scheduler.step()
    total, stats = sum(one.energy_j for one in sequences), scheduler.stats
    if meter is None:
        assert stats.energy_j is None
    elif not math.isnan(total):
        assert math.isclose(total, stats.energy_j or 0.0)
        assert math.isclose(total, 8.0 * stats.n_steps)
    return sequences


def test_one_alone_gets_all_of_its_steps_and_nothing_of_the_pauses():
    (alone,) = answered(Meter(), [1, 2, 3])
    assert alone.energy_j == 8.0 * 4


def test_tokens_of_one_step_share_it():
    long, short = answered(Meter(), [*range(1, 31)], [31, 32], n_tokens=1, n_batch=64)
    assert long.energy_j == pytest.approx(8.0 * 30 / 32)
    assert short.energy_j == pytest.approx(8.0 * 2 / 32)


def test_what_is_computed_once_for_two_is_charged_once():
    prompt = [1 + at % 39 for at in range(60)]
    first, second = answered(Meter(), [*prompt, 1], [*prompt, 2])
    assert second.energy_j < first.energy_j / 1.5


def test_a_step_that_was_not_measured_makes_the_sum_unknown():
    (alone,) = answered(Meter(None), [1, 2, 3])
    assert math.isnan(alone.energy_j)


def test_without_a_meter_nothing_is_known_and_nothing_is_asked():
    (alone,) = answered(None, [1, 2, 3])
    assert math.isnan(alone.energy_j)


def test_a_decode_that_failed_is_charged_too():
    meter = Meter()
    backend = FakeBackend(n_cells=400)
    scheduler = Scheduler(backend, SchedulerOptions(4), take_joules=meter.take)
    sequence = new_sequence(backend, 0, [1, 2, 3], 2)
    scheduler.add(sequence)
    backend.decode = lambda items: DecodeStatus.ABORTED  # type: ignore[method-assign]
    scheduler.step()
    assert sequence.energy_j == 8.0


def test_a_report_says_it_only_where_it_is_measured(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    class Fake(Meter):
        is_there = True

    class Nothing(Meter):
        is_there = False

    found: list[float | None] = []
    for kind in (Fake, Nothing):
        monkeypatch.setattr("llmedge.engine.core.EnergyMeter", kind)
        with open_core(load(tiny_model), lambda _: True) as core:
            (answers,) = run(core, request("abc", max_tokens=4))
        assert isinstance(answers[-1], Finished)
        found.append(answers[-1].report.energy_j)
    assert found == [32.0, None]
