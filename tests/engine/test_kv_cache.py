from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.engine.backend import BatchItem
from llmedge.engine.kv_cache import KvCache
from tests.engine.fake_backend import FakeBackend, new_sequence

if TYPE_CHECKING:
    from llmedge.engine.sequence import Sequence


def compute(backend: FakeBackend, kv: KvCache, number: int, prompt: list[int]) -> Sequence:
    """Attach a sequence and compute all of its prompt."""
    sequence = new_sequence(backend, number, prompt)
    kv.attach(sequence, kv.find(sequence))
    rest = sequence.tokens[sequence.n_computed :]
    backend.decode([BatchItem(sequence.seq_id, rest, sequence.n_computed, 0)])
    kv.commit(sequence, len(rest))
    kv.check_integrity()
    return sequence


def test_the_oldest_that_ended_is_evicted_first_and_only_as_much_as_is_needed():
    backend = FakeBackend(n_cells=12)
    kv = KvCache(backend, 0)
    for first in (1, 2, 3):
        kv.retire(compute(backend, kv, first, [first, 9, 9, 9]))
    assert kv.make_room(3) == 4
    found = [kv.find(new_sequence(backend, 9, [first, 9, 9, 8])).n_tokens for first in (1, 2, 3)]
    assert found == [0, 3, 3]
    assert backend.n_used == kv.n_used == kv.n_cached == 8


def test_shared_cells_count_once_and_are_not_freed_under_who_runs():
    backend = FakeBackend(n_cells=12)
    kv = KvCache(backend, 0)
    kv.retire(compute(backend, kv, 0, [1, 2, 3, 4]))
    compute(backend, kv, 1, [1, 2, 3, 5])
    assert (kv.n_used, kv.n_cached) == (5, 1)
    assert kv.make_room(12) == 8  # the cell of 4 is gone, those of 1 2 3 are in use
    assert not kv.evict(covered=True)


def test_one_that_ended_is_continued_in_place():
    backend = FakeBackend(n_seq_max=2)
    kv = KvCache(backend, 0)
    first = compute(backend, kv, 0, [1, 2, 3])
    place = first.seq_id
    kv.retire(first)
    second = compute(backend, kv, 1, [1, 2, 3, 4])
    assert second.seq_id == place
    assert kv.n_cached == 0


def test_without_a_free_id_the_source_itself_is_cut():
    backend = FakeBackend(n_seq_max=2)
    kv = KvCache(backend, 0)
    compute(backend, kv, 0, [7, 7])
    kv.retire(compute(backend, kv, 1, [1, 2, 3, 4]))
    second = compute(backend, kv, 2, [1, 2, 5])
    assert second.n_computed == 3
    assert backend.n_used == kv.n_used == 5


def test_what_a_longer_one_begins_with_is_not_kept_besides():
    backend = FakeBackend()
    kv = KvCache(backend, 0)
    short, long = (compute(backend, kv, n, [1, 2, 3, 4][: 2 + 2 * n]) for n in range(2))
    kv.retire(long)
    kv.retire(short)
    kv.check_integrity()
    assert backend.n_used == kv.n_used == kv.n_cached == 4
    assert len([held for held in backend.cells.values() if held]) == 1


def test_a_window_that_moved_on_is_not_gone_back_to():
    backend = FakeBackend(cuts="window", window=3, n_window_cells=20)
    kv = KvCache(backend, 0)
    kv.retire(compute(backend, kv, 0, [1, 2, 3, 4, 5, 6, 7, 8]))
    reuse = kv.find(new_sequence(backend, 1, [1, 2, 3, 4, 9]))
    assert (reuse.n_tokens, reuse.n_known) == (0, 4)
    assert kv.find(new_sequence(backend, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9])).n_tokens == 8


def test_clearing_keeps_what_runs():
    backend = FakeBackend(200, cuts="never")
    kv = KvCache(backend, 1 << 20)
    running = compute(backend, kv, 0, [1, 2, 3])
    kv.save(running)
    kv.save(running)
    kv.retire(compute(backend, kv, 1, [4, 5]))
    assert kv.find(new_sequence(backend, 9, [1, 2, 3, 4])).n_tokens == 3
    kv.clear()
    kv.check_integrity()
    assert (kv.n_used, kv.n_cached) == (3, 0)
    assert kv.find(new_sequence(backend, 9, [1, 2, 3, 4])).n_tokens == 0
