import gguf
import pytest

from llmedge.gguf.quant_types import BY_NAME, F16, F32
from llmedge.gguf.tensor_roles import (
    _STORED_AS_F32,
    ATTN_V,
    EMBEDDING,
    FFN_GATE,
    OTHER,
    OUTPUT,
    is_quantizable,
    layer_of,
    role_of,
    storage_type,
)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("output.weight", OUTPUT),
        ("blk.3.attn_output.weight", "attn_output"),
        ("token_embd.weight", EMBEDDING),
        ("per_layer_token_embd.weight", EMBEDDING),
        ("blk.3.attn_qkv.weight", ATTN_V),
        ("blk.3.attn_kv_b.weight", ATTN_V),
        ("blk.3.ffn_gate_exps.weight", FFN_GATE),
        ("blk.3.attn_v_b.weight", OTHER),
        ("output_norm.weight", OTHER),
    ],
)
def test_a_name_says_its_role(name: str, role: str):
    assert role_of(name) == role


def test_a_name_says_its_layer():
    assert layer_of("blk.12.ffn_up.weight") == 12
    assert layer_of("token_embd.weight") == -1
    assert layer_of("v.blk.12.ffn_up.weight") == -1


@pytest.mark.parametrize(
    ("name", "n_dims", "ftype", "stored"),
    [
        ("blk.0.attn_q.weight", 2, F16, F16),
        ("blk.0.attn_q.weight", 2, F32, F32),
        ("blk.0.ffn_down_exps.weight", 3, BY_NAME["BF16"], BY_NAME["BF16"]),
        ("blk.0.attn_q.bias", 1, F16, F32),
        ("blk.0.ffn_down_exps.bias", 2, F16, F32),
        ("blk.0.attn_q_norm.weight", 2, F16, F32),
        ("blk.11.ffn_gate_inp.weight", 2, F16, F32),
        ("blk.0.ffn_gate_inp_shexp.weight", 2, F16, F32),
        ("blk.0.shortconv.conv.weight", 2, F16, F32),
        ("blk.0.ssm_conv1d.weight", 2, F16, F32),
        ("blk.0.ssm_a", 2, F16, F32),
        ("position_embd.weight", 2, F16, F32),
        ("per_layer_model_proj.weight", 2, F16, F16),
        ("blk.0.indexer.proj.weight", 2, F16, F32),
    ],
)
def test_a_conversion_stores_vectors_norms_and_small_matrices_in_f32(name, n_dims, ftype, stored):
    assert storage_type(name, n_dims, ftype) is stored


def test_the_names_that_stay_in_f32_are_names_of_gguf():
    known = {name.removeprefix("blk.{bid}.") + ".weight" for name in gguf.TENSOR_NAMES.values()}
    assert known >= _STORED_AS_F32


def test_only_matrices_of_weights_are_quantized():
    assert is_quantizable("blk.0.attn_q.weight", (256, 64), "llama")
    assert not is_quantizable("blk.0.attn_q.weight", (256, 1, 1), "llama")
    assert not is_quantizable("blk.0.attn_q.bias", (256, 64), "llama")
    assert is_quantizable("blk.0.attn_k_b.weight", (256, 64), "deepseek2")
    assert not is_quantizable("blk.0.attn_k_b.weight", (256, 64), "glm5-next")
