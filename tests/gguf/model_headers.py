"""GGUF files of many architectures without weights: real headers, small sizes, holes for data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gguf

from llmedge.gguf.mix_rules import ModelShape, TensorShape
from llmedge.gguf.quant_types import F16
from llmedge.gguf.tensor_roles import storage_type

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmedge.gguf.quant_types import QuantType

E, F, VOCAB = 256, 512, 320
Shape = tuple[int, ...]
Key = int | float | bool | list[int] | list[bool]


@dataclass(frozen=True)
class ModelHeader:
    """A model of which only the header matters.

    Attributes:
        architecture: llama.cpp's name for it.
        n_layers: Its layers.
        layer: The tensors of every layer, without `blk.N.`; a name may say `LAYER: name`.
        outside: The tensors outside the layers.
        heads: Attention heads and key-value heads; the latter by layer in a hybrid.
        n_experts: Experts of a layer.
        n_embd: Width.
        keys: More of the architecture's metadata.
    """

    architecture: str
    n_layers: int
    layer: Mapping[str, Shape]
    outside: Mapping[str, Shape]
    heads: tuple[int, int | list[int]] = (8, 2)
    n_experts: int = 0
    n_embd: int = E
    keys: Mapping[str, Key] = field(default_factory=dict)

    @property
    def shape(self) -> ModelShape:
        n_heads, kv = self.heads
        n_kv = kv[0] if isinstance(kv, list) else kv
        return ModelShape(self.architecture, self.n_layers, n_heads, n_kv, self.n_experts)

    def tensors(self, ftype: QuantType = F16) -> list[TensorShape]:
        """Return all tensors in the order of a conversion: not the quantizer's."""
        shapes = dict(self.outside)
        for layer in range(self.n_layers):
            for name, shape in self.layer.items():
                only, _, rest = name.rpartition(": ")
                if not only or int(only) == layer:
                    shapes[f"blk.{layer}.{rest}"] = shape
        return [
            TensorShape(name, shape, storage_type(name, len(shape), ftype))
            for name, shape in shapes.items()
        ]

    def write(self, path: Path, ftype: QuantType = F16) -> Path:
        """Write the header; the weights are a hole in the file."""
        writer = gguf.GGUFWriter(path, self.architecture)
        n_heads, n_kv = self.heads
        head: dict[str, Key] = {
            "attention.head_count": n_heads,
            "attention.head_count_kv": n_kv,
            "rope.dimension_count": self.n_embd // n_heads if n_heads else 0,
        }
        keys: dict[str, Key] = {
            "context_length": 512,
            "embedding_length": self.n_embd,
            "block_count": self.n_layers,
            "feed_forward_length": F,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.layer_norm_epsilon": 1e-5,
            **(head if n_heads else {}),
            **({"expert_count": self.n_experts, "expert_used_count": 2} if self.n_experts else {}),
            **self.keys,
        }
        for key, value in keys.items():
            _add(writer, f"{self.architecture}.{key}", value)
        n_bytes = 0
        for tensor in self.tensors(ftype):
            kind = gguf.GGMLQuantizationType(tensor.stored.id)
            size = tensor.stored.block_bytes
            for n in tensor.shape:
                size *= n
            writer.add_tensor_info(tensor.name, tensor.shape[::-1], None, size, raw_dtype=kind)
            n_bytes += size + 64
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("rb+") as file:
            file.truncate(path.stat().st_size + n_bytes)
        return path


def _add(writer: gguf.GGUFWriter, key: str, value: Key) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def attention(n_heads: int, n_kv: int, n_embd: int = E) -> dict[str, Shape]:
    """Return queries, keys, values and the output as matrices of their own."""
    n_values = n_embd // n_heads * n_kv
    return {
        "attn_norm.weight": (n_embd,),
        "attn_q.weight": (n_embd, n_embd),
        "attn_k.weight": (n_embd, n_values),
        "attn_v.weight": (n_embd, n_values),
        "attn_v.bias": (n_values,),
        "attn_output.weight": (n_embd, n_embd),
        "ffn_norm.weight": (n_embd,),
    }


