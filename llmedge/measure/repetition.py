"""Whether an answer repeats itself without end, or only the question: what lost models do.

A text repeats without end when it ends in the same unit `MIN_COPIES` times or more in a row, the
last copy perhaps cut off, and this takes `MIN_CHARS` characters or more. The unit may be any run of
up to `MAX_UNIT_CHARS` characters: one letter, a word, a sentence, a list item. White space of any
length counts as one space. Copies that differ, such as a numbered list, are no repetition.

An answer only repeats the question when its letters and digits, in their order, are in it.
"""

from __future__ import annotations

MIN_COPIES = 4
MIN_CHARS = 40
MAX_UNIT_CHARS = 240


def is_repeating(text: str) -> bool:
    """Return whether a text ends in an endless repetition, as this module defines it."""
    backwards = " ".join(text.split())[::-1]
    longest = min(MAX_UNIT_CHARS, (len(backwards) + 1) // MIN_COPIES)
    return any(
        # The space after the last copy is not there.
        _repeated_chars(backwards, n) >= max(MIN_CHARS, MIN_COPIES * n - 1)
        for n in range(1, longest + 1)
    )


def is_echo(answer: str, question: str) -> bool:
    """Return whether an answer says nothing that the question does not say."""
    said = _letters(answer)
    return bool(said) and said in _letters(question)


def _repeated_chars(backwards: str, unit_chars: int) -> int:
    """Return how many characters, read from the end, repeat with this period."""
    n = unit_chars
    while n < len(backwards) and backwards[n] == backwards[n - unit_chars]:
        n += 1
    return n


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())
