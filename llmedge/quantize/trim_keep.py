"""Which tokens of a vocabulary stay, so that texts in the chosen scripts are cut as before.

By script this follows from UTF-8: a token whose characters are all of chosen scripts or of none
stays, and so does every part of a character. Whatever a text in these scripts can be merged from is
a part of it, so it stays, too. Where the user's text decides, everything that a kept token is
merged from is kept with it.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import NotFoundError, UnsupportedError, UsageError
from llmedge.measure.scripts import COMMON, find_scripts
from llmedge.quantize.trim_vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Matrices whose rows are a multiple of this meet every backend's fast kernels: 8 to 16 rows for the
# CPU's repacked weights, 64 or 128 for OpenCL on Adreno.
# Source: ggml/src/ggml-cpu/repack.cpp and ggml/src/ggml-opencl/ggml-opencl.cpp of llama.cpp.
ROWS_MULTIPLE = 128

SPECIAL, PADDING, BYTES = "special", "padding", "bytes"
_PADDING = re.compile(rb"\[PAD\d+_?\]")  # as converters call rows that no token has
_SPACE = "▁"
_MAX_LIST_BYTES = 16 << 20
_MAX_ID_DIGITS = 9
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to stay.

    Attributes:
        scripts: Scripts of the languages to keep.
        pinned: Tokens to keep whatever they are.
        used: Tokens of the user's texts; `None` keeps all of the scripts' tokens.
    """

    scripts: frozenset[str]
    pinned: frozenset[int]
    used: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class ScriptCount:
    """Tokens of one script.

    Attributes:
        script: Its name, or `special`, `bytes`, `padding`.
        n_kept: Tokens that stay.
        n_dropped: Tokens that go.
    """

    script: str
    n_kept: int
    n_dropped: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What stays of a vocabulary.

    Attributes:
        kept: The tokens that stay, ascending; the new id of each is its place here.
        is_kept: One byte a token, 1 for one that stays.
        labels: The script of each token.
    """

    kept: array[int]
    is_kept: bytearray
    labels: list[str]

    def new_ids(self) -> array[int]:
        """Return each token's new id, -1 for one that goes."""
        ids = array("i", [-1]) * len(self.is_kept)
        for new, old in enumerate(self.kept):
            ids[old] = new
        return ids

    def counts(self) -> tuple[ScriptCount, ...]:
        """Return how many tokens of each script stay and go, the most first."""
        totals: dict[str, list[int]] = {}
        for label, is_kept in zip(self.labels, self.is_kept, strict=True):
            totals.setdefault(label, [0, 0])[is_kept] += 1
        rows = (ScriptCount(label, kept, gone) for label, (gone, kept) in totals.items())
        return tuple(sorted(rows, key=lambda row: -row.n_kept - row.n_dropped))


def select_tokens(vocabulary: Vocabulary, wishes: Wishes) -> Selection:
    """Decide which tokens stay.

    Raises:
        UnsupportedError: Text in a dropped script could not be written any more, byte by byte.
        UsageError: Nothing would go.
    """
    labels: list[str] = []
    is_kept = bytearray(len(vocabulary))
    for token in range(len(vocabulary)):
        label, is_wanted = _judge(vocabulary, token, wishes)
        labels.append(label)
        is_kept[token] = is_wanted or token in wishes.pinned
    _close(vocabulary, is_kept)
    _round_up(vocabulary, is_kept, labels)
    kept = array("i", (token for token, stays in enumerate(is_kept) if stays))
    if len(kept) == len(vocabulary):
        raise UsageError(
            f"nothing to trim: all {len(vocabulary)} tokens are needed by every text or by "
            f"{', '.join(sorted(wishes.scripts))}",
            "keep fewer languages",
        )
    _require_bytes(vocabulary, is_kept)
    return Selection(kept, is_kept, labels)


