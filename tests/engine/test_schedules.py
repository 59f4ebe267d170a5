"""Random schedules: whatever happens, each text is that of a lone run, and nothing is lost."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmedge.engine.draft import PromptLookup
from llmedge.engine.pace import Pace
from llmedge.engine.scheduler import Scheduler, SchedulerOptions
from tests.engine.fake_backend import N_VOCAB, FakeBackend, lone_text, new_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from llmedge.engine.drafter import Wish
    from llmedge.engine.sequence import Sequence


class Clock:
    """Time passes with what is computed."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend

    def __call__(self) -> float:
        calls = self.backend.calls
        return 0.01 * len(calls) + 0.0005 * sum(
            len(item.tokens) for call in calls[-1:] for item in call
        )


@dataclass
class World:
    """A scheduler over a fake, with everything that was asked and answered."""

    backend: FakeBackend
    scheduler: Scheduler
    random: random.Random
    stems: list[list[int]]
    asked: dict[int, Sequence] = field(default_factory=dict)
    prompts: dict[int, list[int]] = field(default_factory=dict)
    seeds: dict[int, int] = field(default_factory=dict)
    fails_at: dict[int, int | None] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)

    def ask(self, n_max: int) -> None:
        draw = self.random
        stem = draw.choice(self.stems)
        prompt = stem[: draw.randint(1, len(stem))]
        prompt = prompt + [draw.randrange(1, N_VOCAB) for _ in range(draw.randint(0, 6))]
        prompt = prompt[: self.backend.n_cells - 1]
        number = len(self.asked)
        fails_at = draw.randrange(6) if draw.random() < 0.1 else None
        seed = draw.randrange(5)
        sequence = new_sequence(
            self.backend,
            number,
            prompt,
            draw.choice([None, 1, 4, n_max]),
            seed=seed,
            fails_at=fails_at,
            cache_key=draw.choice(["", "", "b"]),
        )
        if draw.random() < 0.2:
            sequence.adapters = (("a", draw.choice([0.5, 1.0])),)
        if draw.random() < 0.3:
            sequence.drafts = PromptLookup(4, 1)
        self.asked[number], self.prompts[number] = sequence, prompt
        self.seeds[number], self.fails_at[number] = seed, fails_at
        self.texts[number] = []
        self.scheduler.add(sequence)

    def cancel(self) -> None:
        going = [number for number in self.asked if number not in self.ends]
        if going:
            number = self.random.choice(going)
            self.scheduler.cancel(number)
            self.ends[number] = "cancelled"

    def step(self) -> None:
        for outcome in self.scheduler.step():
            number = outcome.sequence.id
            assert number not in self.ends, "something came after the end"
            if outcome.token is not None:
                self.texts[number].append(outcome.token)
            if outcome.is_end:
                self.ends[number] = "error" if outcome.error else str(outcome.finish_reason)
        self.check()

    def check(self) -> None:
        self.scheduler.check_integrity()
        stats = self.scheduler.stats
        assert stats.n_cells_used == self.backend.n_used <= self.backend.n_cells
        assert stats.n_running <= self.backend.n_seq_max
        n_going = len(self.asked) - len(self.ends)
        assert stats.n_running + stats.n_waiting + stats.n_paused == n_going

    def lone(self, number: int) -> list[int]:
        n_max = self.asked[number].max_tokens
        n_cells = self.backend.n_cells
        return lone_text(
            self.prompts[number],
            self.seeds[number],
            n_max or n_cells,
            n_cells,
            self.asked[number].adapters,
        )

    def check_texts(self) -> None:
        assert self.ends.keys() == self.asked.keys(), "a sequence never ended"
        for number, end in self.ends.items():
            text, lone, fails_at = self.texts[number], self.lone(number), self.fails_at[number]
            if end == "error":
                assert text == lone[:fails_at]
                assert fails_at is not None
            elif end == "cancelled":
                assert text == lone[: len(text)]
            else:
                assert text == lone
                assert end == ("stop" if text[-1] == 0 else "length")


@dataclass
class SeerDrafter:
    """Guesses what is to come, with some mistakes."""

    n_max: int
    random: random.Random
    world: World | None = None
    ended: list[int] = field(default_factory=list)

    def draft(self, wishes: Tokens[Wish]) -> list[list[int]]:
        assert self.world is not None
        guesses: list[list[int]] = []
        for sequence, n_max in wishes:
            assert 0 <= n_max <= self.n_max
            assert sequence.id not in self.ended
            coming = self.world.lone(sequence.id)[sequence.n_generated :][:n_max]
            wrong = self.random.randrange(N_VOCAB)
            guesses.append([t if self.random.random() < 0.7 else wrong for t in coming])
        return guesses

    def end(self, sequence_id: int) -> None:
        self.ended.append(sequence_id)

    def clear(self) -> None:
        pass


def new_world(seed: int, cuts: str, *, faults: bool = True) -> World:
    draw = random.Random(seed)
    n_seq_max = draw.randint(2, 8)
    window = draw.randint(2, 12) if cuts == "window" else 0
    n_batch = draw.choice([8, 16, 32])
    backend = FakeBackend(
        n_cells=draw.choice([24, 64, 200]),
        n_batch=n_batch,
        n_seq_max=n_seq_max,
        cuts=cuts,
        window=window,
        n_window_cells=window * n_seq_max + n_batch,
        random=random.Random(seed + 1),
        no_slot_rate=draw.choice([0.0, 0.05]) * faults,
        abort_rate=draw.choice([0.0, 0.05]) * faults,
    )
    options = SchedulerOptions(
        n_slots=draw.randint(1, n_seq_max),
        max_state_bytes=draw.choice([0, 600, 5000, 1 << 20]),
        n_idle=draw.choice([None, 0, 1, 3]),
    )
    drafter = SeerDrafter(draw.randint(1, 5), random.Random(seed)) if draw.random() < 0.5 else None
    scheduler = Scheduler(backend, options, Pace(n_batch), Clock(backend), drafter=drafter)
    long = [draw.randrange(1, N_VOCAB) for _ in range(80)]
    other = long[:40] + [draw.randrange(1, N_VOCAB) for _ in range(60)]
    stems = [long, other, [draw.randrange(1, N_VOCAB) for _ in range(30)]]
    world = World(backend, scheduler, draw, stems)
    if drafter is not None:
        drafter.world = world
    return world


def run_schedule(world: World, n_events: int) -> None:
    for _ in range(n_events):
        event = world.random.random()
        if event < 0.25:
            world.ask(12)
        elif event < 0.30:
            world.cancel()
        elif event < 0.31:
            world.scheduler.limit_slots(world.random.randint(1, 8))
        else:
            world.step()
    world.scheduler.limit_slots(1)
    n_left = 0
    while not world.scheduler.is_idle:
        world.step()
        n_left += 1
        assert n_left < 20_000, "no end"
    world.check_texts()
    world.scheduler.forget()
    world.check()
    assert world.backend.n_used == 0


@pytest.mark.parametrize("cuts", ["anywhere", "window", "never"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_any_schedule_gives_each_sequence_the_text_of_a_lone_run(cuts: str, seed: int) -> None:
    run_schedule(new_world(seed, cuts), 150)
