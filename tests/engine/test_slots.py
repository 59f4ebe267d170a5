from __future__ import annotations

import pytest

from llmedge.engine.kv_cache import KvCache
from llmedge.engine.slots import Slots
from tests.engine.fake_backend import FakeBackend, new_sequence


def make(n_cells: int, n_slots: int = 4) -> tuple[FakeBackend, Slots]:
    backend = FakeBackend(n_cells)
    return backend, Slots(KvCache(backend, 0), n_slots, lambda: 0.0)


def ids(slots: Slots) -> list[int]:
    return [sequence.id for sequence in slots.running]


def test_who_comes_first_runs_first_and_a_short_prompt_does_not_overtake_a_long_one():
    backend, slots = make(100)
    for number, length in enumerate([50, 60, 2]):
        slots.add(new_sequence(backend, number, [number + 1] * length))
    slots.fill()
    assert ids(slots) == [0]
    slots.end(0)
    slots.fill()
    assert ids(slots) == [1, 2]
    slots.check_integrity()


def test_one_runs_however_large_it_is_when_nobody_else_does():
    backend, slots = make(100)
    slots.add(new_sequence(backend, 0, [1] * 99))
    slots.fill()
    assert ids(slots) == [0]


def test_what_is_shared_is_not_needed_again():
    backend, slots = make(100)
    for number in range(3):
        slots.add(new_sequence(backend, number, [*[1] * 60, number + 2]))
    slots.fill()
    assert ids(slots) == [0, 1, 2]
    assert [sequence.n_awaited for sequence in slots.running] == [0, 60, 60]


def test_who_is_set_aside_is_the_next_to_go_on():
    backend, slots = make(100, 2)
    for number in range(3):
        slots.add(new_sequence(backend, number, [number + 1] * 4))
    slots.fill()
    assert slots.pause_youngest()
    assert not slots.pause_youngest()
    assert (slots.n_paused, slots.n_waiting) == (1, 1)
    slots.fill()
    assert ids(slots) == [0, 1]


def test_books_that_disagree_are_noticed():
    backend, slots = make(100)
    for number in range(2):
        slots.add(new_sequence(backend, number, [number + 1] * 4))
    slots.fill()
    slots.running.reverse()
    with pytest.raises(AssertionError, match="overtook"):
        slots.check_integrity()
    slots.running.pop()
    with pytest.raises(AssertionError, match="lost"):
        slots.check_integrity()