def feed_forward(n_embd: int = E, n_ff: int = F) -> dict[str, Shape]:
    """Return a dense feed-forward network."""
    return {
        "ffn_gate.weight": (n_embd, n_ff),
        "ffn_up.weight": (n_embd, n_ff),
        "ffn_down.weight": (n_ff, n_embd),
    }


def experts(n: int) -> dict[str, Shape]:
    """Return a mixture of experts."""
    return {
        "ffn_gate_inp.weight": (E, n),
        "ffn_gate_exps.weight": (E, F, n),
        "ffn_up_exps.weight": (E, F, n),
        "ffn_down_exps.weight": (F, E, n),
    }


FUSED = {
    "attn_norm.weight": (E,),
    "attn_qkv.weight": (E, 2 * E),
    "attn_output.weight": (E, E),
    "ffn_up.weight": (E, 2 * F),
    "ffn_down.weight": (F, E),
}
COMPRESSED = {  # as DeepSeek does it; both the old and the new way to store it
    "attn_q_a.weight": (E, 128),
    "attn_q_b.weight": (128, 2 * E),
    "attn_kv_a_mqa.weight": (E, 160),
    "attn_kv_b.weight": (128, 2 * E),
    "attn_k_b.weight": (64, 128, 8),
    "attn_v_b.weight": (128, 64, 8),
    "attn_output.weight": (E, E),
}
COMPRESSED_KEYS: dict[str, Key] = {
    "attention.q_lora_rank": 128,
    "attention.kv_lora_rank": 128,
    "attention.key_length_mla": 96,
    "attention.value_length_mla": 64,
    "expert_feed_forward_length": F,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "leading_dense_block_count": 1,
    "ssm.conv_kernel": 4,
    "kda.head_dim": 32,
    "kda.gate_lower_bound": -5.0,
    "attention.indexer.head_count": 4,
    "attention.indexer.key_length": 32,
    "attention.indexer.top_k": 64,
    "attention.indexer.kpool": 4,
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 2,
    "hyper_connection.epsilon": 1e-6,
}
TIED = {"token_embd.weight": (E, VOCAB), "output_norm.weight": (E,)}
UNTIED = {**TIED, "output.weight": (E, VOCAB)}
SHARED_EXPERT = {
    "ffn_gate_inp_shexp.weight": (E, 1),
    "ffn_up_shexp.weight": (E, F),
    "ffn_down_shexp.weight": (F, E),
}
LATER_DENSE = {f"0: {name}": shape for name, shape in feed_forward().items()}


def llama(n_layers: int, n_heads: int, n_kv: int, architecture: str = "llama") -> ModelHeader:
    """Return a dense model."""
    layer = attention(n_heads, n_kv) | feed_forward()
    return ModelHeader(architecture, n_layers, layer, UNTIED, (n_heads, n_kv))


def mixture(architecture: str, n_layers: int, n: int, heads: tuple[int, int]) -> ModelHeader:
    """Return a mixture of experts."""
    layer = attention(*heads) | experts(n)
    keys = {"expert_feed_forward_length": F}
    return ModelHeader(architecture, n_layers, layer, UNTIED, heads, n, keys=keys)


