"""Guesses the next tokens with a smaller model: its own kv cache, kept in step with the sequences.

Computes as the scheduler does, over a `Backend`, and in the same books: a prompt that begins as an
earlier one did is not computed again here either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.engine.backend import BatchItem, DecodeStatus
from llmedge.engine.kv_cache import KvCache
from llmedge.engine.prefix_cache import common_prefix
from llmedge.engine.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Tokens

    from llmedge.engine.backend import Backend
    from llmedge.engine.drafter import Wish

_CATCH_UP = 64  # tokens of prompts in one call beside other streams, which wait for it


class ModelDrafter:
    """Guesses what a model finds likeliest, for all sequences of a step in one batch after another.

    Args:
        backend: What computes; it can be cut anywhere.
        likeliest: Returns the likeliest token at a batch index of the last decode.
        n_max: Most tokens to guess at once.

    Attributes:
        n_max: Most tokens to guess at once.
    """

    def __init__(self, backend: Backend, likeliest: Callable[[int], int], n_max: int) -> None:
        self.n_max = n_max
        self._backend = backend
        self._likeliest = likeliest
        self._kv = KvCache(backend, 0)
        self._shadows: dict[int, _Shadow] = {}  # by the sequence's id, least recently used first

    def draft(self, wishes: Tokens[Wish]) -> list[list[int]]:
        """Guess; see `Drafter.draft`.

        A sequence that is new here has its prompt computed first, in several calls where others
        would wait for it, and gets no guesses meanwhile.
        """
        wanted = {wish.sequence.id: wish.n_max for wish in wishes if wish.n_max > 0}
        if not wanted:
            return [[] for _ in wishes]
        for shadow in self._shadows.values():
            shadow.settle(self._kv)
        shadows = [self._follow(wish.sequence) for wish in wishes if wish.sequence.id in wanted]
        for shadow in shadows:
            wanted[shadow.own.id] = min(wanted[shadow.own.id], shadow.n_useful)
        guessing = self._catch_up(self._place(shadows, wanted))
        while guessing:
            guessing = [shadow for shadow in guessing if shadow.n_guessed < wanted[shadow.own.id]]
            guessing = self._compute(guessing, [1] * len(guessing))
        known = self._shadows
        return [known[w.sequence.id].guess if w.sequence.id in wanted else [] for w in wishes]

    def end(self, sequence_id: int) -> None:
        """Keep what an ended sequence holds until the room is needed."""
        shadow = self._shadows.pop(sequence_id, None)
        if shadow is None:
            return
        shadow.settle(self._kv)
        if shadow.own.seq_id >= 0:
            self._kv.retire(shadow.own)

    def clear(self) -> None:
        """Give up what ended sequences left."""
        self._kv.clear()

    def check_integrity(self) -> None:
        """Raise `AssertionError` where the books do not agree; for tests."""
        self._kv.check_integrity()

    def _follow(self, sequence: Sequence) -> _Shadow:
        shadow = self._shadows.pop(sequence.id, None) or _Shadow(sequence, self.n_max)
        self._shadows[sequence.id] = shadow
        return shadow

    def _place(self, shadows: list[_Shadow], wanted: dict[int, int]) -> list[_Shadow]:
        """Give sequences their places, and return those that there is room for."""
        placed: list[_Shadow] = []
        n_cells = 0
        for shadow in shadows:
            if not self._attach(shadow.own, wanted):
                continue
            n_more = shadow.own.n_left + wanted[shadow.own.id] - 1
            if self._make_room(n_cells + n_more, wanted):
                placed.append(shadow)
                n_cells += n_more
        return placed

    def _attach(self, own: Sequence, wanted: dict[int, int]) -> bool:
        if own.seq_id >= 0:
            return True
        n_placed = sum(other.own.seq_id >= 0 for other in self._shadows.values())
        if n_placed >= self._backend.n_seq_max and not self._release(wanted):
            return False
        self._kv.attach(own, self._kv.find(own))
        return True

    def _make_room(self, n_cells: int, wanted: dict[int, int]) -> bool:
        while self._kv.make_room(n_cells) < n_cells:
            if not self._release(wanted):
                return False
        return True

    def _release(self, wanted: dict[int, int]) -> bool:
        """Take the place of the sequence that was idle for longest, paused ones for example."""
        for id_, shadow in self._shadows.items():
            if id_ not in wanted and shadow.own.seq_id >= 0:
                self._kv.release(shadow.own)
                return True
        return False

    def _catch_up(self, shadows: list[_Shadow]) -> list[_Shadow]:
        """Compute what sequences have got since the last call; return those that are up to date."""
        n_batch = self._backend.n_batch
        share = n_batch if len(shadows) == 1 else min(n_batch, _CATCH_UP + len(shadows))
        chosen: list[_Shadow] = []
        counts: list[int] = []
        # The most behind come last, and take what the others leave.
        for shadow in sorted(shadows, key=lambda shadow: shadow.own.n_left):
            n = min(shadow.own.n_left, share)
            if n > 0:
                chosen.append(shadow)
                counts.append(n)
            share -= n
        return self._compute(chosen, counts)

    def _compute(self, shadows: list[_Shadow], counts: list[int]) -> list[_Shadow]:
        """Compute the next tokens of each, and guess one more where all are computed."""
        items: list[BatchItem] = []
        for shadow, n in zip(shadows, counts, strict=True):
            own = shadow.own
            tokens = own.tokens[own.n_computed : own.n_computed + n]
            items.append(BatchItem(own.seq_id, tokens, own.n_computed, int(n == own.n_left)))
        if not items or not self._decode(shadows, items):
            return []
        guessed: list[_Shadow] = []
        n_before = 0
        for shadow, item in zip(shadows, items, strict=True):
            n_before += len(item.tokens)
            self._kv.commit(shadow.own, len(item.tokens))
            if item.n_outputs:
                shadow.own.tokens.append(self._likeliest(n_before - 1))
                guessed.append(shadow)
        return guessed

    def _decode(self, shadows: list[_Shadow], items: list[BatchItem]) -> bool:
        """Compute a batch; `False` where that did not work: there are fewer guesses, then."""
        while (status := self._backend.decode(items)) is DecodeStatus.NO_KV_SLOT:
            if not self._kv.evict(covered=True):
                return False
        if status is DecodeStatus.ABORTED:
            for shadow in shadows:
                self._kv.roll_back(shadow.own)
        return status is DecodeStatus.OK


class _Shadow:
    """A sequence as the draft model has it: with guesses after what is certain.

    Attributes:
        own: Its tokens and place here.
        n_useful: Tokens worth guessing: two more after guesses that were all right, else one less.
            Source: the heuristic schedule of transformers' assisted generation.
    """

    __slots__ = ("_n_certain", "_n_max", "_original", "n_useful", "own")

    def __init__(self, original: Sequence, n_max: int) -> None:
        self._original = original
        self._n_certain = len(original.tokens)
        self._n_max = n_max
        self.n_useful = n_max
        self.own = Sequence(
            original.id,
            list(original.tokens),
            original.sampler,
            cache_key=original.cache_key,
            adapters=original.adapters,
        )

    @property
    def n_guessed(self) -> int:
        """Tokens guessed since the last `settle`."""
        return len(self.own.tokens) - self._n_certain

    @property
    def guess(self) -> list[int]:
        """The tokens guessed since the last `settle`."""
        return self.own.tokens[self._n_certain :]

    def settle(self, kv: KvCache) -> None:
        """Take over the sequence's tokens; keep what was computed of guesses that came true."""
        own, tokens, first = self.own, self._original.tokens, self._n_certain
        n_same = first + common_prefix(own.tokens[first:], tokens[first:])
        if self.n_guessed and len(tokens) > first:
            change = 2 if n_same == len(own.tokens) else -1
            self.n_useful = max(1, min(self._n_max, self.n_useful + change))
        # One token is always left to compute: guesses follow from its logits.
        n_kept = min(n_same, len(tokens) - 1)
        if own.seq_id >= 0 and own.n_computed > n_kept:
            kv.cut(own, n_kept)
        own.tokens[first:] = tokens[first:]
        self._n_certain = len(tokens)
