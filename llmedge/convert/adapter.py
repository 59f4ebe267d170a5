"""PEFT's LoRA adapters: merged into the rows as they stream by, or written as llama.cpp's own.

Source: peft `LoraConfig` and `tuners/lora/layer.py`; llama.cpp `src/llama-adapter.cpp`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from llmedge.convert.config import Config, read_json
from llmedge.convert.rows import Rows, apply, reshape, source_rows, transpose
from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError
from llmedge.store.checkpoint import FolderCheckpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmedge.convert.architecture import Architecture, Place
    from llmedge.convert.rows import Floats

_PREFIX = "base_model.model."
_PLAIN_NAME = re.compile(r"\w+(\.\w+)*")
_PARTS = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector)(\.default)?(\.weight)?"
)
# Settings that change what an adapter computes in ways that are not known here.
_REFUSED = ("use_qalora", "alora_invocation_tokens", "trainable_token_indices", "target_parameters")


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one matrix: `scale × B A`.

    Attributes:
        module: The matrix's name in the checkpoint, without `.weight`.
        a: `(rank, n_in)`, read when it is needed.
        b: `(n_out, rank)`, likewise.
        scale: Factor.
        magnitude: DoRA's length of each row, `(n_out,)`.
    """

    module: str
    a: Rows
    b: Rows
    scale: float
    magnitude: Rows | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        low_ranks: What it adds.
        replaced: Tensors that it brings whole, by their names in the checkpoint.
        identity: Changes with its contents.
    """

    low_ranks: tuple[LowRank, ...]
    replaced: Mapping[str, Rows]
    identity: str


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's settings and shapes; its weights are read when they are needed.

    Raises:
        NotFoundError: The folder holds none.
        UnsupportedError: It is no LoRA adapter, or of a kind that is not known here.
        IntegrityError: It is damaged.
    """
    raw = read_json(folder / "adapter_config.json")
    if raw is None:
        raise NotFoundError(f"{folder} has no adapter_config.json", "give a PEFT adapter's folder")
    config = Config(raw)
    if config.text("peft_type", "LORA").upper() != "LORA":
        raise UnsupportedError(f"{folder} is a {config.text('peft_type')} adapter, not LoRA")
    for name in _REFUSED:
        if config.get(name):
            raise UnsupportedError(f"{folder} has {name}, which is not supported")
    source = FolderCheckpoint(folder)  # closes with the last of the rows that are read from it
    parts: dict[str, dict[str, Rows]] = {}
    replaced: dict[str, Rows] = {}
    for name in source.tensors:
        rows = source_rows(source, name)
        stem = name.removeprefix(_PREFIX)
        if match := _PARTS.fullmatch(stem):
            parts.setdefault(match["module"], {})[match["part"]] = rows
        else:
            replaced[stem.replace(".modules_to_save.default", "")] = rows
    low_ranks = tuple(_low_rank(module, found, config) for module, found in parts.items())
    return Adapter(low_ranks, replaced, source.identity + repr(sorted(raw.items())))


def merge(
    adapter: Adapter, tensors: Mapping[str, Rows], architecture: Architecture
) -> dict[str, Rows]:
    """Return a checkpoint's tensors with an adapter added, row by row, when they are read.

    Raises:
        IntegrityError: The adapter is of another model.
    """
    by_place = {architecture.place(name): name for name in tensors}
    merged = dict(tensors)
    for low_rank in adapter.low_ranks:
        name = _find(f"{low_rank.module}.weight", merged, by_place, architecture)
        merged[name] = _add(merged[name], low_rank)
    for wanted, rows in adapter.replaced.items():
        name = wanted if wanted in merged else by_place.get(architecture.place(wanted), wanted)
        if name in merged and merged[name].shape != rows.shape:
            raise _foreign(name, merged[name].shape, rows.shape)
        merged[name] = rows
    return merged


def _find(
    wanted: str,
    tensors: Mapping[str, Rows],
    by_place: Mapping[Place | None, str],
    architecture: Architecture,
) -> str:
    if wanted in tensors:
        return wanted
    place = architecture.place(wanted)
    if place is None or place not in by_place:
        raise IntegrityError(
            f"the adapter changes {wanted}, which the checkpoint does not have",
            "it was trained on another model",
        )
    return by_place[place]