MODELS = {
    "llama": llama(32, 8, 8),
    "llama of 13 layers, 2 heads a value": llama(13, 8, 4),
    "llama, 4 heads a value": llama(16, 8, 2),
    "llama, 8 heads a value": llama(24, 8, 1),
    "llama 65B": llama(80, 8, 8),
    "llama 70B": llama(80, 8, 1),
    "qwen2 72B": llama(80, 8, 4, "qwen2"),
    "jais2 70B": llama(68, 8, 8, "jais2"),
    "mixtral": mixture("llama", 32, 8, (8, 2)),
    "mixture of 4": mixture("llama", 10, 4, (8, 8)),
    "qwen3moe": mixture("qwen3moe", 24, 64, (8, 4)),
    "tied embeddings": ModelHeader("qwen3", 28, attention(8, 4) | feed_forward(), TIED, (8, 4)),
    "smollm2": ModelHeader(
        "llama",
        30,
        attention(9, 3, 576) | feed_forward(576, 1536),
        {"token_embd.weight": (576, VOCAB), "output_norm.weight": (576,)},
        (9, 3),
        n_embd=576,
    ),
    "rows of 100": ModelHeader(
        "llama",
        9,
        attention(4, 4, 128) | feed_forward(128, 100),
        {"token_embd.weight": (128, VOCAB), "output.weight": (128, VOCAB)},
        (4, 4),
        n_embd=128,
    ),
    "falcon": ModelHeader("falcon", 32, FUSED, UNTIED, (4, 1)),
    "falcon of 60 layers": ModelHeader("falcon", 60, FUSED, UNTIED, (4, 2)),
    "phi3": ModelHeader("phi3", 32, FUSED, UNTIED, (8, 8)),
    "gpt2": ModelHeader("gpt2", 12, FUSED, {**TIED, "position_embd.weight": (E, 512)}, (4, 4)),
    "bert": ModelHeader(
        "bert",
        12,
        attention(8, 8) | feed_forward(),
        {**TIED, "position_embd.weight": (E, 512), "token_types.weight": (E, 2)},
        (8, 8),
    ),
    "lfm2": ModelHeader(
        "lfm2",
        4,
        {
            **{f"2: {name}": shape for name, shape in attention(8, 2).items()},
            **{
                f"{layer}: shortconv.{name}.weight": shape
                for layer in (0, 1, 3)
                for name, shape in (("conv", (3, E)), ("in_proj", (E, 3 * E)), ("out_proj", (E, E)))
            },
            **feed_forward(),
        },
        TIED,
        (8, [0, 0, 2, 0]),
        keys={"shortconv.l_cache": 3},
    ),
    "mamba2": ModelHeader(
        "mamba2",
        24,
        {
            "ssm_in.weight": (E, 1064),
            "ssm_conv1d.weight": (4, 544),
            "ssm_conv1d.bias": (544,),
            "ssm_a": (1, 8),
            "ssm_d": (1, 8),
            "ssm_norm.weight": (F, 1),
            "ssm_out.weight": (F, E),
        },
        TIED,
        (0, 0),
        keys={
            "ssm.conv_kernel": 4,
            "ssm.inner_size": F,
            "ssm.state_size": 16,
            "ssm.time_step_rank": 8,
            "ssm.group_count": 1,
        },
    ),
    "gemma3": ModelHeader("gemma3", 26, attention(4, 1) | feed_forward(), TIED, (4, 1)),
    "gemma3n": ModelHeader(
        "gemma3n",
        30,
        {
            **attention(8, 2),
            **feed_forward(),
            "altup_correct_coef.weight": (4, 4),
            "altup_router.weight": (E, 4),
            "laurel_l.weight": (E, 64),
            "inp_gate.weight": (E, 256),
            "proj.weight": (256, E),
        },
        {
            **TIED,
            "per_layer_token_embd.weight": (30 * 256, VOCAB),
            "per_layer_model_proj.weight": (E, 30 * 256),
            "altup_proj.weight": (E, E, 3),
        },
        keys={"attention.sliding_window": 512},
    ),
    "gpt-oss": ModelHeader(
        "gpt-oss",
        24,
        attention(8, 1) | experts(32) | {"ffn_down_exps.bias": (E, 32)},
        UNTIED,
        (8, 1),
        32,
        keys={"expert_feed_forward_length": F, "attention.sliding_window": 128},
    ),
    "deepseek2": ModelHeader(
        "deepseek2",
        12,
        COMPRESSED | experts(16) | SHARED_EXPERT | LATER_DENSE,
        UNTIED,
        (8, 1),
        16,
        keys=COMPRESSED_KEYS,
    ),
    "bailingmoe3": ModelHeader(
        "bailingmoe3", 4, COMPRESSED | experts(16), UNTIED, (8, 8), 16, keys=COMPRESSED_KEYS
    ),
    "glm5-next": ModelHeader(
        "glm5-next",
        4,
        COMPRESSED | experts(16) | {"hc_attn_fn.weight": (E, 24), "nextn.eh_proj.weight": (F, E)},
        UNTIED,
        (8, 8),
        16,
        keys=COMPRESSED_KEYS,
    ),
}
