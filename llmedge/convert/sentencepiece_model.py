"""Reads tokenizer.model, SentencePiece's own file: a protobuf message, of which little is needed.

Source: sentencepiece `src/sentencepiece_model.proto`; protobuf.dev "Encoding".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from llmedge.convert.tokenizer_files import broken, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class PieceType(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """A token: its text, score and type."""

    text: str
    score: float
    type: PieceType


@dataclass(slots=True)
class SentencePieceModel:
    """A SentencePiece model.

    Attributes:
        pieces: The tokens, by id.
        is_unigram: Whether it is a unigram model; BPE otherwise.
        has_byte_fallback: Whether unknown characters become bytes.
        ids: `unk`, `bos`, `eos`, `pad` to id; negative where there is none.
        charsmap: The normalizer's compiled rules.
        adds_prefix: Whether a space is put before a text.
        merges_spaces: Whether runs of spaces become one, and those at the ends none.
    """

    pieces: list[Piece] = field(default_factory=list[Piece])
    is_unigram: bool = True
    has_byte_fallback: bool = False
    ids: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1})
    charsmap: bytes = b""
    adds_prefix: bool = True
    merges_spaces: bool = True

    def names(self) -> dict[str, str]:
        """Return role and text of the special tokens that there are."""
        return {
            role: self.pieces[token].text
            for role, token in self.ids.items()
            if 0 <= token < len(self.pieces)
        }


def read_model(path: Path) -> SentencePieceModel:
    """Read a SentencePiece model.

    Raises:
        IntegrityError: It is none.
    """
    data = read_bytes(path)
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                model.pieces.append(_piece(value))
            elif number == 2 and isinstance(value, bytes):
                _read_trainer(model, value)
            elif number == 3 and isinstance(value, bytes):
                _read_normalizer(model, value)
    except (ValueError, struct.error) as error:
        raise broken(path, f"no SentencePiece model: {error}") from None
    if not model.pieces:
        raise broken(path, "no SentencePiece model: it has no pieces")
    return model


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, PieceType(kind))


def _read_trainer(model: SentencePieceModel, data: bytes) -> None:
    roles = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
    for number, value in _fields(data):
        if not isinstance(value, int):
            continue
        if number == 3:
            if value not in (1, 2):
                raise ValueError(f"its model type is {value}, neither unigram nor BPE")
            model.is_unigram = value == 1
        elif number == 35:
            model.has_byte_fallback = bool(value)
        elif number in roles:
            model.ids[roles[number]] = value if value < 1 << 31 else -1


def _read_normalizer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            model.charsmap = value
        elif number == 3:
            model.adds_prefix = bool(value)
        elif number == 4:
            model.merges_spaces = bool(value)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield a message's field numbers and values; numbers of fixed width as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if length > len(data) - at:
            raise ValueError(f"a field of {length} bytes at byte {at} is longer than the file")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(_MAX_VARINT_BYTES):
        if at + n >= len(data):
            break
        byte = data[at + n]
        value |= (byte & 0x7F) << (7 * n)
        if byte < 0x80:
            return value, at + n + 1
    raise ValueError(f"a number at byte {at} has no end")
