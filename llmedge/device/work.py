"""What a model's header says of the work a token is: bytes to read, weights to multiply."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmedge.device.speed import Work
from llmedge.gguf.memory import KvCacheOptions, estimate_memory

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header, TensorInfo

_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
# One row of these is read for a token.
_LOOKED_UP = (_EMBEDDING, "per_layer_token_embd.weight", "position_embd.weight")
_EXPERTS = re.compile(r"_exps\.")
_RECURRENT = re.compile(r"blk\.(\d+)\.(?:ssm_|shortconv\.|time_mix_)")
_BLOCK = re.compile(r"blk\.(\d+)\.")


def work_of(header: Header, kv_cache: KvCacheOptions) -> Work:
    """Return what a token asks of a device after a context of `kv_cache.n_ctx` tokens.

    Raises:
        UnsupportedError: The architecture's kv cache is not modelled.
        IntegrityError: The header's hyperparameters contradict each other.
    """
    names = {tensor.name for tensor in header.tensors}
    active = _active_experts(header)
    streamed: dict[str, float] = {}
    prompt: dict[str, float] = {}
    for tensor in header.tensors:
        share = active if _EXPERTS.search(tensor.name) else 1.0
        is_head = tensor.name == (_OUTPUT if _OUTPUT in names else _EMBEDDING)
        if is_head or tensor.name not in _LOOKED_UP:
            _add(streamed, tensor, tensor.n_bytes * share)
        if _BLOCK.match(tensor.name) and len(tensor.shape) > 1:
            _add(prompt, tensor, tensor.n_weights * share)
    recurrent = {match[1] for name in names if (match := _RECURRENT.match(name))}
    layers = {match[1] for name in names if (match := _BLOCK.match(name))}
    kv_bytes = estimate_memory(header, kv_cache).kv_cache_bytes
    return Work(streamed, prompt, kv_bytes, len(layers), len(recurrent))


def _active_experts(header: Header) -> float:
    n_experts = header.hyperparameter("expert_count") or 1
    n_used = header.hyperparameter("expert_used_count") or n_experts
    return min(1.0, n_used / max(1, n_experts))


def _add(sums: dict[str, float], tensor: TensorInfo, amount: float) -> None:
    sums[tensor.quant_type.name] = sums.get(tensor.quant_type.name, 0.0) + amount
