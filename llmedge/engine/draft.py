"""Guesses the next tokens by prompt lookup: what followed when the last few tokens came before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens


class PromptLookup:
    """Remembers where each run of `n_gram` tokens ended last; a token costs one dictionary entry.

    Source: Saxena, "Prompt Lookup Decoding", 2023.

    Args:
        n_max: Most tokens to guess at once.
        n_gram: Tokens that must have come before in this order.
    """

    def __init__(self, n_max: int = 8, n_gram: int = 3) -> None:
        self._n_max = n_max
        self._n_gram = n_gram
        self._ends: dict[tuple[int, ...], int] = {}
        self._n_seen = 0

    def draft(self, tokens: Tokens[int], n_max: int) -> list[int]:
        """Return up to `n_max` tokens that may follow; `tokens` only grow between calls."""
        n_gram = self._n_gram
        # The last run itself is remembered at the next call: it has no tokens after it yet.
        for end in range(max(self._n_seen, n_gram), len(tokens)):
            self._ends[tuple(tokens[end - n_gram : end])] = end
        self._n_seen = len(tokens)
        end = self._ends.get(tuple(tokens[-n_gram:])) if len(tokens) >= n_gram else None
        return [] if end is None else list(tokens[end : end + min(self._n_max, n_max)])
