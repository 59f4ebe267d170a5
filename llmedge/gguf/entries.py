"""A GGUF file's metadata as it lies in the file: entries to copy, and the items of long arrays.

`reader` checks a header and keeps no long arrays; this reads the bytes of a checked header again.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError
from llmedge.gguf.reader import ARRAY, SCALARS, STRING
from llmedge.gguf.writer import Metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmedge.gguf.reader import Header

_FRONT_BYTES = 4 + 4 + 8 + 8
_BOOL_CODE, _BYTE_CODE = "?", "B"


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a key and its value lie.

    Attributes:
        start: Of the key.
        end: Of the value.
        items_at: Of an array's first item; of the value of anything else.
        item_kind: Type of an array's items; of the value of anything else.
        n_items: Items of an array, `None` for anything else.
    """

    start: int
    end: int
    items_at: int
    item_kind: int
    n_items: int | None


class Entries:
    """The metadata of one file; iterates over its keys in the file's order.

    Args:
        header: The file's, checked.

    Raises:
        IntegrityError: The file is no longer the one that was checked.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        with header.path.open("rb") as file:
            self._data = file.read(header.data_offset)
        self._entries: dict[str, _Entry] = {}
        try:
            self._walk()
        except (struct.error, KeyError, UnicodeDecodeError):
            raise self._changed() from None
        is_whole = all(entry.end <= len(self._data) for entry in self._entries.values())
        if not is_whole or list(self._entries) != list(header.metadata):
            raise self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def raw(self, key: str) -> Metadata:
        """Return a key and its value as they lie in the file."""
        entry = self._entries[key]
        return Metadata(1, self._data[entry.start : entry.end])

    def strings(self, key: str) -> list[bytes] | None:
        """Return an array of strings; `None` where the key is missing or anything else."""
        entry = self._entries.get(key)
        if entry is None or entry.n_items is None or entry.item_kind != STRING:
            return None
        at, items = entry.items_at, list[bytes]()
        for _ in range(entry.n_items):
            end = self._string_end(at)
            items.append(self._data[at + 8 : end])
            at = end
        return items

    def numbers(self, key: str) -> array[int] | array[float] | None:
        """Return an array of numbers; `None` where the key is missing or anything else."""
        entry = self._entries.get(key)
        if entry is None or entry.n_items is None or entry.item_kind == STRING:
            return None
        code = SCALARS[entry.item_kind]
        items: array[int] = array(_BYTE_CODE if code == _BOOL_CODE else code)
        items.frombytes(self._data[entry.items_at : entry.end])
        if sys.byteorder == "big":
            items.byteswap()
        return items

    def _walk(self) -> None:
        at = _FRONT_BYTES
        for _ in self._header.metadata:
            start, at = at, self._string_end(at)
            key = self._data[start + 8 : at].decode("utf-8")
            (kind,) = struct.unpack_from("<I", self._data, at)
            n_items, at = None, at + 4
            if kind == ARRAY:
                kind, n_items = struct.unpack_from("<IQ", self._data, at)
                at += 12
            end = self._items_end(at, kind, 1 if n_items is None else n_items)
            self._entries[key] = _Entry(start, end, at, kind, n_items)
            at = end

    def _items_end(self, at: int, kind: int, n_items: int) -> int:
        if kind != STRING:
            return at + n_items * struct.calcsize("<" + SCALARS[kind])
        for _ in range(n_items):
            at = self._string_end(at)
        return at

    def _string_end(self, at: int) -> int:
        (n_bytes,) = struct.unpack_from("<Q", self._data, at)
        return at + 8 + n_bytes

    def _changed(self) -> IntegrityError:
        return IntegrityError(
            f"{self._header.path} changed while it was read", "wait until nothing writes it"
        )
