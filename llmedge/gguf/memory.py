"""How much memory a model needs, from its header alone; nothing is loaded.

Two parts are computed here: the weights as llama.cpp maps them, and the kv cache with recurrent
states (`cache_layers` knows which layer has which). What else a run takes is in `run_memory`.

Source: src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp and src/llama-memory-recurrent.cpp of
llama.cpp; held to its own buffer lines by tests/gguf/test_memory.py and test_cache_layers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.gguf.cache_layers import cache_layers, window
from llmedge.gguf.quant_types import BY_NAME, QuantType

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header

_CELL_PADDING = 256
# Types that llama.cpp accepts for the kv cache.
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


@dataclass(frozen=True, slots=True)
class KvCacheOptions:
    """What sets the size of a kv cache.

    Attributes:
        n_ctx: Tokens of context over all sequences.
        type_k: Type of the keys.
        type_v: Type of the values.
        n_ubatch: Tokens computed at once; a sliding window keeps that many more.
        n_seq_max: Sequences that share the cache.
    """

    n_ctx: int
    type_k: str = "f16"
    type_v: str = "f16"
    n_ubatch: int = 512
    n_seq_max: int = 1


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a model takes before it computes.

    Attributes:
        weights_bytes: The tensors as mapped from the file.
        kv_cache_bytes: Keys, values and recurrent states.
        n_ctx: The context that was asked for, padded as llama.cpp pads it.
    """

    weights_bytes: int
    kv_cache_bytes: int
    n_ctx: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.weights_bytes + self.kv_cache_bytes


def estimate_memory(header: Header, options: KvCacheOptions) -> ModelMemory:
    """Compute the weights and the kv cache.

    Raises:
        UnsupportedError: The architecture's cache is not modelled.
        UsageError: A kv type that llama.cpp does not have.
        IntegrityError: The header's hyperparameters contradict each other.
    """
    type_k, type_v = kv_type(options.type_k), kv_type(options.type_v)
    n_ctx = _pad(max(1, options.n_ctx))
    n_window = min(n_ctx, _pad(window(header) * options.n_seq_max + options.n_ubatch))
    total = 0
    for layer in cache_layers(header):
        cells = n_window if layer.is_sliding else n_ctx
        if layer.n_k % type_k.block_weights or layer.n_v % type_v.block_weights:
            raise UnsupportedError(
                f"{header.architecture} has {layer.n_k} key and {layer.n_v} value weights a token, "
                f"no multiple of {type_k.name}'s and {type_v.name}'s blocks",
                "use f16 for the kv cache",
            )
        total += cells * (type_k.row_bytes(layer.n_k) + type_v.row_bytes(layer.n_v))
        total += layer.state_bytes * max(1, options.n_seq_max)
    return ModelMemory(header.tensor_bytes, total, n_ctx)


def kv_type(name: str) -> QuantType:
    """Return a kv cache type by its name in llama.cpp's spelling.

    Raises:
        UsageError: llama.cpp has no such kv cache type.
    """
    if name not in KV_TYPES:
        raise UsageError(f"unknown kv cache type {name!r}", f"known: {', '.join(KV_TYPES)}")
    return BY_NAME[name.upper()]


def _pad(n_cells: int) -> int:
    return -(-n_cells // _CELL_PADDING) * _CELL_PADDING
