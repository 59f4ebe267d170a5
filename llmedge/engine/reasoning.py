"""Ends a text's reasoning when it has taken its tokens, by having its closing mark written.

Works where tokens are chosen: whoever reads the text is a step behind.
"""

from __future__ import annotations

import codecs
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from llmedge.engine.generation import ReasoningLimit


class ReasoningWatch:
    """Follows one text. Until the limit is reached it changes nothing.

    Args:
        limit: How much reasoning there may be, and what stands around it.
        closing: The tokens of `limit.closing`.
    """

    def __init__(self, limit: ReasoningLimit, closing: Tokens[int]) -> None:
        self._limit = limit
        self._closing = closing
        self._forced: deque[int] = deque()
        self._place: Literal["before", "inside", "after"] = "before"
        self._n_tokens = 0
        self._tail = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if limit.is_open:
            self._enter(b"")

    @property
    def forced(self) -> int | None:
        """The token that has to come next; `None` leaves the choice."""
        return self._forced[0] if self._forced else None

    def see(self, token: int, piece: bytes) -> None:
        """Follow the text by a token.

        Args:
            token: Its id.
            piece: Its bytes, those of control tokens too.
        """
        if self._forced:
            if token != self._forced.popleft():
                raise ValueError(f"token {token} was not the one to come")
            return
        if self._place == "before":
            self._look_for_start(piece)
        elif self._place == "inside":
            self._n_tokens += 1
            self._go_on(piece)

    def _look_for_start(self, piece: bytes) -> None:
        """Read what comes first: white space and the opening mark, or there is no reasoning."""
        self._tail = (self._tail + piece).lstrip()
        start = self._limit.start.encode()
        if self._tail.startswith(start):
            self._enter(self._tail[len(start) :])
        elif not start.startswith(self._tail):
            self._place = "after"

    def _enter(self, piece: bytes) -> None:
        self._place = "inside"
        self._tail = b""
        self._go_on(piece)

    def _go_on(self, piece: bytes) -> None:
        end = self._limit.end.encode()
        self._tail += piece
        if end in self._tail:
            self._place = "after"
            return
        self._tail = self._tail[max(0, len(self._tail) - len(end) + 1) :]
        self._decoder.decode(piece)
        is_in_character = bool(self._decoder.getstate()[0])
        if self._n_tokens >= self._limit.n_max and not is_in_character:
            self._place = "after"
            self._forced.extend(self._closing)
