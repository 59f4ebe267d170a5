from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from llmedge.core.errors import IntegrityError
from llmedge.quantize.collector import Collector
from llmedge.runtime.observer import LoadedWeight, Product
from tests.convert import parity
from tests.quantize.collecting import BY_NAME, byte_vocabulary, collect, random_chunks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmedge.gguf.imatrix_file import ImatrixSums

Array = np.ndarray


def weight(*shape: int, name: str = "blk.0.ffn_up.weight") -> LoadedWeight:
    return LoadedWeight(name, 0, (*shape, *[1] * (4 - len(shape))), 0, is_host=True)


def product(of: LoadedWeight, inputs: Array, experts: Array | None = None) -> Product:
    return Product(of, inputs, (0, b""), experts)


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def only(collector: Collector) -> tuple[list[int], Array]:
    (entry,) = collector.sums((), 1, 1).entries.values()
    return entry.counts.tolist(), entry.sums


def test_rows_are_added_one_after_the_other_in_f32_to_the_last_bit():
    rows = random(100, 40) * 1000
    expected = np.zeros(40, np.float32)
    for row in rows:
        expected += row * row
    collector = Collector(["blk.0.ffn_up.weight"])
    for part in (rows[:1], rows[1:37], rows[37:]):
        collector.see(product(weight(40, 8), part[np.newaxis, np.newaxis]))
    counts, sums = only(collector)
    assert counts == [100]
    assert (sums == expected).all()


def test_a_single_row_is_not_lost():
    collector = Collector(["blk.0.ffn_up.weight"])
    assert collector.wants(weight(4, 8), 1)
    collector.see(product(weight(4, 8), np.full((1, 1, 1, 4), 3, np.float32)))
    assert only(collector)[1].tolist() == [[9, 9, 9, 9]]


def test_only_weights_of_the_file_are_wanted():
    collector = Collector(["blk.0.ffn_up.weight"])
    assert not collector.wants(weight(4, 8, name="cache_k_l0 (view)"), 64)


def test_a_matrix_that_several_heads_or_sequences_use_sees_all_their_rows():
    inputs = random(2, 3, 5, 4)
    collector = Collector(["blk.0.ffn_up.weight"])
    collector.see(product(weight(4, 8), inputs))
    counts, sums = only(collector)
    assert counts == [30]
    assert np.allclose(sums, np.square(inputs).sum((0, 1, 2)))


def test_the_matrices_of_a_stack_that_is_used_whole_share_one_count():
    inputs = random(1, 6, 5, 4)  # three matrices, each used by heads i and i + 3
    collector = Collector(["blk.0.ffn_up.weight"])
    collector.see(product(weight(4, 8, 3), inputs))
    counts, sums = only(collector)
    assert counts == [10]
    expected = np.square(inputs).sum((0, 2)).reshape(2, 3, 4).sum(0)
    assert np.allclose(sums, expected.reshape(1, 12))


@pytest.mark.parametrize("n_places", [1, 2])
def test_each_expert_sees_the_tokens_that_chose_it(n_places: int):
    n_tokens, n_used, n_experts, n_in = 50, 2, 7, 12
    inputs = random(1, n_tokens, n_places, n_in)
    draw = np.random.default_rng(1)
    # The last expert is never chosen.
    experts = np.stack([draw.permutation(n_experts - 1)[:n_used] for _ in range(n_tokens)])
    expected, hits = np.zeros((n_experts, n_in)), np.zeros(n_experts, int)
    for token, place in np.ndindex(n_tokens, n_used):
        expert = experts[token, place]
        expected[expert] += np.square(inputs[0, token, place % n_places].astype(float))
        hits[expert] += 1
    collector = Collector(["blk.0.ffn_up.weight"])
    collector.see(product(weight(n_in, 8, n_experts), inputs, experts.astype(np.int32)))
    counts, sums = only(collector)
    assert counts == hits.tolist()
    assert counts[-1] == 0
    assert np.allclose(sums, expected, rtol=1e-6)


def test_it_goes_on_from_what_was_collected_before():
    rows = random(1, 1, 60, 8)
    whole, first = Collector(["blk.0.ffn_up.weight"]), Collector(["blk.0.ffn_up.weight"])
    whole.see(product(weight(8, 8), rows))
    first.see(product(weight(8, 8), rows[:, :, :20]))
    second = Collector(["blk.0.ffn_up.weight"], first.sums((), 1, 20))
    second.see(product(weight(8, 8), rows[:, :, 20:]))
    assert only(second)[0] == only(whole)[0] == [60]
    assert (only(second)[1] == only(whole)[1]).all()
    assert only(first)[0] == [20]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_what_is_not_finite_is_an_error_that_names_the_tensor(value: float):
    inputs = random(1, 1, 20, 8)
    inputs[0, 0, 3, 5] = value
    with (
        np.errstate(over="ignore"),
        pytest.raises(IntegrityError, match=r"blk\.0\.ffn_up\.weight is not finite"),
    ):
        Collector([]).see(product(weight(8, 8), inputs))


