"""What a tensor's name says of it: its role, its layer, what it is stored as, if it is quantized.

Source: src/llama-quant.cpp `tensor_get_category`, `tensor_allows_quantization`, src/llama-model-
loader.h `weight_name_comparer` and conversion/base.py `prepare_tensors` of llama.cpp.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmedge.gguf.quant_types import F32, QuantType

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header, TensorInfo

EMBEDDING, OUTPUT, OTHER = "embedding", "output", "other"
ATTN_Q, ATTN_K, ATTN_V, ATTN_OUTPUT = "attn_q", "attn_k", "attn_v", "attn_output"
FFN_DOWN, FFN_GATE, FFN_UP = "ffn_down", "ffn_gate", "ffn_up"
ROLES = (
    *(EMBEDDING, OUTPUT, ATTN_Q, ATTN_K, ATTN_V, ATTN_OUTPUT, FFN_DOWN, FFN_GATE, FFN_UP),
    OTHER,
)

_WHOLE_NAMES = {
    "output.weight": OUTPUT,
    "token_embd.weight": EMBEDDING,
    "per_layer_token_embd.weight": EMBEDDING,
}
# The first part that a name contains decides. A matrix that holds the values among others (fused
# with queries and keys, or compressed) counts as the values.
_NAME_PARTS = (
    ("attn_qkv.weight", ATTN_V),
    ("attn_kv_b.weight", ATTN_V),
    ("attn_v.weight", ATTN_V),
    ("attn_k.weight", ATTN_K),
    ("attn_q.weight", ATTN_Q),
    ("attn_output.weight", ATTN_OUTPUT),
    ("ffn_up", FFN_UP),
    ("ffn_gate", FFN_GATE),
    ("ffn_down", FFN_DOWN),
)
_LAYER = re.compile(r"blk\.(\d+)\.")

# Small matrices that kernels or the choice of experts want in full precision.
_STORED_AS_F32 = frozenset(
    f"{name}.weight"
    for name in (
        *("ffn_gate_inp", "ffn_gate_inp_shexp", "indexer.proj"),
        *("position_embd", "token_types", "v.position_embd", "a.position_embd"),
        *("ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v", "shortconv.conv"),
        *("altup_correct_coef", "altup_predict_coef"),
        *("time_mix_first", "time_mix_w1", "time_mix_w2", "time_mix_lerp_fused"),
        *("time_mix_decay_w1", "time_mix_decay_w2"),
    )
)
_NEVER_QUANTIZED = ("position_embd.weight", "token_types.weight")
_NEVER_QUANTIZED_PARTS = (
    *("_norm.weight", "attn_rel_b.weight"),
    *("ffn_gate_inp.weight", "ffn_gate_tid2eid.weight"),  # they choose the experts
    *("altup", "laurel", "per_layer_model_proj"),  # Gemma 3n and 4: small
    *("ssm_conv1d", "shortconv.conv.weight"),  # windows of a few positions
    *("indexer.k_proj.weight", "indexer.q_proj.weight"),
    *(f"time_mix_{name}.weight" for name in ("first", "decay_w1", "decay_w2", "lerp_fused")),
    *(f"time_mix_{name}.weight" for name in ("w0", "w1", "w2", "v0", "v1", "v2")),
    *(f"time_mix_{name}.weight" for name in ("a0", "a1", "a2", "g1", "g2")),
    *(".position_embd", ".rel_pos", ".patch_embd", ".patch_merger"),  # images
    *("sam.pos_embd", "sam.neck.", "sam.net_"),
    *("a.rvq.codebook", "mm.a.code_embd"),  # sound
)
_NEVER_QUANTIZED_PARTS_OF = {
    "glm5-next": (
        *("hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate"),
        *("indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight"),
        *("ssm_g_b.weight", "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight"),
        "attn_v_b.weight",
    )
}


def role_of(name: str) -> str:
    """Return a tensor's role: what the mixes tell apart."""
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    return next((role for part, role in _NAME_PARTS if part in name), OTHER)


def layer_of(name: str) -> int:
    """Return a tensor's layer, -1 for one outside the layers."""
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def is_quantizable(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Whether a mix may touch a tensor of this shape; all others stay as they are stored."""
    is_vector = all(size == 1 for size in shape[1:])
    if is_vector or not name.endswith("weight") or name in _NEVER_QUANTIZED:
        return False
    parts = _NEVER_QUANTIZED_PARTS + _NEVER_QUANTIZED_PARTS_OF.get(architecture, ())
    return not any(part in name for part in parts)


def quantizable_tensors(header: Header) -> tuple[TensorInfo, ...]:
    """Return the tensors of a file that a mix may touch, in the file's order."""
    return tuple(
        tensor
        for tensor in header.tensors
        if is_quantizable(tensor.name, tensor.shape, header.architecture)
    )


def storage_type(name: str, n_dims: int, ftype: QuantType) -> QuantType:
    """Return what a conversion to F32, F16 or BF16 stores for a tensor.

    Args:
        name: Its name in the file.
        n_dims: Its dimensions, those of size 1 included.
        ftype: The conversion's type.
    """
    is_matrix = n_dims > 1 and name.endswith(".weight") and not name.endswith("_norm.weight")
    return ftype if is_matrix and _LAYER.sub("", name) not in _STORED_AS_F32 else F32
