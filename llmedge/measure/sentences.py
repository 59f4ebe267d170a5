"""Short texts of many kinds, to see whether two tokenizers cut them alike.

Knows nothing of tokenizers. The texts were written for llmedge; CC0. Each file under `sentences/`
holds one text a line, escaped like a JSON string without its quotes, so that white space and
characters that do not show survive editors and version control.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KINDS: Mapping[str, str] = {
    "en": "English",
    "hi": "Hindi",
    "hi-Latn": "Hindi in Latin letters",
    "mr": "Marathi",
    "bn": "Bengali",
    "ta": "Tamil",
    "te": "Telugu",
    "kn": "Kannada",
    "ml": "Malayalam",
    "gu": "Gujarati",
    "pa": "Punjabi",
    "or": "Odia",
    "ur": "Urdu",
    "th": "Thai",
    "ar": "Arabic",
    "ru": "Russian",
    "zh": "Chinese",
    "ja": "Japanese",
    "ko": "Korean",
    "emoji": "emoji",
    "code": "code",
    "whitespace": "white space",
    "numbers": "numbers",
    "combining": "combining marks and rare characters",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text to tokenize.

    Attributes:
        kind: A key of `KINDS`.
        text: Never empty; may be nothing but white space, or hold several lines.
    """

    kind: str
    text: str


def read_sentences(kinds: Iterable[str] | None = None) -> tuple[Sentence, ...]:
    """Return the texts of these kinds, kind by kind; of all kinds by default.

    Raises:
        UsageError: A kind is not a key of `KINDS`.
    """
    wanted = tuple(KINDS if kinds is None else kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise UsageError(
                f"no sentences are shipped for {kind!r}", f"shipped: {', '.join(KINDS)}"
            )
    return tuple(Sentence(kind, text) for kind in wanted for text in _read_kind(kind))


def _read_kind(kind: str) -> list[str]:
    file = resources.files("llmedge.measure") / "sentences" / f"{kind}.txt"
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [json.loads(f'"{line}"') for line in lines]
