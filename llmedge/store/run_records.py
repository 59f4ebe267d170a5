"""Runs of recipes as JSON files: `<home>/runs/<recipe>/<time>.json`, each read on its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError
from llmedge.store.atomic import write_bytes
from llmedge.store.manifest import Quality, Speed  # noqa: TC001 - records are decoded by it

if TYPE_CHECKING:
    from llmedge.core.settings import Settings

SCHEMA = "llmedge.run/1"
_FAMILY = "llmedge.run/"
_MAX_BYTES = 16 << 20

Status: TypeAlias = Literal["passed", "failed", "partial"]


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage of a run.

    Attributes:
        stage: Which.
        what: What of it: a variant, a text.
        seconds: How long it took, now or when it was done.
        is_kept: Whether an earlier run had done it from the same inputs.
    """

    stage: str
    what: str
    seconds: float
    is_kept: bool


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """What is to be expected of a variant on a device.

    Attributes:
        device: Which.
        verdict: In one word.
        reason: In a sentence.
        evidence: What speaks for the speed.
        resident_bytes: What has to stay in memory for full speed.
        room_bytes: What it may take there.
        tg_per_s: Tokens a second: what is likely, and its interval of 80 %; `None` where unknown.
        passes: Whether it can be shipped there.
    """

    device: str
    verdict: str
    reason: str
    evidence: str
    resident_bytes: int
    room_bytes: int
    tg_per_s: tuple[float, float, float] | None
    passes: bool


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """A variant with all that was found of it.

    Attributes:
        variant: Its name.
        file: Its file's name.
        file_bytes: Its size.
        bits_per_weight: Over all tensors.
        sha256: Its hash.
        quality: Against the 16-bit model, by text.
        speed: On this machine; `None` where it was not measured.
        devices: On others.
        missed: Which gates it missed, each as a sentence; empty where none.
        is_registered: Whether it is in the store.
    """

    variant: str
    file: str
    file_bytes: int
    bits_per_weight: float
    sha256: str
    quality: tuple[Quality, ...] = ()
    speed: Speed | None = None
    devices: tuple[DeviceRecord, ...] = ()
    missed: tuple[str, ...] = ()
    is_registered: bool = False


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run.

    Attributes:
        recipe: The recipe's name.
        title: Its title.
        license: The model's licence.
        recipe_sha256: The hash of what the recipe says.
        repo: Where the checkpoint came from.
        commit: At which commit.
        served: The variant to serve.
        status: `passed`, `failed` where a gate was missed, `partial` where not all was to be done.
        gates: What was asked for, as sentences; empty where nothing is.
        variants: From the recipe's first to its last.
        stages: In the order in which they ran.
        machine: Where: the processor, the memory in bytes.
        tools: Versions.
        started: When it began, ISO 8601 in UTC.
        finished: When it ended.
        schema: Version of this structure.
    """

    recipe: str
    title: str
    license: str
    recipe_sha256: str
    repo: str
    commit: str
    served: str
    status: Status
    gates: tuple[str, ...]
    variants: tuple[VariantRecord, ...]
    stages: tuple[StageRecord, ...]
    machine: dict[str, str | int]
    tools: dict[str, str]
    started: str
    finished: str
    schema: str = SCHEMA


def runs_folder(settings: Settings, recipe: str) -> Path:
    """Return where a recipe's runs lie."""
    return settings.home / "runs" / recipe


def write_run(settings: Settings, record: RunRecord) -> Path:
    """Write a run's record; return its file.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    name = record.started.replace(":", "").replace("-", "")
    path = runs_folder(settings, record.recipe) / f"{name}.json"
    write_bytes(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return path


def find_run(settings: Settings, reference: str) -> Path:
    """Return a run's file: by its path, or the newest of a recipe.

    Raises:
        NotFoundError: There is none.
    """
    path = Path(reference)
    if reference.endswith(".json"):
        if not path.is_file():
            raise NotFoundError(f"{path} is not a file", "llmedge run RECIPE writes one")
        return path
    folder = settings.home / "runs"
    runs = sorted(folder.glob("*/*.json"))
    found = [run for run in runs if run.parent.name == reference]
    if not found:
        names = ", ".join(sorted({run.parent.name for run in runs}))
        hint = f"recipes that ran: {names}" if names else "llmedge run RECIPE"
        raise NotFoundError(f"no run of a recipe {reference[:80]!r}", hint)
    return found[-1]


def read_run(path: Path) -> RunRecord:
    """Read a run's record.

    Raises:
        NotFoundError: The file cannot be read.
        IntegrityError: It is no run's record, or damaged.
        UnsupportedError: It was written by a later llmedge.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise IntegrityError(f"{path} is too large for a run's record")
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from None
    try:
        schema = msgspec.json.decode(data, type=dict[str, object]).get("schema")
        if schema == SCHEMA:
            return msgspec.json.decode(data, type=RunRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path} is no run's record, or damaged: {error}") from None
    if isinstance(schema, str) and schema.startswith(_FAMILY):
        raise UnsupportedError(f"{path} has schema {schema}", "update llmedge")
    raise IntegrityError(f"{path} is no run's record", "llmedge run RECIPE writes one")
