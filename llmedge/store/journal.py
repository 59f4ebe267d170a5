"""Facts that take long to find, each kept the moment it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmedge.core.errors import ResourceError
from llmedge.host.files import append
from llmedge.store.atomic import make_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Journal:
    """Numbers by name in a file that only grows; what a killed process found is there.

    Args:
        path: The file; its name should say what the facts depend on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, tuple[float, ...]] = {}
        self._has_torn_line = False
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        for line in lines:
            try:
                self._facts.update(msgspec.json.decode(line, type=dict[str, tuple[float, ...]]))
            except (msgspec.MsgspecError, UnicodeDecodeError):  # cut off, or damaged: found again
                continue
        self._has_torn_line = bool(lines) and not lines[-1].endswith(b"\n")

    def __contains__(self, name: str) -> bool:
        return name in self._facts

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return self._facts[name]

    def add(self, facts: Mapping[str, tuple[float, ...]]) -> None:
        """Keep facts.

        Raises:
            ResourceError: The disk is full or read-only.
        """
        make_folder(self._path.parent)
        head = b"\n" if self._has_torn_line else b""
        try:
            append(self._path, head + msgspec.json.encode(facts) + b"\n")
        except OSError as error:
            raise ResourceError(f"{self._path} could not be written: {error.strerror}") from None
        self._has_torn_line = False
        self._facts.update(facts)
