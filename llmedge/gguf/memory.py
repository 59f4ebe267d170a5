"""How much memory a model needs, from its header alone; nothing is loaded.

Two parts are computed here: the weights as llama.cpp maps them, and the kv cache. The compute
buffer depends on the library and is not part of the header's story.

Source: src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp and src/llama-hparams.cpp of llama.cpp;
held to its own buffer lines by tests/gguf/test_memory.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.gguf.quant_types import BY_NAME, QuantType
from llmedge.gguf.reader import Array, Header

_CELL_PADDING = 256
_MAX_LAYERS = 4096

# Architectures whose every layer keeps keys and values for the whole context.
_FULL_ATTENTION = frozenset(
    [
        "bloom",
        "command-r",
        "ernie4_5",
        "falcon",
        "gemma",
        "gpt2",
        "gptneox",
        "granite",
        "granitemoe",
        "hunyuan-dense",
        "internlm2",
        "llama",
        "minicpm",
        "mistral3",
        "mpt",
        "olmo",
        "olmoe",
        "phi2",
        "qwen2",
        "qwen2moe",
        "qwen3",
        "qwen3moe",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
    ]
)
# Architectures where all but every n-th layer see only a sliding window; the file may override n.
_SLIDING_PERIOD = {"gemma2": 2, "gemma3": 6}
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
        kv_cache_bytes: Keys and values for the context.
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
    window = header.hyperparameter("attention.sliding_window") or 0
    n_window = min(n_ctx, _pad(window * options.n_seq_max + options.n_ubatch))
    total = 0
    # An unknown architecture is met first: its other keys may be missing for good reasons.
    sliding = _sliding_layers(header)
    for heads, is_sliding in zip(_kv_heads(header), sliding, strict=True):
        cells = n_window if is_sliding else n_ctx
        n_k, n_v = heads * _head_size(header, "key"), heads * _head_size(header, "value")
        if n_k % type_k.block_weights or n_v % type_v.block_weights:
            raise UnsupportedError(
                f"{header.architecture} has {n_k} key and {n_v} value weights a token, no multiple "
                f"of {type_k.name}'s and {type_v.name}'s blocks",
                "use f16 for the kv cache",
            )
        total += cells * (type_k.row_bytes(n_k) + type_v.row_bytes(n_v))
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


def _require(header: Header, key: str) -> int:
    value = header.hyperparameter(key)
    if value is None or value < 1:
        raise IntegrityError(
            f"{header.path} has no usable {header.architecture}.{key} ({value})",
            "convert the model again",
        )
    return value


def _n_layers(header: Header) -> int:
    n_layers = _require(header, "block_count")
    if n_layers > _MAX_LAYERS:
        raise IntegrityError(
            f"{header.path} claims {n_layers} layers", "download or convert the model again"
        )
    return n_layers


def _kv_heads(header: Header) -> list[int]:
    """Return the number of key-value heads of each layer."""
    n_layers = _n_layers(header)
    key = f"{header.architecture}.attention.head_count_kv"
    value = header.metadata.get(key)
    if isinstance(value, Array):
        heads = [item for item in value.items if isinstance(item, int) and item >= 0]
        if len(heads) != n_layers:
            raise IntegrityError(f"{header.path}: {key} has {value.length} of {n_layers} layers")
        return heads
    if value is None:
        return [_require(header, "attention.head_count")] * n_layers
    return [_require(header, "attention.head_count_kv")] * n_layers


def _head_size(header: Header, which: str) -> int:
    explicit = header.hyperparameter(f"attention.{which}_length")
    if explicit is not None:
        return _require(header, f"attention.{which}_length")
    return _require(header, "embedding_length") // _require(header, "attention.head_count")


def _sliding_layers(header: Header) -> list[bool]:
    """Return for each layer whether it sees only a sliding window."""
    period = _SLIDING_PERIOD.get(header.architecture)
    if period is None and header.architecture not in _FULL_ATTENTION:
        raise UnsupportedError(
            f"the kv cache of architecture {header.architecture!r} is not modelled",
            "load it once: llama.cpp logs its buffers with LLMEDGE_LOG=debug",
        )
    n_layers = _n_layers(header)
    if period is None or not header.hyperparameter("attention.sliding_window"):
        return [False] * n_layers
    key = f"{header.architecture}.attention.sliding_window_pattern"
    value = header.metadata.get(key, period)
    if isinstance(value, Array):
        if len(value.items) != n_layers:
            raise IntegrityError(f"{header.path}: {key} has {value.length} of {n_layers} layers")
        return [bool(item) for item in value.items]
    if not isinstance(value, int):
        raise IntegrityError(f"{header.path}: {key} is {value!r}")
    return [value == 0 or layer % value < value - 1 for layer in range(n_layers)]
