"""Counts the cells of the kv cache: who holds which, shared ones once.

llama.cpp does not tell how many are in use. It knows no tokens, only numbers of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Span:
    """Cells that the same sequences hold, for consecutive positions."""

    __slots__ = ("holders", "n")

    def __init__(self, n: int, holders: set[int]) -> None:
        self.n = n
        self.holders = holders


class CellLedger:
    """The cells of each sequence, in order of position.

    Attributes:
        n_used: Cells in use.
    """

    def __init__(self) -> None:
        self._spans: dict[int, list[_Span]] = {}
        self.n_used = 0

    def n_tokens(self, seq_id: int) -> int:
        """Return the tokens that a sequence holds."""
        return sum(span.n for span in self._spans.get(seq_id, ()))

    def extend(self, seq_id: int, n: int) -> None:
        """Give a sequence new cells at its end."""
        self.n_used += n
        spans = self._spans.setdefault(seq_id, [])
        if spans and len(spans[-1].holders) == 1:
            spans[-1].n += n
        elif n:
            spans.append(_Span(n, {seq_id}))

    def share(self, source: int, target: int, n: int) -> None:
        """Let an empty sequence hold the first cells of another."""
        shared = self._spans[source][: self._split(source, n)]
        for span in shared:
            span.holders.add(target)
        self._spans[target] = shared

    def cut(self, seq_id: int, n: int) -> None:
        """Leave a sequence its first `n` cells."""
        if seq_id not in self._spans:
            return
        index = self._split(seq_id, n)
        spans = self._spans[seq_id]
        for span in spans[index:]:
            span.holders.discard(seq_id)
            if not span.holders:
                self.n_used -= span.n
        del spans[index:]
        if not spans:
            del self._spans[seq_id]

    def count(self, seq_ids: Iterable[int], partly: tuple[int, int] | None = None) -> int:
        """Return how many cells some sequences hold together.

        Args:
            seq_ids: The sequences.
            partly: A further sequence, and how many of its first cells count.
        """
        seen: set[_Span] = set()
        for seq_id in seq_ids:
            seen.update(self._spans.get(seq_id, ()))
        total = sum(span.n for span in seen)
        if partly is not None:
            seq_id, left = partly
            for span in self._spans.get(seq_id, ()):
                total += 0 if span in seen else min(span.n, left)
                left -= min(span.n, left)
        return total

    def is_covered(self, seq_id: int, others: set[int]) -> bool:
        """Tell whether others hold all the cells of a sequence, so that its end frees none."""
        return all(span.holders & others for span in self._spans.get(seq_id, ()))

    def check_integrity(self) -> None:
        """Raise `AssertionError` where the books do not agree; for tests."""
        seen = {span for spans in self._spans.values() for span in spans}
        if self.n_used != sum(span.n for span in seen):
            raise AssertionError(f"{self.n_used} cells in use, spans hold other numbers")
        for seq_id, spans in self._spans.items():
            if not all(span.n > 0 and seq_id in span.holders for span in spans):
                raise AssertionError(f"sequence {seq_id} lists cells that it does not hold")
        for span in seen:
            if any(span not in self._spans.get(holder, ()) for holder in span.holders):
                raise AssertionError(f"cells of {span.holders} are not listed by all of them")

    def _split(self, seq_id: int, n: int) -> int:
        """Let a span begin at `n`, in all sequences that hold it; return its index."""
        spans = self._spans[seq_id]
        index, left = 0, n
        while index < len(spans) and left >= spans[index].n:
            left -= spans[index].n
            index += 1
        if left and index < len(spans):
            whole = spans[index]
            rest = _Span(whole.n - left, set(whole.holders))
            whole.n = left
            for holder in whole.holders:
                held = self._spans[holder]
                held.insert(held.index(whole) + 1, rest)
            index += 1
        return index
