"""A backend without a model: each token's "logits" follow from exactly the cells it can see."""

from __future__ import annotations

import pickle
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmedge.core.errors import EngineError, IntegrityError, LlmedgeError
from llmedge.engine.backend import BatchItem, Cuts, DecodeStatus
from llmedge.engine.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from llmedge.engine.backend import Adapters

N_VOCAB = 40
END = 0
_MASK = (1 << 61) - 1


def cell_value(sum_before: int, position: int, token: int) -> int:
    """What attention over all earlier cells makes of a token."""
    return (sum_before * 1_000_003 + position * 7919 + token * 104_729 + 12_345) % _MASK


def weight(adapters: Adapters) -> int:
    return sum(int(scale * 1000) for _, scale in adapters)


def choose(value: int, seed: int, n_chosen: int) -> int:
    return (value ^ (seed * 2_654_435_761 + n_chosen * 97)) % N_VOCAB


def lone_text(
    prompt: Tokens[int], seed: int, n: int, n_cells: int, adapters: Adapters = ()
) -> list[int]:
    """What a sequence generates alone, computed without any cache."""
    total, last = weight(adapters), 0
    for position, token in enumerate(prompt):
        last = cell_value(total, position, token)
        total += last
    text: list[int] = []
    while True:
        token = choose(last, seed, len(text))
        text.append(token)
        if token == END or len(text) == n or len(prompt) + len(text) > n_cells:
            return text
        last = cell_value(total, len(prompt) + len(text) - 1, token)
        total += last


@dataclass(eq=False)
class Cell:
    position: int
    value: int
    holders: set[int]