# Below, transformers computes the same models, and its own modules say what entered them.

_LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}


def gguf_name(module: str, *, is_tied: bool) -> str | None:
    if module == "lm_head":
        return "token_embd.weight" if is_tied else "output.weight"
    _, _, rest = module.partition("layers.")
    layer, _, part = rest.partition(".")
    return f"blk.{layer}.{_LINEAR[part]}.weight" if part in _LINEAR else None


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., tuple[Any, ImatrixSums, dict[str, list[Array]]]]:
    def both(name: str, watched: Callable[[str, Any], bool]):
        """Run a case in llama.cpp and in transformers; return what entered the watched modules."""
        model = parity.make_checkpoint(BY_NAME[name], tmp_path / "checkpoint")
        path = parity.convert(
            tmp_path / "checkpoint", tmp_path / "model.gguf", vocabulary=byte_vocabulary()
        )
        seen: dict[str, list[Array]] = {}
        for module_name, module in model.named_modules():
            if watched(module_name, module):
                module.register_forward_pre_hook(
                    lambda _, args, key=module_name: seen.setdefault(key, []).append(
                        [arg.detach().numpy().copy() for arg in args]
                    )
                )
        chunks = random_chunks()
        parity.compute_like_ggml(model)
        with torch.no_grad():
            for chunk in chunks:
                model(torch.tensor([chunk]), use_cache=False)
        return model, collect(path, chunks)[0], seen

    return both


def squares(inputs: list[Array]) -> Array:
    rows = np.concatenate([arrays[0].reshape(-1, arrays[0].shape[-1]) for arrays in inputs])
    return np.square(rows.astype(np.float64)).sum(0)


@pytest.mark.parametrize(("name", "n_weights"), [("llama", 22), ("llama-tied", 22)])
def test_every_weight_of_a_dense_model_sees_what_transformers_gives_it(
    both, name: str, n_weights: int
):
    _, sums, seen = both(name, lambda _, module: isinstance(module, torch.nn.Linear))
    names = {gguf_name(module, is_tied=name == "llama-tied"): module for module in seen}
    assert sums.entries.keys() == names.keys()
    assert len(names) == n_weights
    for weight_name, module in names.items():
        entry = sums.entries[str(weight_name)]
        assert entry.counts.tolist() == [96]
        np.testing.assert_allclose(entry.sums[0], squares(seen[module]), rtol=1e-4)


def test_every_expert_sees_what_transformers_gives_it(both):
    model, sums, seen = both("mixtral", lambda name, _: name.endswith("mlp.experts"))
    for layer, block in enumerate(model.model.layers):
        calls = seen[f"model.layers.{layer}.mlp.experts"]
        rows = np.concatenate([hidden for hidden, *_ in calls])
        chosen = np.concatenate([index for _, index, *_ in calls])
        up, down = (sums.entries[f"blk.{layer}.ffn_{part}_exps.weight"] for part in ("up", "down"))
        for expert, weights in enumerate(block.mlp.experts.gate_up_proj.detach()):
            mine = rows[(chosen == expert).any(-1)]
            assert up.counts[expert] == down.counts[expert] == len(mine)
            np.testing.assert_allclose(up.sums[expert], np.square(mine).sum(0), rtol=1e-4)
            gate, value = (torch.from_numpy(mine) @ weights.T).chunk(2, -1)
            inner = (torch.nn.functional.silu(gate) * value).numpy()
            np.testing.assert_allclose(down.sums[expert], np.square(inner).sum(0), rtol=1e-3)
        assert up.counts.sum() == 96 * 2


def test_compressed_attention_has_one_row_of_sums_for_all_heads(both):
    model, sums, seen = both("deepseek-2", lambda name, _: name.endswith("self_attn.q_b_proj"))
    config = model.config
    for layer, block in enumerate(model.model.layers):
        calls = seen[f"model.layers.{layer}.self_attn.q_b_proj"]
        compressed = torch.from_numpy(np.concatenate([arrays[0][0] for arrays in calls]))
        queries = block.self_attn.q_b_proj(compressed).detach()
        heads = queries.view(96, config.num_attention_heads, -1)[..., : config.qk_nope_head_dim]
        entry = sums.entries[f"blk.{layer}.attn_k_b.weight"]
        assert entry.counts.tolist() == [96]
        np.testing.assert_allclose(entry.sums[0], heads.square().sum(0).reshape(-1), rtol=1e-3)
        values = sums.entries[f"blk.{layer}.attn_v_b.weight"]
        n_values = config.num_attention_heads * config.kv_lora_rank
        assert (values.counts.tolist(), values.sums.shape) == ([96], (1, n_values))
