"""Who runs, who waits in line, and who is set aside when the kv cache is full.

First come, first served: nobody overtakes, and who is set aside is the next to go on.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

from llmedge.engine.prefix_cache import common_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.engine.kv_cache import KvCache, Reuse
    from llmedge.engine.sequence import Sequence

_WORTH_WAITING = 32  # tokens: computing fewer again is quicker than to wait for who computes them
_HEADROOM = 16  # cells for each running sequence that stay free when another one begins


class Slots:
    """The sequences that run, and the line of those that wait for that.

    A running sequence without cells waits for an earlier one's prompt, which begins alike.

    Args:
        kv: The books of the kv cache.
        n_slots: Sequences that run at once.
        clock: Seconds from any beginning.

    Attributes:
        n_slots: Sequences that run at once; may be changed, those that run go on.
        running: By order; not to be changed.
        n_prompt: Tokens of the prompts that were begun.
        n_cached: Of these, tokens that were reused.
        n_pauses: Times that a sequence was set aside.
    """

    def __init__(self, kv: KvCache, n_slots: int, clock: Callable[[], float]) -> None:
        self.n_slots = n_slots
        self.running: list[Sequence] = []
        self.n_prompt = 0
        self.n_cached = 0
        self.n_pauses = 0
        self._kv = kv
        self._clock = clock
        self._waiting: deque[Sequence] = deque()
        self._by_id: dict[int, Sequence] = {}
        self._refused_at = (-1, -1)  # the first in line and the books, when it did not fit
        self._n_added = 0

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def n_waiting(self) -> int:
        """Sequences in line that never ran."""
        return sum(1 for sequence in self._waiting if not sequence.n_pauses)

    @property
    def n_paused(self) -> int:
        """Sequences in line that were set aside."""
        return len(self._waiting) - self.n_waiting

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence in line."""
        if sequence.id in self._by_id:
            raise ValueError(f"sequence {sequence.id} is there already")
        sequence.order = self._n_added
        sequence.added_s = self._clock()
        self._n_added += 1
        self._by_id[sequence.id] = sequence
        self._waiting.append(sequence)

    def end(self, sequence_id: int) -> None:
        """Let a sequence go, wherever it is; one that is not there is ignored."""
        sequence = self._by_id.pop(sequence_id, None)
        if sequence is None:
            return
        self._refused_at = (-1, -1)
        if sequence not in self.running:
            self._waiting.remove(sequence)
            return
        self.running.remove(sequence)
        if sequence.seq_id >= 0 and sequence.caches:
            self._kv.retire(sequence)
        elif sequence.seq_id >= 0:
            self._kv.release(sequence)

    def fill(self) -> None:
        """Let in who fits; give cells to those who waited for another's prompt."""
        for sequence in self.running:
            if sequence.seq_id < 0 and not sequence.is_led:
                reuse = self._kv.find(sequence)
                self._place(sequence, reuse, *self._leader(sequence, reuse))
        while self._waiting and len(self.running) < self.n_slots:
            sequence = self._waiting[0]
            state = (sequence.id, self._kv.n_changes)
            if state == self._refused_at:
                return
            reuse = self._kv.find(sequence)
            leader, n_shared = self._leader(sequence, reuse)
            if self.running and not self._fits(sequence, reuse, n_shared):
                self._refused_at = state
                return
            self._waiting.popleft()
            self.running.append(sequence)
            self._place(sequence, reuse, leader, n_shared)

    def pause_youngest(self) -> bool:
        """Set the youngest sequence with cells aside; `False` where that is the only one."""
        with_cells = [sequence for sequence in self.running if sequence.seq_id >= 0]
        if len(with_cells) < 2:
            return False
        youngest = with_cells[-1]
        # Those behind it only wait: they step back in line, too, so that none overtakes it.
        while self.running[-1] is not youngest:
            self._waiting.appendleft(self.running.pop())
        self._waiting.appendleft(self.running.pop())
        self._kv.release(youngest)
        youngest.n_pauses += 1
        self.n_pauses += 1
        return True

    def check_integrity(self) -> None:
        """Raise `AssertionError` where the books do not agree; for tests."""
        waiting, running = list(self._waiting), self.running
        if sorted(self._by_id) != sorted(sequence.id for sequence in [*waiting, *running]):
            raise AssertionError("a sequence is lost, or in two places")
        if any(one.order >= after.order for one, after in pairwise([*running, *waiting])):
            raise AssertionError("a sequence overtook another")
        if any(sequence.seq_id >= 0 for sequence in waiting):
            raise AssertionError("a waiting sequence holds cells")

    def _fits(self, sequence: Sequence, reuse: Reuse, n_shared: int) -> bool:
        """Tell whether the prompts of all fit, and a little of what they will generate.

        What ended sequences hold counts as free.
        """
        n_cells = self._kv.n_cells
        # A follower's prompt counts from where its leader's ends.
        pending = sum(
            one.n_left - (one.n_awaited if one.seq_id < 0 and one.is_led else 0)
            for one in self.running
        )
        wanted = len(sequence.tokens) - max(reuse.n_tokens, n_shared)
        headroom = min(_HEADROOM * (len(self.running) + 1), n_cells // 8)
        return self._kv.n_held(reuse) + pending + wanted + headroom <= n_cells

    def _place(
        self, sequence: Sequence, reuse: Reuse, leader: Sequence | None, n_shared: int
    ) -> None:
        """Give a running sequence its cells, or let it wait for who computes the same prompt."""
        sequence.leader, sequence.n_awaited = leader, n_shared
        if leader is not None:
            # What differs is then computed in the same steps, and not beside the leader's answer.
            leader.add_stop(n_shared)
            return
        self._kv.attach(sequence, reuse)
        if sequence.started_s is None:
            sequence.started_s = self._clock()
            sequence.n_cached = sequence.n_computed
            self.n_prompt += sequence.n_prompt
            self.n_cached += sequence.n_cached
        for stop in (reuse.n_known, len(sequence.tokens) - 1):
            is_worth_it = stop >= sequence.n_computed + _WORTH_WAITING
            if is_worth_it and self._kv.can_save(stop):
                sequence.add_stop(stop)

    def _leader(self, sequence: Sequence, reuse: Reuse) -> tuple[Sequence | None, int]:
        """Return the earlier sequence that will have computed most of this one's prompt.

        `None` and 0 where that is not much more than what can be reused now.
        """
        best: Sequence | None = None
        n_best = 0
        limit = len(sequence.tokens) - 1
        for other in self.running:
            if other.order >= sequence.order:
                break
            if other.seq_id < 0 or other.prefix_key != sequence.prefix_key:
                continue
            n = min(common_prefix(other.tokens, sequence.tokens), limit)
            if n > max(n_best, other.n_computed):
                best, n_best = other, n
        if n_best < reuse.n_tokens + _WORTH_WAITING or not self._kv.can_share(n_best):
            return None, 0
        return best, n_best