@dataclass
class FakeBackend:
    """Cells as llama.cpp keeps them: all layers' cells, and beside them a window's.

    Attributes:
        n_window_cells: Cells of the layers with a window; those out of it are overwritten at once.
        random: Draws the faults.
        no_slot_rate: How often a batch or a state that would fit does not.
        abort_rate: How often a batch ends in its middle.
        calls: The items of each successful decode call.
    """

    n_cells: int = 64
    n_batch: int = 16
    n_seq_max: int = 8
    cuts: Cuts = "anywhere"
    window: int = 0
    n_window_cells: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(0))
    no_slot_rate: float = 0.0
    abort_rate: float = 0.0
    is_broken: bool = False
    adapters: Adapters = ()
    calls: list[list[BatchItem]] = field(default_factory=list)
    outputs: list[int | None] = field(default_factory=list)
    n_aborts: int = 0
    n_no_slots: int = 0
    n_restored: int = 0
    cells: dict[int, dict[int, Cell]] = field(default_factory=dict)
    windows: dict[int, dict[int, Cell]] = field(default_factory=dict)

    @property
    def n_used(self) -> int:
        return len({cell for held in self.cells.values() for cell in held.values()})

    @property
    def n_window_used(self) -> int:
        return len({cell for held in self.windows.values() for cell in held.values()})

    def decode(self, items: Tokens[BatchItem]) -> DecodeStatus:
        self.outputs = []
        if self.is_broken:
            raise EngineError("the fake is broken")
        n_tokens = sum(len(item.tokens) for item in items)
        seq_ids = [item.seq_id for item in items]
        assert 0 < n_tokens <= self.n_batch, "a batch of the wrong size"
        assert len(set(seq_ids)) == len(seq_ids), "a sequence is twice in a batch"
        for item in items:
            held = self.cells.get(item.seq_id, {})
            assert item.position == len(held), "a gap, or a token computed twice"
        is_alone = len(items) == 1 and n_tokens == 1
        if not is_alone and self.random.random() < self.no_slot_rate:
            self.n_no_slots += 1
            return DecodeStatus.NO_KV_SLOT
        if self.n_used + n_tokens > self.n_cells or not self._window_fits(items):
            self.n_no_slots += 1
            return DecodeStatus.NO_KV_SLOT
        stop = n_tokens
        if self.random.random() < self.abort_rate:
            stop = self.random.randrange(n_tokens)
        for item in items:
            for offset, token in enumerate(item.tokens):
                if len(self.outputs) == stop:
                    self.outputs = []
                    self.n_aborts += 1
                    return DecodeStatus.ABORTED
                value = self._compute(item.seq_id, item.position + offset, token)
                wants = offset >= len(item.tokens) - item.n_outputs
                self.outputs.append(value if wants else None)
        self.calls.append(list(items))
        return DecodeStatus.OK

    def use_adapters(self, adapters: Adapters) -> None:
        self.adapters = adapters

    def share(self, source: int, target: int, n_tokens: int) -> None:
        assert self.cuts != "never"
        assert not self.cells.get(target), "the target holds something"
        for books in (self.cells, self.windows):
            held = books.get(source, {})
            shared = {at: cell for at, cell in held.items() if at < n_tokens}
            for cell in shared.values():
                cell.holders.add(target)
            books[target] = shared

    def remove(self, seq_id: int, first: int) -> bool:
        assert 0 <= seq_id < self.n_seq_max
        if self.cuts == "never" and 0 < first < len(self.cells.get(seq_id, {})):
            return False
        for books in (self.cells, self.windows):
            held = books.get(seq_id, {})
            for position in [at for at in held if at >= first]:
                held.pop(position).holders.discard(seq_id)
        return True

    def first_position(self, seq_id: int) -> int:
        assert self.cuts == "window"
        return min(self.windows.get(seq_id, {}), default=-1)

    def save_state(self, seq_id: int) -> bytes:
        books = (self.cells, self.windows)
        values = [{at: cell.value for at, cell in held.get(seq_id, {}).items()} for held in books]
        return pickle.dumps(values)

    def restore_state(self, seq_id: int, state: bytes) -> None:
        assert not self.cells.get(seq_id), "the sequence holds something"
        saved = pickle.loads(state)
        has_room = self.n_used + len(saved[0]) <= self.n_cells
        if self.cuts == "window":
            has_room = has_room and self.n_window_used + len(saved[1]) <= self.n_window_cells
        if self.random.random() < self.no_slot_rate and has_room:
            self.cells[seq_id] = {0: Cell(0, saved[0][0], {seq_id})}
            has_room = False
        if not has_room:
            raise IntegrityError("no room for the state")
        self.n_restored += 1
        for books, values in zip((self.cells, self.windows), saved, strict=True):
            books[seq_id] = {at: Cell(at, value, {seq_id}) for at, value in values.items()}

    def _window_fits(self, items: Tokens[BatchItem]) -> bool:
        if self.cuts != "window":
            return True
        n_free = self.n_window_cells - self.n_window_used
        n_tokens = sum(len(item.tokens) for item in items)
        n_stale = sum(len(self._stale(seq_id)) for seq_id in self.windows)
        return n_tokens <= n_free + n_stale

    def _stale(self, seq_id: int) -> list[int]:
        held = self.windows.get(seq_id, {})
        last = max(held, default=0)
        return [
            at
            for at, cell in held.items()
            if last + 1 - at >= self.window and len(cell.holders) == 1
        ]

    def _compute(self, seq_id: int, position: int, token: int) -> int:
        held = self.cells.setdefault(seq_id, {})
        assert sorted(held) == list(range(position)), "earlier tokens are missing"
        total = weight(self.adapters) + sum(cell.value for cell in held.values())
        if self.cuts == "window":
            seen = self.windows.setdefault(seq_id, {})
            needed = range(max(0, position - self.window + 1), position)
            # A layer that misses cells computes something else, and says nothing.
            total += sum(1 for at in needed if at not in seen)
        value = cell_value(total, position, token)
        held[position] = Cell(position, value, {seq_id})
        if self.cuts == "window":
            for other in list(self.windows):
                for at in self._stale(other):
                    # llama.cpp also drops what lies before, so that no gap is left.
                    for older in [old for old in self.windows[other] if old <= at]:
                        self.windows[other].pop(older).holders.discard(other)
            self.windows[seq_id][position] = Cell(position, value, {seq_id})
        return value


class FakeSampler:
    """Chooses by the value and by how often it chose; fails at one choice if told to."""

    def __init__(self, backend: FakeBackend, seed: int, fails_at: int | None = None) -> None:
        self._backend = backend
        self._seed = seed
        self._fails_at = fails_at
        self.n_chosen = 0

    def sample(self, index: int) -> int:
        value = self._backend.outputs[index]
        assert value is not None, "no logits at this index"
        if self.n_chosen == self._fails_at:
            raise LlmedgeError("the constraint cannot go on")
        token = choose(value, self._seed, self.n_chosen)
        self.n_chosen += 1
        return token


def new_sequence(
    backend: FakeBackend,
    sequence_id: int,
    prompt: Tokens[int],
    max_tokens: int | None = 8,
    *,
    seed: int = 0,
    fails_at: int | None = None,
    cache_key: str = "",
) -> Sequence:
    return Sequence(
        sequence_id,
        list(prompt),
        FakeSampler(backend, seed, fails_at),
        max_tokens,
        frozenset({END}),
        cache_key,
    )
