"""What was measured, as JSON lines in the store: one file a kind, appended, never rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from llmedge.core.errors import ResourceError
from llmedge.host.files import append
from llmedge.store.atomic import make_folder

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings

RecordT = TypeVar("RecordT")
Kind = Literal["bench", "chat", "evaluate"]


def append_record(settings: Settings, kind: Kind, record: object) -> Path:
    """Append a record.

    Args:
        settings: Where the store is.
        kind: Which file.
        record: A dataclass that carries its own schema version.

    Returns:
        The file.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    path = settings.home / "records" / f"{kind}.jsonl"
    make_folder(path.parent)
    line = msgspec.json.encode(record, enc_hook=str) + b"\n"
    try:
        append(path, line)
    except OSError as error:
        raise ResourceError(f"{path} could not be written: {error.strerror}") from None
    return path


def read_records(settings: Settings, kind: Kind) -> list[dict[str, object]]:
    """Return the records of a kind, oldest first; a line cut off by a power loss is left out."""
    path = settings.home / "records" / f"{kind}.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be read: {error.strerror}", "mend its permissions, or remove it"
        ) from None
    records: list[dict[str, object]] = []
    for line in lines:
        try:
            records.append(msgspec.json.decode(line, type=dict[str, object]))
        except msgspec.MsgspecError:
            continue
    return records


def read_records_as(settings: Settings, kind: Kind, record_type: type[RecordT]) -> list[RecordT]:
    """Return the records of a kind that have this dataclass's fields, oldest first.

    Records of another shape, such as an older version's, are passed over; fields that the
    dataclass does not have are, too.
    """
    found = (record_as(record, record_type) for record in read_records(settings, kind))
    return [record for record in found if record is not None]


def record_as(record: dict[str, object], record_type: type[RecordT]) -> RecordT | None:
    """Return a record as a dataclass, or `None` where it has another shape."""
    try:
        return msgspec.convert(record, record_type)
    except msgspec.ValidationError:
        return None
