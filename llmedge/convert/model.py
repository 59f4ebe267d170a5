"""A checkpoint as a model of llama.cpp's: its architecture, tensors and hyperparameters."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llmedge.convert.adapter import merge
from llmedge.convert.hyperparameters import common_metadata
from llmedge.convert.mapping import map_tensors
from llmedge.convert.packed import unpack
from llmedge.convert.registry import check_guards, find_architecture
from llmedge.core.errors import IntegrityError
from llmedge.gguf.mix_rules import ModelShape
from llmedge.gguf.quant_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from llmedge.convert.adapter import Adapter
    from llmedge.convert.architecture import Architecture
    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.quant_types import QuantType
    from llmedge.gguf.writer import Value
    from llmedge.store.checkpoint import CheckpointSource


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What a checkpoint becomes, whatever the types of its tensors will be.

    Attributes:
        architecture: Its own.
        config: Its configuration, the architecture's defaults included.
        rows: Its tensors by GGUF name.
        ignored: Tensors of the checkpoint that are left out knowingly.
        metadata: Hyperparameters, under full keys.
        identity: Of what lies beside the checkpoint's own weights.
    """

    architecture: Architecture
    config: Config
    rows: Mapping[str, Rows]
    ignored: tuple[str, ...]
    metadata: Mapping[str, Value]
    identity: str = ""

    @property
    def shape(self) -> ModelShape:
        """What a mix's rules look at."""
        return ModelShape(
            architecture=self.architecture.name,
            n_layers=self._first("block_count"),
            n_heads=self._first("attention.head_count"),
            n_kv_heads=self._first("attention.head_count_kv"),
            n_experts=self._first("expert_count"),
        )

    @property
    def n_vocab(self) -> int:
        """Rows of the embedding."""
        return self.rows["token_embd.weight"].n_rows

    def _first(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture.name}.{key}", 0)
        if isinstance(value, (list, tuple)):
            value = value[0]
        return value if isinstance(value, int) else 0


def plan_model(
    source: CheckpointSource,
    config: Config,
    adapter: Adapter | None = None,
    *,
    guarded: bool = True,
) -> ModelPlan:
    """Find out what a checkpoint becomes; no weight is read.

    Args:
        source: The checkpoint.
        config: Its configuration.
        adapter: What is merged into it.
        guarded: Whether settings that llama.cpp would run otherwise are refused; only tests, which
            show what the guards prevent, go without.

    Raises:
        UnsupportedError: The class, a setting or a tensor is not shown to convert rightly.
        IntegrityError: The configuration or a tensor contradicts itself.
    """
    architecture = find_architecture(config)
    config = config.with_defaults(architecture.defaults)
    with _contradictions():
        return _plan(source, architecture, config, adapter, guarded=guarded)


@contextlib.contextmanager
def _contradictions() -> Generator[None]:
    """Translate what arithmetic on settings that cannot be meant ends in.

    The table of architectures is many small formulas over a document from elsewhere: heads that do
    not divide a width, a factor of zero, a list that is too short.
    """
    try:
        yield
    except (ArithmeticError, ValueError, LookupError, TypeError, MemoryError) as error:
        _log.debug("a contradiction", exc_info=True)
        raise IntegrityError(
            f"config.json contradicts itself or the tensors: {type(error).__name__}: {error}",
            "get the checkpoint again; LLMEDGE_LOG=debug shows where",
        ) from error


def _plan(
    source: CheckpointSource,
    architecture: Architecture,
    config: Config,
    adapter: Adapter | None,
    *,
    guarded: bool,
) -> ModelPlan:
    if guarded:
        check_guards(architecture, config)
    quantization = config.get("quantization_config") or config.get("compression_config")
    is_packed = isinstance(quantization, dict)
    tensors = unpack(source, cast("dict[str, object]", quantization) if is_packed else None)
    if adapter is not None:
        tensors = merge(adapter, tensors, architecture)
    mapped = map_tensors(architecture, config, tensors)
    _check_complete(architecture, config, mapped.rows)
    values = common_metadata(config) | dict(architecture.metadata(config))
    named = {
        key if key.startswith("tokenizer.") else f"{architecture.name}.{key}": value
        for key, value in values.items()
        if value is not None
    }
    metadata = {**named, **mapped.numbers}
    return ModelPlan(architecture, config, mapped.rows, mapped.ignored, metadata)


def _check_complete(architecture: Architecture, config: Config, rows: Mapping[str, Rows]) -> None:
    """Refuse a checkpoint that lacks what llama.cpp would silently do without.

    What it would miss it says itself: `runtime.dry_run.check_header` asks it.
    """
    has_output = "output.weight" in rows or architecture.is_encoder
    if "token_embd.weight" not in rows:
        raise IntegrityError("the checkpoint lacks the matrix of token embeddings", "get it again")
    if config.is_tied is False and not has_output:
        raise IntegrityError(
            "the checkpoint lacks lm_head.weight, and its embeddings are not tied", "get it again"
        )
    blocks: dict[str, set[str]] = defaultdict(set)
    for name in rows:
        if match := re.fullmatch(r"blk\.(\d+)\.(.+)", name):
            blocks[match[2]].add(match[1])
    for name, present in blocks.items():
        weight = f"{name.removesuffix('.bias')}.weight"
        missing = blocks.get(weight, set[str]()) - present
        if missing and name.endswith(".bias"):
            raise IntegrityError(
                f"the checkpoint lacks the tensor that becomes blk.{min(missing, key=int)}.{name}; "
                "other blocks have it",
                "get it again",
            )


def dominant_type(source: CheckpointSource) -> QuantType:
    """Return what most of a checkpoint's plain weights are: F32, F16 or BF16.

    What cannot be quantized keeps this type, as it would on the way over a 16-bit file.
    """
    sizes = Counter[str]()
    for entry in source.tensors.values():
        if len(entry.shape) > 1:
            sizes[entry.dtype] += entry.n_rows * entry.row_bytes
    plain = [name for name, _ in sizes.most_common() if name in ("F32", "F16", "BF16")]
    return BY_NAME[plain[0] if plain else "BF16"]
