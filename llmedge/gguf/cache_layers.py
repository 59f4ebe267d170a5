"""What each layer of an architecture remembers: keys and values, a window of them, or a state.

Source: src/llama-hparams.cpp, src/llama-model.cpp `create_memory` and src/models/*.cpp of
llama.cpp; held to its own buffer lines by tests/gguf/test_cache_layers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.gguf.reader import Array

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header

_MAX_LAYERS = 4096
_F32_BYTES = 4

# Architectures whose every layer keeps keys and values for the whole context.
_FULL_ATTENTION = frozenset(
    (
        *("apertus", "arcee", "bitnet", "bloom", "chatglm", "command-r", "deepseek", "deepseek2"),
        *("ernie4_5", "ernie4_5-moe", "exaone", "falcon", "gemma", "glm4", "gpt2", "gptneox"),
        *(
            "glm4moe",
            "granite",
            "granitemoe",
            "hunyuan-dense",
            "hunyuan-moe",
            "internlm2",
            "jais",
            "jais2",
            "llama",
        ),
        *("minicpm", "minicpm3", "mistral3", "mpt", "nemotron", "olmo", "olmoe", "phi2", "phi3"),
        *("plm", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "seed_oss"),
        *("smollm3", "stablelm", "starcoder", "starcoder2", "xverse"),
    )
)
# Architectures where all but every n-th layer see only a sliding window; the file may override n.
_SLIDING_PERIOD = {
    "gemma2": 2,
    "gpt-oss": 2,
    "cohere2": 4,
    "olmo2": 4,
    "exaone4": 4,
    "gemma3n": 5,
    "gemma3": 6,
    "gemma4": 0,
}
_DEFAULT_WINDOW = {"gemma2": 4096}
# Encoders see the whole text at once and remember nothing.
_NO_CACHE = frozenset(
    (
        *("bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert"),
        *("eurobert", "modern-bert", "gemma-embedding", "dream", "llada", "llada-moe", "rnd1"),
    )
)
_RECURRENT = frozenset(("mamba", "mamba2"))
# A layer without heads of keys and values carries a state instead.
_HEADLESS_IS_RECURRENT = frozenset(("lfm2", "lfm2moe", "jamba", "granitehybrid", "plamo2"))
_BY_INTERVAL = frozenset(("qwen3next", "qwen35", "qwen35moe"))
_BOTH = frozenset(("falcon-h1",))
_GEMMA3N_LAYERS_WITH_CACHE = 20


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """What one layer remembers.

    Attributes:
        n_k: Weights of keys for each token; 0 without attention.
        n_v: Weights of values for each token; 0 where they are made of the keys.
        is_sliding: Whether only a window is kept.
        state_bytes: Of the recurrent state of one sequence.
    """

    n_k: int
    n_v: int
    is_sliding: bool = False
    state_bytes: int = 0


def cache_layers(header: Header) -> list[CacheLayer]:
    """Return what each layer remembers.

    Raises:
        UnsupportedError: The architecture is not modelled.
        IntegrityError: The header's hyperparameters contradict each other.
    """
    kind = header.architecture
    if kind in _NO_CACHE:
        return []
    if kind in _RECURRENT:
        return [CacheLayer(0, 0, state_bytes=_state_bytes(header))] * _n_layers(header)
    known = _FULL_ATTENTION | _SLIDING_PERIOD.keys() | _HEADLESS_IS_RECURRENT
    if kind not in known | _BY_INTERVAL | _BOTH:
        raise UnsupportedError(
            f"the kv cache of architecture {kind!r} is not modelled",
            "load it once: llama.cpp logs its buffers with LLMEDGE_LOG=debug",
        )
    heads, sliding = _kv_heads(header), _sliding_layers(header)
    recurrent = _recurrent_layers(header, heads)
    layers: list[CacheLayer] = []
    for layer in range(_n_cached(header, len(heads))):
        state = _state_bytes(header) if recurrent[layer] else 0
        if recurrent[layer] and kind not in _BOTH:
            layers.append(CacheLayer(0, 0, state_bytes=state))
            continue
        n_k = heads[layer] * _head_size(header, "key", is_sliding=sliding[layer])
        n_v = heads[layer] * _head_size(header, "value", is_sliding=sliding[layer])
        is_mla = header.hyperparameter("attention.key_length_mla")
        layers.append(CacheLayer(n_k, 0 if is_mla else n_v, sliding[layer], state))
    return layers


def window(header: Header) -> int:
    """Return how many tokens a sliding window holds; 0 without one."""
    stated = header.hyperparameter("attention.sliding_window")
    return _DEFAULT_WINDOW.get(header.architecture, 0) if stated is None else stated


def _n_cached(header: Header, n_layers: int) -> int:
    """Return how many layers have a cache of their own; those after them share one."""
    if header.architecture == "gemma3n":
        return min(n_layers, _GEMMA3N_LAYERS_WITH_CACHE)
    if header.architecture == "gemma4":
        return n_layers - (header.hyperparameter("attention.shared_kv_layers") or 0)
    if header.architecture in _BY_INTERVAL or header.architecture == "glm4moe":
        return n_layers - (header.hyperparameter("nextn_predict_layers") or 0)
    return n_layers


def _recurrent_layers(header: Header, heads: list[int]) -> list[bool]:
    kind = header.architecture
    if kind in _BOTH:
        return [True] * len(heads)
    if kind in _HEADLESS_IS_RECURRENT:
        return [n_heads == 0 for n_heads in heads]
    if kind not in _BY_INTERVAL:
        return [False] * len(heads)
    stated = header.metadata.get(f"{kind}.attention.recurrent_layers")
    if isinstance(stated, Array) and len(stated.items) == len(heads):
        return [bool(item) for item in stated.items]
    interval = header.hyperparameter("full_attention_interval") or 4
    return [(layer + 1) % interval != 0 for layer in range(len(heads))]


def _state_bytes(header: Header) -> int:
    """Return the bytes of one sequence's convolution and state in a layer."""
    l_cache = header.hyperparameter("shortconv.l_cache")
    if l_cache:
        return _F32_BYTES * _require(header, "embedding_length") * (l_cache - 1)
    inner = _require(header, "ssm.inner_size")
    state = _require(header, "ssm.state_size")
    groups = header.hyperparameter("ssm.group_count") or 0
    kernel = header.hyperparameter("ssm.conv_kernel") or 0
    convolution = max(0, kernel - 1) * (inner + 2 * groups * state)
    return _F32_BYTES * (convolution + state * inner)


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


def _head_size(header: Header, which: str, *, is_sliding: bool) -> int:
    keys = [f"attention.{which}_length"]
    if is_sliding:
        keys.insert(0, f"attention.{which}_length_swa")
    for key in keys:
        if header.hyperparameter(key) is not None:
            return _require(header, key)
    heads = header.metadata.get(f"{header.architecture}.attention.head_count")
    if isinstance(heads, Array):
        counts = [item for item in heads.items if isinstance(item, int) and item > 0]
        n_heads = counts[0] if counts else 1
    else:
        n_heads = _require(header, "attention.head_count")
    return _require(header, "embedding_length") // n_heads


def _sliding_layers(header: Header) -> list[bool]:
    """Return for each layer whether it sees only a sliding window."""
    n_layers, period = _n_layers(header), _SLIDING_PERIOD.get(header.architecture)
    if period is None or not window(header):
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