def find_tokens(vocabulary: Vocabulary, path: Path) -> frozenset[int]:
    """Read a list of tokens: one a line, as its id or its text.

    Raises:
        NotFoundError: There is no such file.
        UsageError: The list is too long or not UTF-8, or names a token that is not there.
    """
    if not path.is_file():
        raise NotFoundError(f"the list {path} is not a file", "write one token a line")
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise UsageError(f"{path} is too long for a list of tokens", "one token a line")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}", "write one token a line") from None
    pieces = {vocabulary.piece(token): token for token in range(len(vocabulary))}
    return frozenset(
        _find_token(vocabulary, pieces, line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line
    )


def _find_token(vocabulary: Vocabulary, pieces: dict[bytes, int], line: str, where: str) -> int:
    is_id = line.isascii() and line.isdigit() and len(line) <= _MAX_ID_DIGITS
    spelt = line.encode()
    token = int(line) if is_id else pieces.get(spelt, vocabulary.index.get(spelt))
    if token is None or token >= len(vocabulary):
        raise UsageError(
            f"{where}: {_clipped(line)!r} is no token of the model, which has {len(vocabulary)}",
            "write a token's id or its exact text, spaces included",
        )
    return token


def _clipped(line: str) -> str:
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}…"


def _judge(vocabulary: Vocabulary, token: int, wishes: Wishes) -> tuple[str, bool]:
    """Return a token's script and whether it is wanted for itself."""
    kind, piece = vocabulary.kinds[token], vocabulary.piece(token)
    if kind == Kind.UNUSED and _PADDING.fullmatch(vocabulary.tokens[token]):
        return PADDING, False
    if kind in (Kind.UNKNOWN, Kind.CONTROL, Kind.USER_DEFINED, Kind.BYTE):
        return SPECIAL, True
    text = piece.decode("utf-8", "ignore")  # parts of characters have no script
    scripts = find_scripts(text)
    foreign = scripts - wishes.scripts
    label = min(foreign or scripts, default=COMMON if text else BYTES)
    is_character = len(text.replace(_SPACE, " ").strip(" ")) <= 1
    is_used = wishes.used is None or is_character or token in wishes.used
    return label, len(piece) == 1 or (not foreign and is_used)


def _close(vocabulary: Vocabulary, is_kept: bytearray) -> None:
    """Keep whatever the kept tokens are merged from."""
    waiting = [token for token, stays in enumerate(is_kept) if stays]
    while waiting:
        for part in vocabulary.parts_of(waiting.pop()):
            if not is_kept[part]:
                is_kept[part] = True
                waiting.append(part)


def _round_up(vocabulary: Vocabulary, is_kept: bytearray, labels: Sequence[str]) -> None:
    """Keep further tokens, those of low ids, until the rows are a multiple."""
    missing, has_found = -sum(is_kept) % ROWS_MULTIPLE, True
    while missing and has_found:  # a token may be merged from others of higher ids
        has_found = False
        for token, label in enumerate(labels):
            if is_kept[token] or label == PADDING:
                continue
            if missing and all(is_kept[part] for part in vocabulary.parts_of(token)):
                is_kept[token] = has_found = True
                missing -= 1


def _require_bytes(vocabulary: Vocabulary, is_kept: bytearray) -> None:
    """Refuse a vocabulary that cannot write what is dropped with tokens of single bytes."""
    singles = {
        vocabulary.piece(token)
        for token, stays in enumerate(is_kept)
        if stays and (vocabulary.is_byte_level or vocabulary.kinds[token] == Kind.BYTE)
    }
    needed: set[int] = set()
    for token, stays in enumerate(is_kept):
        if not stays and vocabulary.kinds[token] == Kind.NORMAL:
            needed.update(vocabulary.piece(token))
    missing = sorted(byte for byte in needed if bytes([byte]) not in singles)
    if missing:
        raise UnsupportedError(
            f"the vocabulary has no tokens for {len(missing)} single bytes such as "
            f"{missing[0]:#04x}: text in a dropped script would be lost, or end llama.cpp",
            "leave this model's vocabulary whole",
        )
