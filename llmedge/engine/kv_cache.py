"""Who holds what in the kv cache: sequences that run, prefixes kept of those that ended, states.

Knows nothing of batches and turns. Whatever it reuses was computed from exactly the same tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from llmedge.core.errors import EngineError, IntegrityError
from llmedge.engine.cells import CellLedger
from llmedge.engine.prefix_cache import PrefixTrie
from llmedge.engine.saved_state import StateInMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmedge.engine.backend import Backend
    from llmedge.engine.saved_state import SavedState
    from llmedge.engine.sequence import PrefixKey, Sequence

_STATES_AT_LEAST = 8  # of ended sequences have room in memory: a longer one stays where it is


class Reuse(NamedTuple):
    """What a sequence can take over.

    Attributes:
        n_tokens: Tokens that need not be computed.
        source: A sequence id or a saved state; `None` where nothing can be reused.
        n_known: Tokens that some other sequence begins with, reusable or not.
    """

    n_tokens: int = 0
    source: int | SavedState | None = None
    n_known: int = 0


class KvCache:
    """The books of a backend's kv cache.

    Args:
        backend: What computes.
        max_state_bytes: Most bytes of saved states in memory.
        n_idle: Ended sequences that stay in the kv cache, of those whose state can be saved: every
            step looks at the cells of all. `None` leaves all there.

    Attributes:
        n_changes: Grows whenever cells or ids may have become free.
    """

    def __init__(self, backend: Backend, max_state_bytes: int, n_idle: int | None = None) -> None:
        self._backend = backend
        self._max_state_bytes = max_state_bytes
        self._n_idle = backend.n_seq_max if n_idle is None else n_idle
        self._ledger = CellLedger()
        self._trie: PrefixTrie[PrefixKey, int | SavedState] = PrefixTrie()
        self._free_ids = list(range(backend.n_seq_max - 1, -1, -1))
        self._running: dict[int, Sequence] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._states: OrderedDict[SavedState, None] = OrderedDict()
        self._state_bytes = 0
        self._too_long = self._backend.n_cells if max_state_bytes > 0 else 0  # tokens of a state
        self.n_changes = 0

    @property
    def n_cells(self) -> int:
        """Cells that there are."""
        return self._backend.n_cells

    @property
    def n_used(self) -> int:
        """Cells in use."""
        return self._ledger.n_used

    @property
    def n_cached(self) -> int:
        """Cells that only ended sequences hold."""
        return self._ledger.n_used - self._ledger.count(self._running)

    def can_save(self, n: int) -> bool:
        """Tell whether the state after so many tokens is of use, and not too large to keep."""
        return self._backend.cuts != "anywhere" and n < self._too_long

    def can_share(self, n: int) -> bool:
        """Tell whether others can have a running sequence's first tokens once it has them."""
        return self._backend.cuts != "never" or self.can_save(n)

    def find(self, sequence: Sequence) -> Reuse:
        """Return the most that a sequence without cells can reuse; one token is always left."""
        for seq_id, running in self._running.items():
            self._index(seq_id, running)
        limit = len(sequence.tokens) - 1
        best, n_known = Reuse(), 0
        for n_matched, value in self._trie.matches(sequence.prefix_key, sequence.tokens):
            n_shared = min(n_matched, limit)
            n_known = max(n_known, n_shared)
            if n_shared < best.n_tokens:
                break
            found = Reuse(self._reusable(value, n_shared), value)
            # Of equals the one that needs no further id.
            if found.n_tokens > best.n_tokens or (
                found.n_tokens == best.n_tokens > 0 and self._is_whole(found)
            ):
                best = found
        return best._replace(n_known=n_known)

    def n_held(self, reuse: Reuse) -> int:
        """Return the cells that running sequences hold, with those that would be reused."""
        if isinstance(reuse.source, int):
            return self._ledger.count(self._running, (reuse.source, reuse.n_tokens))
        return self._ledger.count(self._running) + reuse.n_tokens

    def attach(self, sequence: Sequence, reuse: Reuse) -> None:
        """Give a sequence a place, and what it can reuse."""
        source, n = reuse.source, reuse.n_tokens
        if isinstance(source, int):
            seq_id = self._inherit(source, n)
        elif source is None:
            seq_id = self._acquire()
        else:
            seq_id, n = self._restore(source, n)
        sequence.seq_id = seq_id
        sequence.n_computed = n
        self._running[seq_id] = sequence
        if seq_id not in self._trie:
            self._trie.add(seq_id, sequence.prefix_key, sequence.tokens[:n])

    def commit(self, sequence: Sequence, n: int) -> None:
        """Note that so many further tokens of a sequence were computed."""
        self._ledger.extend(sequence.seq_id, n)
        sequence.n_computed += n

    def roll_back(self, sequence: Sequence) -> None:
        """Remove what the cache may hold beyond what is known; all where that is not exact."""
        if self._backend.remove(sequence.seq_id, sequence.n_computed) and self._reaches(
            sequence.seq_id, sequence.n_computed
        ):
            return
        self.release(sequence)

    def cut(self, sequence: Sequence, n: int) -> None:
        """Remove computed tokens that turned out not to be the sequence's."""
        self._ledger.cut(sequence.seq_id, n)
        sequence.n_computed = n
        self.n_changes += 1
        self.roll_back(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's place and cells away; its tokens are kept."""
        seq_id = sequence.seq_id
        del self._running[seq_id]
        self._drop(seq_id)
        sequence.seq_id = -1
        sequence.n_computed = 0

    def retire(self, sequence: Sequence) -> None:
        """Keep an ended sequence's cells until they are needed."""
        seq_id = sequence.seq_id
        self._index(seq_id, sequence)
        if not sequence.n_computed or self._is_known(seq_id):
            self.release(sequence)
            return
        del self._running[seq_id]
        self._cached[seq_id] = None
        self.n_changes += 1
        sequence.seq_id = -1
        if self._backend.cuts == "anywhere":
            self._save_idle()

    def save(self, sequence: Sequence) -> None:
        """Save a sequence's state as it is now, unless it was saved before or is too large."""
        tokens = sequence.tokens[: sequence.n_computed]
        for n_shared, value in self._trie.matches(sequence.prefix_key, tokens):
            if n_shared < len(tokens):
                break
            if not isinstance(value, int) and value.n_tokens == n_shared:
                return
        self._save(sequence.seq_id, sequence.prefix_key, tokens, self._max_state_bytes)

    def adopt(self, key: PrefixKey, tokens: list[int], state: SavedState) -> None:
        """Take over a state that another cache of the same model saved."""
        self._trie.add(state, key, tokens)
        self._states[state] = None

    def kept(self) -> Iterator[tuple[PrefixKey, list[int], bytes]]:
        """Yield the key, the tokens and the state of what is kept in memory, oldest first."""
        for state in [one for one in self._states if one.n_bytes]:
            yield (*self._trie.path(state), state.read())
        for seq_id in list(self._cached):
            yield (*self._trie.path(seq_id), self._backend.save_state(seq_id))

    def make_room(self, n: int) -> int:
        """Evict until so many cells are free, or nothing is left to evict; return the free ones."""
        while self.n_used + n > self._backend.n_cells and self.evict():
            pass
        return self._backend.n_cells - self.n_used

    def evict(self, *, covered: bool = False) -> bool:
        """Forget the oldest ended sequence that holds cells for itself; `False` without one.

        Args:
            covered: Take one whose cells running sequences hold, too: a window's cells are not
                reused while several hold them.
        """
        running = set(self._running)
        for seq_id in self._cached:
            if covered or not self._ledger.is_covered(seq_id, running):
                self._evict(seq_id)
                return True
        return False

    def clear(self) -> None:
        """Forget all ended sequences and saved states."""
        for seq_id in list(self._cached):
            self._evict(seq_id)
        for state in [one for one in self._states if one.n_bytes]:
            self._forget(state)

    def check_integrity(self) -> None:
        """Raise `AssertionError` where the books do not agree; for tests."""
        self._ledger.check_integrity()
        self._trie.check_integrity()
        ids = [*self._free_ids, *self._running, *self._cached]
        if sorted(ids) != list(range(self._backend.n_seq_max)):
            raise AssertionError(f"sequence ids are lost or doubled: {ids}")
        for seq_id, sequence in self._running.items():
            held = self._ledger.n_tokens(seq_id)
            if not (sequence.seq_id == seq_id and held == sequence.n_computed):
                raise AssertionError(f"{held} cells for {sequence.n_computed} tokens")
        for seq_id in self._cached:
            if self._trie.length(seq_id) != self._ledger.n_tokens(seq_id):
                raise AssertionError(f"cached sequence {seq_id} is not what it holds")
        if len(self._trie) != len(self._running) + len(self._cached) + len(self._states):
            raise AssertionError("the trie knows others than the books")
        n_bytes = sum(state.n_bytes for state in self._states)
        if n_bytes != self._state_bytes or n_bytes > self._max_state_bytes:
            raise AssertionError(f"{n_bytes} bytes of states")

    def _index(self, seq_id: int, sequence: Sequence) -> None:
        """Bring the trie up to date; done when it is asked, so that tokens cost nothing."""
        length = self._trie.length(seq_id)
        if length < sequence.n_computed:
            self._trie.extend(seq_id, sequence.tokens[length : sequence.n_computed])

    def _is_whole(self, reuse: Reuse) -> bool:
        """Whether all of an ended sequence is reused, so that it need not be kept besides."""
        source = reuse.source
        return (
            isinstance(source, int)
            and source in self._cached
            and self._trie.length(source) == reuse.n_tokens
        )

    def _reusable(self, value: int | SavedState, n_shared: int) -> int:
        if not isinstance(value, int):
            if self._backend.cuts == "anywhere":
                return n_shared
            return value.n_tokens if value.n_tokens <= n_shared else 0
        if self._backend.cuts == "never":
            is_whole = value in self._cached and self._trie.length(value) == n_shared
            return n_shared if is_whole else 0
        is_end = self._trie.length(value) == n_shared
        return n_shared if is_end or self._reaches(value, n_shared) else 0

    def _reaches(self, seq_id: int, n: int) -> bool:
        """Whether the token after the first `n` would find all that it needs."""
        if self._backend.cuts != "window" or n == 0:
            return True
        first = self._backend.first_position(seq_id)
        return 0 <= first <= max(0, n - self._backend.window)

    def _acquire(self, *, keep: int = -1) -> int:
        """Return an empty sequence id, evicting where none is free; -1 without one."""
        if not self._free_ids:
            oldest = next((seq_id for seq_id in self._cached if seq_id != keep), None)
            if oldest is None:
                return -1
            self._evict(oldest)
        return self._free_ids.pop()

    def _inherit(self, source: int, n: int) -> int:
        """Return a sequence id that holds the first tokens of another."""
        if not self._is_whole(Reuse(n, source)):
            seq_id = self._acquire(keep=source)
            if seq_id >= 0:
                self._backend.share(source, seq_id, n)
                self._ledger.share(source, seq_id, n)
                return seq_id
            if not self._backend.remove(source, n):
                raise EngineError(f"a sequence could not be cut at {n} tokens")
            self._ledger.cut(source, n)
            self._trie.cut(source, n)
        del self._cached[source]
        return source

    def _restore(self, state: SavedState, n: int) -> tuple[int, int]:
        """Return a sequence id that holds the first tokens of a saved state; 0 where it failed."""
        seq_id = self._acquire()
        self._states.move_to_end(state)
        if self.make_room(state.n_tokens) < state.n_tokens:
            return seq_id, 0
        try:
            self._backend.restore_state(seq_id, state.read())
        except IntegrityError:
            self._backend.remove(seq_id, 0)
            self._forget(state)
            return seq_id, 0
        if n < state.n_tokens and not self._backend.remove(seq_id, n):
            raise EngineError(f"a sequence could not be cut at {n} tokens")
        self._ledger.extend(seq_id, n)
        return seq_id, n

    def _save_idle(self) -> None:
        """Save ended sequences outside of the kv cache, oldest first; long ones stay there."""
        excess = len(self._cached) - self._n_idle
        for seq_id in list(self._cached):
            if excess <= 0:
                return
            key, tokens = self._trie.path(seq_id)
            if len(tokens) < self._too_long and self._save(
                seq_id, key, tokens, self._max_state_bytes // _STATES_AT_LEAST
            ):
                self._evict(seq_id)
                excess -= 1

    def _save(self, seq_id: int, key: PrefixKey, tokens: list[int], max_bytes: int) -> bool:
        """Save a state unless it is too large; what was used longest ago makes room."""
        data = self._backend.save_state(seq_id)
        if len(data) > max_bytes:
            self._too_long = min(self._too_long, len(tokens))
            return False
        state = StateInMemory(len(tokens), data)
        self._trie.add(state, key, tokens)
        self._states[state] = None
        self._state_bytes += state.n_bytes
        while self._state_bytes > self._max_state_bytes:
            self._forget(next(one for one in self._states if one.n_bytes))
        return True

    def _is_known(self, seq_id: int) -> bool:
        """Whether another ended sequence makes keeping this one useless."""
        return self._backend.cuts == "anywhere" and any(
            isinstance(other, int) and other in self._cached
            for other in self._trie.others_below(seq_id)
        )

    def _evict(self, seq_id: int) -> None:
        del self._cached[seq_id]
        self._drop(seq_id)

    def _drop(self, seq_id: int) -> None:
        self._backend.remove(seq_id, 0)
        self._ledger.cut(seq_id, 0)
        self._trie.remove(seq_id)
        self._free_ids.append(seq_id)
        self.n_changes += 1

    def _forget(self, state: SavedState) -> None:
        del self._states[state]
        self._state_bytes -= state.n_bytes
        self._trie.remove(state)
