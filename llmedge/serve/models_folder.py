"""A folder whose GGUF files are offered: what lies there now, and why some of it is not offered."""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmedge.core.errors import (
    IntegrityError,
    LlmedgeError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
)
from llmedge.gguf.reader import read_header
from llmedge.host.stamp import Stamp, stamp_of
from llmedge.serve.pool import Found, ModelSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmedge.engine.engine import Engine
    from llmedge.gguf.reader import Header

_log = logging.getLogger("llmedge.serve")

_MAX_FILES = 1024
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
# What lies beside models and is none. Source: gguf-py/gguf/constants.py, `GGUFType`.
_SIDECARS = frozenset({"imatrix", "adapter", "mmproj", "vocab"})


@dataclass(frozen=True, slots=True)
class _Seen:
    stamp: Stamp
    what: ModelSource | LlmedgeError | None  # `None`: something that lies beside models


class ModelsFolder:
    """Looks into a folder, its first level alone; headers are read once a file. For one thread.

    Args:
        path: The folder.
        describe: Makes a source of a file with a good header.

    Raises:
        NotFoundError: It is not a folder that can be read.
    """

    def __init__(self, path: Path, describe: Callable[[Path, Header], ModelSource]) -> None:
        self._path = path
        self._describe = describe
        self._seen: dict[str, _Seen] = {}
        self._has_warned = False
        try:
            self._names()
        except OSError as error:
            raise NotFoundError(f"{path} is not a folder to serve: {error.strerror}") from None

    def look(self) -> Found:
        """Return what lies there now.

        Raises:
            OSError: The folder cannot be read.
        """
        seen: dict[str, _Seen] = {}
        sources: dict[str, ModelSource] = {}
        refused: dict[str, LlmedgeError] = {}
        for name in self._names():
            file = self._inspect(name)
            if file is None:
                continue
            seen[name] = file
            if isinstance(file.what, LlmedgeError):
                refused[self._path.joinpath(name).stem] = file.what
            elif file.what is not None:
                sources.setdefault(file.what.info.id, file.what)
        self._seen = seen
        return Found(sources, {name: why for name, why in refused.items() if name not in sources})

    def _names(self) -> list[str]:
        with os.scandir(self._path) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.lower().endswith(".gguf") and not entry.name.startswith(".")
            ]
        if len(names) > _MAX_FILES and not self._has_warned:
            self._has_warned = True
            _log.warning("%d files are too many: %d are offered", len(names), _MAX_FILES)
        return sorted(names)[:_MAX_FILES]

    def _inspect(self, name: str) -> _Seen | None:
        """Look at one entry; `None` where it is gone."""
        path = self._path / name
        try:
            status = path.stat()
        except OSError:  # gone, or a link to nothing
            return None
        known, stamp = self._seen.get(name), stamp_of(status)
        if known is not None and known.stamp == stamp:
            return known
        try:
            what = self._judge(path, status)
        except LlmedgeError as error:
            # A client learns what is wrong, and not where the folder is.
            message = error.message.replace(str(path), path.name)
            what = UnsupportedError(message, error.hint)
            _log.warning("%s is not offered: %s", ascii(name), ascii(message))
        return _Seen(stamp, what)

    def _judge(self, path: Path, status: os.stat_result) -> ModelSource | None:
        if not stat.S_ISREG(status.st_mode):
            return None
        if not path.stem.isprintable():
            raise UnsupportedError(f"{path.name!a} is no name that a request could say")
        if _SPLIT.search(path.stem):
            raise UnsupportedError(
                f"{path.name} is one part of a split model", "join its parts: llama-gguf-split"
            )
        _require_inside(path, self._path)
        header = read_header(path)
        if header.number("split.count"):
            raise UnsupportedError(
                f"{path.name} is one part of a split model", "join its parts: llama-gguf-split"
            )
        if header.text("general.type") in _SIDECARS or header.architecture == "clip":
            return None
        source, stamp = self._describe(path, header), header.stamp

        def open_unchanged() -> Engine:
            # Between the look and the load another file may have taken the name.
            if not path.exists() or stamp_of(path.stat()) != stamp:
                raise ResourceError(f"{path.name} was changed just now", "ask again in a moment")
            return source.open()

        return replace(source, open=open_unchanged)


def _require_inside(path: Path, folder: Path) -> None:
    """Make sure that a file is in a folder, and no link to elsewhere.

    Raises:
        IntegrityError: It is elsewhere.
    """
    if path.resolve().parent != folder.resolve():
        raise IntegrityError(f"{path.name} is a link to outside of the folder")
