"""Text that arrives in pieces, read as if it were all there.

A reader is a generator: it yields where it needs more text and returns what it read. Nothing it
decides depends on where a piece ends, so every split of a text reads the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
Emit: TypeAlias = Callable[[str], None]

_KEPT = 1 << 12  # characters behind the position before they are let go


class NotACallError(Exception):
    """What looked like a call is none; nothing of it was given out yet."""


class CutOffError(NotACallError):
    """The text ended before it was clear whether it is a call.

    Args:
        text: What stood there.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Scanner:
    """A position in a text whose end may not have arrived."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._first = 0  # place of `_text[0]` in the whole
        self._marks: list[int] = []
        self._is_ended = False

    def add(self, text: str) -> None:
        """Add the next piece."""
        kept = min([self._first + self._at, *self._marks]) - self._first
        if kept > _KEPT:
            self._text = self._text[kept:]
            self._first += kept
            self._at -= kept
        self._text += text

    def end(self) -> None:
        """Say that no more follows."""
        self._is_ended = True

    def mark(self) -> int:
        """Remember this place; `release` or `rewind` must follow."""
        self._marks.append(self._first + self._at)
        return self._marks[-1]

    def release(self, mark: int) -> None:
        """Forget a place."""
        self._marks.remove(mark)

    def rewind(self, mark: int) -> None:
        """Go back to a place and forget it."""
        self._marks.remove(mark)
        self._at = mark - self._first

    def give_back(self, text: str) -> None:
        """Stand before a text that was just taken."""
        self._at -= len(text)

    def _more(self) -> Steps[bool]:
        """Wait for another character; False where the text has ended."""
        n_chars = self._first + len(self._text)
        while not self._is_ended and self._first + len(self._text) == n_chars:
            yield
        return self._first + len(self._text) > n_chars

    def peek(self) -> Steps[str]:
        """Return the next character without taking it; "" at the end."""
        if self._at == len(self._text) and not (yield from self._more()):
            return ""
        return self._text[self._at]

    def take(self) -> Steps[str]:
        """Return the next character; "" at the end."""
        char = yield from self.peek()
        self._at += len(char)
        return char

    def has(self, *literals: str) -> Steps[str]:
        """Take the first of the literals that stands here; "" where none does."""
        for literal in literals:
            while True:
                n_there = len(self._text) - self._at
                if n_there >= len(literal):
                    break
                if not literal.startswith(self._text[self._at :]):
                    break
                if not (yield from self._more()):
                    break
            if self._text.startswith(literal, self._at):
                self._at += len(literal)
                return literal
        return ""

    def skip_space(self) -> Steps[str]:
        """Take white space, and return the next character without taking it."""
        while True:
            char = yield from self.peek()
            if not char or not char.isspace():
                return char
            self._at += 1

    def until(self, markers: tuple[str, ...], emit: Emit) -> Steps[str]:
        """Give text out up to the first marker, take the marker and return it; "" at the end.

        No marker may begin with another one.
        """
        while True:
            text = self._text
            found = [(at, m) for m in markers if (at := text.find(m, self._at)) >= 0]
            if found:
                at, marker = min(found)
                emit(text[self._at : at])
                self._at = at + len(marker)
                return marker
            n_held = _tail(text, self._at, markers)
            emit(text[self._at : len(text) - n_held])
            self._at = len(text) - n_held
            if not (yield from self._more()):
                emit(text[self._at :])
                self._at = len(text)
                return ""

    def text_until(self, markers: tuple[str, ...], *, limit: int) -> Steps[tuple[str, str]]:
        """Return the text up to a marker, and the marker, which is taken; or take nothing.

        Raises:
            CutOffError: The whole text ends first.
            NotACallError: The text is longer than `limit`.
        """
        parts: list[str] = []
        n_chars = 0

        def emit(text: str) -> None:
            nonlocal n_chars
            parts.append(text)
            n_chars += len(text)

        mark = self.mark()
        steps = self.until(markers, emit)
        marker = ""
        while n_chars <= limit:
            try:
                next(steps)
            except StopIteration as done:
                marker = str(done.value)
                break
            yield
        if marker and n_chars <= limit:
            self.release(mark)
            return "".join(parts), marker
        self.rewind(mark)
        if n_chars > limit:
            raise NotACallError
        raise CutOffError("".join(parts))


def _tail(text: str, at: int, markers: tuple[str, ...]) -> int:
    """Count the characters at the end that may be a marker's beginning."""
    longest = max(len(marker) for marker in markers) - 1
    start = max(at, len(text) - longest)
    for place in range(start, len(text)):
        rest = text[place:]
        if any(marker.startswith(rest) for marker in markers):
            return len(rest)
    return 0