def _add(rows: Rows, low_rank: LowRank) -> Rows:
    a, b = low_rank.a, _scaled(low_rank)
    if rows.shape != (b.n_rows, a.n_columns):
        raise _foreign(low_rank.module, rows.shape, (b.n_rows, a.n_columns))
    magnitude = None if low_rank.magnitude is None else low_rank.magnitude.read(0, 1)[0]

    def read(start: int, stop: int) -> Floats:
        product = np.matmul(b.read(start, stop), a.read(0, a.n_rows), dtype=np.float32)
        summed = rows.read(start, stop) + product
        if magnitude is None:
            return summed
        lengths = np.sqrt(np.sum(summed * summed, axis=1, keepdims=True))
        factors = magnitude[start:stop, None] / lengths
        return (summed * factors).astype(np.float32, copy=False)

    whole_bytes = max(rows.whole_bytes, 4 * a.n_rows * a.n_columns)
    return replace(rows, read=read, whole_bytes=whole_bytes, packed=None)


def _scaled(low_rank: LowRank) -> Rows:
    scale = np.float32(low_rank.scale)
    return apply(low_rank.b, lambda floats: floats * scale)


def _low_rank(module: str, parts: Mapping[str, Rows], config: Config) -> LowRank:
    is_embedding = "lora_embedding_A" in parts
    infix = "embedding_" if is_embedding else ""
    a, b = parts.get(f"lora_{infix}A"), parts.get(f"lora_{infix}B")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
        raise IntegrityError(f"the adapter's matrices for {module} do not fit each other")
    rank = a.n_rows
    if rank < 1 or rank != b.n_columns:
        raise IntegrityError(f"the adapter's matrices for {module} do not fit each other")
    scale = _alpha(module, config) / (
        math.sqrt(rank) if config.flag("use_rslora", default=False) else rank
    )
    if is_embedding or config.flag("fan_in_fan_out", default=False):
        a, b = transpose(b), transpose(a)
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is not None:
        magnitude = reshape(magnitude, (magnitude.n_rows * magnitude.n_columns,))
        if is_embedding or magnitude.n_columns != b.n_rows:
            raise UnsupportedError(f"the adapter has DoRA on {module}, which is not supported")
    return LowRank(module, a, b, scale, magnitude)


def _alpha(module: str, config: Config) -> float:
    patterns = config.get("alpha_pattern")
    if isinstance(patterns, dict):
        named = Config(cast("dict[str, object]", patterns))
        for name in named.raw:
            # PEFT takes regular expressions; one from elsewhere could run for ever.
            if not _PLAIN_NAME.fullmatch(name):
                raise UnsupportedError(f"the adapter's alpha_pattern {name!r} is no module's name")
            if module == name or module.endswith(f".{name}"):
                return named.number(name)
    return config.number("lora_alpha")


def _foreign(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> IntegrityError:
    return IntegrityError(
        f"the adapter's {name} has shape {list(ours)}, the checkpoint's {list(theirs)}",
        "it was trained on another model",
    )


def adapter_tensors(
    adapter: Adapter, architecture: Architecture, config: Config
) -> dict[str, Rows]:
    """Return an adapter as the tensors that llama.cpp adds while it runs.

    What an edit does to a matrix's rows it does to those of B; A stays.

    Raises:
        UnsupportedError: It changes what llama.cpp cannot add to.
    """
    if adapter.replaced:
        raise UnsupportedError(
            f"the adapter brings {next(iter(adapter.replaced))} whole; llama.cpp only adds",
            "merge it: --adapter without --adapter-only",
        )
    result: dict[str, Rows] = {}
    for low_rank in adapter.low_ranks:
        place = architecture.place(f"{low_rank.module}.weight")
        if place is None or not _is_addable(place, low_rank):
            raise _unaddable(low_rank.module)
        edit = architecture.edit(place)
        # Without adapter.lora.alpha llmedge's scale is the only one: it lies in B.
        b = _scaled(low_rank)
        edited = b if edit is None else edit(b, config)
        named = {place.name: edited} if isinstance(edited, Rows) else edited
        for name, part in named.items():
            if part.n_columns != low_rank.a.n_rows:
                raise _unaddable(low_rank.module)
            full = name if isinstance(edited, Rows) else place.named(name)
            result[f"{full}.lora_a"] = low_rank.a
            result[f"{full}.lora_b"] = part
    return result


def _is_addable(place: Place, low_rank: LowRank) -> bool:
    is_matrix = place.layer is not None or place.target == "output"
    return is_matrix and place.expert is None and low_rank.magnitude is None


def _unaddable(module: str) -> UnsupportedError:
    return UnsupportedError(
        f"llama.cpp cannot add an adapter to {module}",
        "merge it: --adapter without --adapter-only",
    )
