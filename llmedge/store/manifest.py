"""The sidecar beside a variant: where it comes from and what was done to it.

Written before a new variant gets its name, and after one that takes another's place: a variant with
a sidecar is complete.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError, UsageError
from llmedge.core.units import format_mib
from llmedge.store.atomic import write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEMA = "llmedge.manifest/1"
# Room on the disk that a sidecar may take: one with thousands of tensors' types.
SIDECAR_BYTES = 256 << 10
_FAMILY = "llmedge.manifest/"
_READ_BYTES = 1 << 20
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """What a variant was made from.

    Attributes:
        file: Its file name, without the folder.
        sha256: Its hash.
        repo: The Hub repository it came from, when known.
        revision: The commit there, when known.
    """

    file: str
    sha256: str
    repo: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class RecipeMark:
    """The recipe that a variant was made by.

    Attributes:
        name: Its name.
        sha256: The hash of what it says.
    """

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Quality:
    """A variant against the 16-bit model on one text.

    Attributes:
        text: The text: a language's code, `code`, `maths`.
        mean_kld: Mean KL divergence in nats.
        mean_kld_error: Its standard error.
        top1_agreement: Share of positions where both find the same token most likely.
        perplexity: The variant's.
        perplexity_ratio: Over the 16-bit model's.
        n_tokens: Positions that were compared.
    """

    text: str
    mean_kld: float
    mean_kld_error: float
    top1_agreement: float
    perplexity: float
    perplexity_ratio: float
    n_tokens: int

    def __str__(self) -> str:
        return f"KLD {self.mean_kld:.4f} nats, top-1 {self.top1_agreement:.1%}"


@dataclass(frozen=True, slots=True)
class Speed:
    """A variant on the machine that it was made on.

    Attributes:
        tg_per_s: Tokens generated a second.
        tg_sd: Their standard deviation.
        pp_per_s: Tokens of a prompt a second.
        resident_bytes: The resident peak.
        words_per_s: Words a second by language.
        processor: Where.
        n_threads: With how many threads.
        flags: Why it may not be believed; empty for a good one.
        created: When, ISO 8601 in UTC.
    """

    tg_per_s: float
    tg_sd: float
    pp_per_s: float
    resident_bytes: int
    words_per_s: dict[str, float]
    processor: str
    n_threads: int
    flags: tuple[str, ...]
    created: str

    def __str__(self) -> str:
        doubt = f" ({', '.join(self.flags)})" if self.flags else ""
        return f"{self.tg_per_s:.1f} tokens/s, {format_mib(self.resident_bytes)}{doubt}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A variant's provenance.

    Attributes:
        name: The model's name.
        variant: The mix's name.
        file_bytes: The variant's size.
        sha256: The variant's hash.
        bits_per_weight: Over all tensors.
        n_fallbacks: Tensors that got another type than the mix wanted.
        architecture: llama.cpp's name for it.
        license: As the source says it, when it does.
        source: What it was made from.
        arguments: What the quantizer was told.
        tools: Versions: `llmedge`, `llama_cpp`.
        recipe: The recipe that it was made by, where there was one.
        quality: What quantizing cost, where a recipe measured it.
        speed: How fast it is, likewise.
        created: When, ISO 8601 in UTC.
        schema: Version of this structure.
    """

    name: str
    variant: str
    file_bytes: int
    sha256: str
    bits_per_weight: float
    n_fallbacks: int
    architecture: str
    license: str | None
    source: Source
    arguments: dict[str, str | int | float | bool]
    tools: dict[str, str]
    recipe: RecipeMark | None = None
    quality: tuple[Quality, ...] = ()
    speed: Speed | None = None
    created: str = field(default_factory=lambda: utc_now())
    schema: str = SCHEMA


def sidecar_path(variant: Path) -> Path:
    """Return the sidecar's place for a variant's file."""
    return variant.with_suffix(".json")


def require_own_sidecar(variant: Path) -> None:
    """Make sure that a variant's sidecar would not replace a file of the user's.

    Raises:
        UsageError: Another program's JSON lies at its place.
    """
    path = sidecar_path(variant)
    try:
        is_ours = not path.exists() or read_manifest(variant) is not None
    except (IntegrityError, UnsupportedError):
        is_ours = _FAMILY.encode() in path.read_bytes()[:_MAX_BYTES]
    if not is_ours:
        raise UsageError(
            f"{path} is in the way: the sidecar of {variant.name} would replace it",
            "choose another file name or folder with -o",
        )


def write_manifest(variant: Path, manifest: Manifest) -> None:
    """Write the sidecar of a variant.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_bytes(sidecar_path(variant), data + b"\n")


def read_manifest(variant: Path) -> Manifest | None:
    """Read a variant's sidecar, or `None` where there is none.

    Raises:
        IntegrityError: There is one, but it is damaged.
        UnsupportedError: It was written by a later llmedge.
    """
    path = sidecar_path(variant)
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise IntegrityError(f"the sidecar {path} is damaged: it is too large", f"remove {path}")
    data = path.read_bytes()
    try:
        schema = msgspec.json.decode(data, type=dict[str, object]).get("schema")
        if schema == SCHEMA:
            return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"the sidecar {path} is damaged: {error}", f"remove {path}") from None
    if isinstance(schema, str) and schema.startswith(_FAMILY):
        raise UnsupportedError(f"{path} has schema {schema}", "update llmedge")
    return None  # some other program's JSON beside a GGUF file


def file_sha256(variant: Path) -> str:
    """Return a variant's SHA-256: its sidecar's where the two belong together, else computed."""
    try:
        manifest = read_manifest(variant)
    except LlmedgeError:
        manifest = None
    status, sidecar = variant.stat(), sidecar_path(variant)
    if (
        manifest is not None
        and manifest.file_bytes == status.st_size
        # A sidecar is written after its variant: a variant that is newer was replaced.
        and status.st_mtime_ns <= sidecar.stat().st_mtime_ns
    ):
        return manifest.sha256
    return _hash_once(variant, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash_once(path: Path, size_bytes: int, mtime_ns: int) -> str:
    """Hash a file of gigabytes once a process, as long as it stays the same."""
    del size_bytes, mtime_ns
    return hash_file(path)


def hash_file(path: Path, on_read: Callable[[int], None] | None = None) -> str:
    """Return a file's SHA-256 in hex.

    Args:
        path: The file.
        on_read: Takes how many bytes were read so far.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            if on_read is not None:
                on_read(file.tell())
    return digest.hexdigest()


def utc_now() -> str:
    """Return the time as records carry it: ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
