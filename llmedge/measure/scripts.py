"""Which script a letter belongs to, which scripts a language is written in, and how much of a text.

Python knows a character's category but not its script. Letters are the characters of category L:
digits, punctuation, emoji and the vowel signs that hang on an Indic letter are not counted, so that
a text's share does not depend on how many signs its letters carry.

Source: Unicode 17, Blocks.txt and Scripts.txt; a block that mixes scripts is cut to its letters.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMON = "Common"
SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "en": ("Latin",),
    "hi": ("Devanagari",),
    "hi-Latn": ("Latin",),
    "mr": ("Devanagari",),
    "bn": ("Bengali",),
    "ta": ("Tamil",),
    "te": ("Telugu",),
    "kn": ("Kannada",),
    "ml": ("Malayalam",),
    "gu": ("Gujarati",),
    "pa": ("Gurmukhi",),
    "or": ("Oriya",),
    "ur": ("Arabic",),
}
_RANGES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "Latin": (
        (0x0041, 0x005A),
        (0x0061, 0x007A),
        (0x00AA, 0x00AA),
        (0x00BA, 0x00BA),
        (0x00C0, 0x02B8),
        (0x1E00, 0x1EFF),
        (0x2C60, 0x2C7F),
        (0xA722, 0xA787),
        (0xA78B, 0xA7FF),
        (0xFB00, 0xFB06),
        (0xFF21, 0xFF5A),
    ),
    "Devanagari": ((0x0900, 0x097F), (0xA8E0, 0xA8FF), (0x11B00, 0x11B5F)),
    "Bengali": ((0x0980, 0x09FF),),
    "Gurmukhi": ((0x0A00, 0x0A7F),),
    "Gujarati": ((0x0A80, 0x0AFF),),
    "Oriya": ((0x0B00, 0x0B7F),),
    "Tamil": ((0x0B80, 0x0BFF), (0x11FC0, 0x11FFF)),
    "Telugu": ((0x0C00, 0x0C7F),),
    "Kannada": ((0x0C80, 0x0CFF),),
    "Malayalam": ((0x0D00, 0x0D7F),),
    "Arabic": (
        (0x0600, 0x06FF),
        (0x0750, 0x077F),
        (0x0870, 0x08FF),
        (0xFB50, 0xFDFF),
        (0xFE70, 0xFEFC),
        (0x10EC0, 0x10EFF),
        (0x1EE00, 0x1EEFF),
    ),
}


def scripts_of(language: str) -> tuple[str, ...]:
    """Return the scripts that a language is written in.

    Raises:
        UsageError: The language is not known.
    """
    if language not in SCRIPTS:
        raise UsageError(
            f"the script of language {language!r} is not known", f"known: {', '.join(SCRIPTS)}"
        )
    return SCRIPTS[language]


@functools.lru_cache(maxsize=1 << 14)
def script_of(char: str) -> str:
    """Return a letter's script; `Common` for what is no letter.

    Scripts outside the table are called by how the names of their letters begin: `Cyrillic`.
    """
    if not unicodedata.category(char).startswith("L"):
        return COMMON
    for script, ranges in _RANGES.items():
        if any(first <= ord(char) <= last for first, last in ranges):
            return script
    return unicodedata.name(char, COMMON).split()[0].title()


def script_share(text: str, scripts: Sequence[str]) -> float | None:
    """Return the share of a text's letters that belong to these scripts; `None` without letters."""
    found = [script for script in map(script_of, text) if script != COMMON]
    return sum(script in scripts for script in found) / len(found) if found else None
