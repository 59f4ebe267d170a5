"""A model's vocabulary as its GGUF file holds it: tokens, kinds, scores and merges, held together.

Source: src/llama-vocab.cpp of llama.cpp for what each tokenizer does with them.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmedge.gguf.entries import Entries
    from llmedge.gguf.reader import Header

TOKENS, KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
SCORES, MERGES = "tokenizer.ggml.scores", "tokenizer.ggml.merges"
EMBEDDING = "token_embd.weight"

_BY_SCORE = "llama"
_BY_MERGES = ("gpt2", "gemma4")
# Pre-tokenizers that merge characters instead of bytes written as characters.
_PLAIN_PRE_TYPES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")
_NO_TOKEN = -1
_MAX_TOKEN_BYTES = 1024  # the longest in use are runs of some hundred spaces


class Kind(enum.IntEnum):
    """What a token is. Source: include/llama.h `enum llama_token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary; tokens are known by their place.

    Attributes:
        tokens: As they are spelt in the file.
        index: Each token's place by its spelling.
        kinds: A `Kind` each.
        scores: What a tokenizer that merges by score goes by; `None` where the file has none.
        merges: In the order of their ranks; `None` where the file has none.
        is_by_merges: Whether texts are cut by merges, not by scores.
        is_byte_level: Whether bytes are spelt as printable characters.
    """

    tokens: list[bytes]
    index: dict[bytes, int]
    kinds: array[int]
    scores: array[int] | array[float] | None
    merges: Merges | None
    is_by_merges: bool
    is_byte_level: bool

    def __len__(self) -> int:
        return len(self.tokens)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a text that a token stands for; they may be part of a character."""
        spelt = self.tokens[token]
        if self.kinds[token] == Kind.BYTE:
            return _byte_of(spelt)
        if not self.is_byte_level:
            return spelt
        characters = spelt.decode("utf-8", "replace")
        if all(char in _BYTE_OF_CHARACTER for char in characters):
            return bytes(_BYTE_OF_CHARACTER[char] for char in characters)
        return spelt

    def parts_of(self, token: int) -> Iterator[int]:
        """Yield the tokens that this one may be joined from when a text is cut into tokens."""
        if self.kinds[token] not in (Kind.NORMAL, Kind.UNUSED):
            return  # such a token is found as a whole
        if self.is_by_merges:
            yield from self.merges.parts_of(token) if self.merges else ()
        else:
            yield from self._halves(self.tokens[token])

    def _halves(self, spelt: bytes) -> Iterator[int]:
        """Yield both halves of every cut whose halves a tokenizer by score may hold."""
        starts = [at for at, byte in enumerate(spelt) if byte & 0xC0 != 0x80]
        for place, at in enumerate(starts[1:], start=1):
            left, right = self.index.get(spelt[:at]), self.index.get(spelt[at:])
            # A single character is held whether it is a token or not.
            has_left, has_right = left is not None or place == 1, right is not None
            if has_left and (has_right or place == len(starts) - 1):
                yield from (half for half in (left, right) if half is not None)


class Merges:
    """The merges of a vocabulary, by the tokens they join and make.

    A part or result that is no token has the place -1.
    """

    def __init__(self, lines: list[bytes], index: dict[bytes, int]) -> None:
        self.lines = lines
        self._parts = (array("i"), array("i"))
        self._results = array("i")
        # Merges with the same result form a chain from the last one to the first.
        self._last = array("i", [_NO_TOKEN]) * len(index)
        self._before = array("i")
        for line in lines:
            # llama.cpp cuts at the first space after the first byte.
            space = line.find(b" ", 1)
            left, right = (line[:space], line[space + 1 :]) if space > 0 else (b"", b"")
            result = index.get(left + right, _NO_TOKEN)
            self._parts[0].append(index.get(left, _NO_TOKEN))
            self._parts[1].append(index.get(right, _NO_TOKEN))
            self._results.append(result)
            self._before.append(self._last[result] if result != _NO_TOKEN else _NO_TOKEN)
            if result != _NO_TOKEN:
                self._last[result] = len(self._results) - 1

    def parts_of(self, token: int) -> Iterator[int]:
        """Yield the tokens that some merge joins to this one."""
        at = self._last[token]
        while at != _NO_TOKEN:
            yield from (part[at] for part in self._parts if part[at] != _NO_TOKEN)
            at = self._before[at]

    def among(self, is_kept: bytearray) -> list[bytes]:
        """Return the merges that touch only tokens that are kept, in order."""
        columns = zip(self.lines, *self._parts, self._results, strict=True)
        return [
            line
            for line, *tokens in columns
            if all(token == _NO_TOKEN or is_kept[token] for token in tokens)
        ]


def read_vocabulary(header: Header, entries: Entries) -> Vocabulary:
    """Read a vocabulary whose parts fit each other and the model's rows.

    Raises:
        UnsupportedError: There is none, or its tokenizer is not one that can be trimmed.
        IntegrityError: Its parts contradict each other or the model.
    """
    model, pre = header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre")
    if model != _BY_SCORE and model not in _BY_MERGES:
        raise UnsupportedError(
            f"{header.path.name} has the tokenizer {model!r}; trimming is shown to be right for "
            f"{', '.join((_BY_SCORE, *_BY_MERGES))}",
            "leave this model's vocabulary whole",
        )
    tokens = entries.strings(TOKENS)
    if not tokens:
        raise _broken(header, f"{TOKENS} is missing or holds no strings")
    _check_rows(header, len(tokens))
    # llama.cpp names empty tokens by their place, which is about to change.
    tokens = [spelt or b"[EMPTY_%d]" % token for token, spelt in enumerate(tokens)]
    index = {spelt: token for token, spelt in enumerate(tokens)}
    if len(index) != len(tokens):
        raise _broken(header, "two tokens are spelt alike")
    if max(map(len, tokens)) > _MAX_TOKEN_BYTES:
        raise _broken(header, f"a token is {max(map(len, tokens))} bytes long")
    kinds = _numbers(header, entries, KINDS, len(tokens), "i")
    lines = entries.strings(MERGES)
    if model in _BY_MERGES and lines is None:
        raise _broken(header, f"its tokenizer {model!r} works by merges and {MERGES} is missing")
    return Vocabulary(
        tokens,
        index,
        cast("array[int]", kinds) if kinds else array("i", [Kind.NORMAL]) * len(tokens),
        _numbers(header, entries, SCORES, len(tokens), "if"),
        None if lines is None else Merges(lines, index),
        is_by_merges=model in _BY_MERGES,
        is_byte_level=model == "gpt2" and pre not in _PLAIN_PRE_TYPES,
    )


def _check_rows(header: Header, n_tokens: int) -> None:
    embedding = next((tensor for tensor in header.tensors if tensor.name == EMBEDDING), None)
    if embedding is None or len(embedding.shape) != 2:
        raise _broken(header, f"it has no matrix {EMBEDDING}")
    if embedding.shape[1] != n_tokens:
        raise _broken(header, f"{EMBEDDING} has {embedding.shape[1]} rows for {n_tokens} tokens")


def _numbers(
    header: Header, entries: Entries, key: str, n_tokens: int, codes: str
) -> array[int] | array[float] | None:
    if key not in entries:
        return None
    numbers = entries.numbers(key)
    if numbers is None or numbers.typecode not in codes or len(numbers) != n_tokens:
        raise _broken(header, f"{key} is not a list of {n_tokens} numbers, one a token")
    return numbers


def _broken(header: Header, why: str) -> IntegrityError:
    return IntegrityError(
        f"the vocabulary of {header.path} is damaged: {why}", "convert the model again"
    )


def _byte_of(spelt: bytes) -> bytes:
    """Return the byte that a token like `<0x0A>` stands for, or the spelling of any other."""
    try:
        return bytes([int(spelt[3:5], 16)]) if len(spelt) == 6 else spelt
    except ValueError:
        return spelt


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of byte-level BPE stands for.

    Source: `bytes_to_unicode` of OpenAI's GPT-2: printable bytes are themselves, the others follow
    from U+0100 on.
    """
    printable = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER = _byte_alphabet()
