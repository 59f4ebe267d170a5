"""The importance matrices of llama.cpp before August 2025: one file without a header.

Source: `common_imatrix_load_legacy` in common/imatrix-loader.cpp of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedReader
    from pathlib import Path

    from numpy.typing import NDArray

_MAX_NAME_BYTES = 4096
_MIN_ENTRY_BYTES = 4 + 1 + 4 + 4 + 4
_HINT = "download the importance matrix, or compute it, again"


@dataclass(frozen=True, slots=True)
class OldImatrix:
    """What such a file holds.

    Attributes:
        datasets: The text that it was computed on, where the file says it.
        n_chunks: How many pieces of text; 0 where the file does not say.
        entries: By tensor name, the number of calls, and mean squares times that number.
    """

    datasets: tuple[str, ...]
    n_chunks: int
    entries: Mapping[str, tuple[int, NDArray[np.float32]]]


class OldParser:
    """Reads such a file from front to back; every read is checked against what is left.

    Args:
        path: For messages.
        file: At its start.
        size: Its bytes.
    """

    def __init__(self, path: Path, file: BufferedReader, size: int) -> None:
        self._path = path
        self._file = file
        self._left = size

    def parse(self) -> OldImatrix:
        """Read it.

        Raises:
            IntegrityError: It is no importance matrix, is truncated, or contradicts itself.
        """
        n_entries = self._int("the number of entries")
        if not 1 <= n_entries <= self._left // _MIN_ENTRY_BYTES:
            raise IntegrityError(f"{self._path} is no importance matrix", _HINT)
        entries: dict[str, tuple[int, NDArray[np.float32]]] = {}
        for _ in range(n_entries):
            name, n_calls, values = self._entry()
            if name in entries:
                raise self._broken(f"{name} is there twice")
            entries[name] = (n_calls, values)
        if not self._left:  # as the first versions wrote it
            return OldImatrix((), 0, entries)
        n_chunks = self._int("the number of chunks")
        dataset = self._string("the dataset's name")
        if self._left or n_chunks < 0:
            raise self._broken(f"{n_chunks} chunks, {self._left} bytes after its end")
        return OldImatrix((dataset,) if dataset else (), n_chunks, entries)

    def _entry(self) -> tuple[str, int, NDArray[np.float32]]:
        name = self._string("a tensor's name")
        if not name.isprintable() or not name:
            raise self._broken(f"the tensor name {name!r} is empty or not plain text")
        n_calls = self._int(f"the calls of {name}")
        n_values = self._int(f"the length of {name}")
        if n_values < 1 or n_calls < 0:
            raise self._broken(f"{name} has {n_values} values of {n_calls} calls")
        return name, n_calls, np.frombuffer(self._take(4 * n_values, name), np.float32)

    def _string(self, what: str) -> str:
        length = self._int(what)
        if not 0 <= length <= _MAX_NAME_BYTES:
            raise self._broken(f"{what} is {length} bytes long")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self._broken(f"{what} is not UTF-8") from None

    def _int(self, what: str) -> int:
        return int.from_bytes(self._take(4, what), "little", signed=True)

    def _take(self, n_bytes: int, what: str) -> bytes:
        data = self._file.read(n_bytes) if n_bytes <= self._left else b""
        if len(data) != n_bytes:
            raise self._broken(f"it is truncated: {what} needs {n_bytes} bytes")
        self._left -= n_bytes
        return data

    def _broken(self, why: str) -> IntegrityError:
        return IntegrityError(f"{self._path} is damaged: {why}", _HINT)
