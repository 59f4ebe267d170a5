"""A checkpoint as a model of llama.cpp's: its architecture, tensors and hyperparameters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llmedge.convert.adapter import merge
from llmedge.convert.hyperparameters import common_metadata
from llmedge.convert.mapping import map_tensors
from llmedge.convert.packed import unpack
from llmedge.convert.registry import check_guards, find_architecture
from llmedge.gguf.mix_rules import ModelShape
from llmedge.gguf.quant_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.adapter import Adapter
    from llmedge.convert.architecture import Architecture
    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.quant_types import QuantType
    from llmedge.gguf.writer import Value
    from llmedge.store.checkpoint import CheckpointSource


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What a checkpoint becomes, whatever the types of its tensors will be.

    Attributes:
        architecture: Its own.
        config: Its configuration, the architecture's defaults included.
        rows: Its tensors by GGUF name.
        ignored: Tensors of the checkpoint that are left out knowingly.
        metadata: Hyperparameters, under full keys.
    """

    architecture: Architecture
    config: Config
    rows: Mapping[str, Rows]
    ignored: tuple[str, ...]
    metadata: Mapping[str, Value]

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
    if guarded:
        check_guards(architecture, config)
    quantization = config.get("quantization_config") or config.get("compression_config")
    is_packed = isinstance(quantization, dict)
    tensors = unpack(source, cast("dict[str, object]", quantization) if is_packed else None)
    if adapter is not None:
        tensors = merge(adapter, tensors, architecture)
    mapped = map_tensors(architecture, config, tensors)
    values = common_metadata(config) | dict(architecture.metadata(config))
    named = {
        key if key.startswith("tokenizer.") else f"{architecture.name}.{key}": value
        for key, value in values.items()
        if value is not None
    }
    metadata = {**named, **mapped.numbers}
    return ModelPlan(architecture, config, mapped.rows, mapped.ignored, metadata)


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
