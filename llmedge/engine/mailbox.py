"""Where what the child says to one request waits for who reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from llmedge.engine.generation import Delta, Event
from llmedge.engine.messages import Embeddings, ReplyValue, Scores

if TYPE_CHECKING:
    from collections.abc import Iterable

Word: TypeAlias = Event | ReplyValue | Embeddings | Scores | Exception
_MAX_WORDS = 64


class Mailbox:
    """Words for one reader; a slow reader finds texts joined, and none are lost.

    What waits is at most one answer's text, whose length the context bounds: a client that does not
    read stalls nobody. Belongs to the event loop that made it, as do all its methods.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._words: deque[Word] = deque()
        self._has_words = asyncio.Event()

    def __len__(self) -> int:
        return len(self._words)

    def put(self, word: Word) -> None:
        """Add a word; an exception is raised to the reader after what came before it."""
        self._words.append(word)
        if len(self._words) > _MAX_WORDS:
            self._words = deque(_joined(self._words))
        self._has_words.set()

    async def take(self) -> Event | ReplyValue | Embeddings | Scores:
        """Wait for the next word and return it, with all text that waits joined to its own.

        Raises:
            Exception: What was put.
        """
        await self._has_words.wait()
        if len(self._words) > 1:
            self._words = deque(_joined(self._words))
        word = self._words.popleft()
        if not self._words:
            self._has_words.clear()
        if isinstance(word, Exception):
            raise word
        return word


def _joined(words: Iterable[Word]) -> Iterable[Word]:
    """Join neighbouring deltas."""
    for is_text, group in groupby(words, lambda word: isinstance(word, Delta)):
        if not is_text:
            yield from group
            continue
        deltas = [word for word in group if isinstance(word, Delta)]
        chances = [chance for delta in deltas for chance in delta.chances]
        tokens = [token for delta in deltas for token in delta.tokens]
        yield Delta("".join(d.text for d in deltas), chances, tokens, deltas[-1].report)
