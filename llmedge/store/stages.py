"""What the stages of a run found, each kept with the hash of all that it depends on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from llmedge.store.atomic import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Kept(Generic[ResultT]):
    """What a stage found.

    Attributes:
        result: What it was.
        seconds: How long it took to find.
    """

    result: ResultT
    seconds: float


@dataclass(frozen=True, slots=True)
class _Note:
    inputs: str
    seconds: float
    result: msgspec.Raw


class Stages:
    """Results by name, one small file each: a kill loses what is in the making, nothing else.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str, inputs: object, kind: type[ResultT]) -> Kept[ResultT] | None:
        """Return what was found from the same inputs; `None` where nothing was, or it is damaged.

        Args:
            name: The stage, and what of it: usable as a file's name.
            inputs: All that the result depends on.
            kind: The result's dataclass.
        """
        try:
            note = msgspec.json.decode(self._path(name).read_bytes(), type=_Note)
            if note.inputs != _hash(inputs):
                return None
            return Kept(msgspec.json.decode(note.result, type=kind), note.seconds)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def keep(self, name: str, inputs: object, result: object, seconds: float) -> None:
        """Keep a result.

        Raises:
            ResourceError: The disk is full or read-only.
        """
        raw = msgspec.Raw(msgspec.json.encode(result))
        data = msgspec.json.encode(_Note(_hash(inputs), round(seconds, 3), raw))
        write_bytes(self._path(name), data + b"\n")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _hash(inputs: object) -> str:
    return hashlib.sha256(msgspec.json.encode(inputs, order="deterministic")).hexdigest()
