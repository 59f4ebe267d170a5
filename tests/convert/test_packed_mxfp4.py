import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from llmedge.convert.packed import unpack
from llmedge.convert.packed_mxfp4 import repack_mxfp4
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from llmedge.gguf.reader import read_header
from llmedge.store.checkpoint import FolderCheckpoint
from tests.convert.cases_gpt_oss import gpt_oss
from tests.convert.parity import (
    compare,
    convert,
    llama_cpp_outputs,
    make_checkpoint,
    original_outputs,
)
from tests.convert.stored import Stored, in_ranges, store, whole

CONFIG = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
N_EXPERTS, N_EMBD, N_FF = 3, 64, 32


def make(*, highest: int = 140) -> dict[str, Stored]:
    rng = np.random.default_rng(0)

    def experts(name: str, n_out: int, n_in: int) -> dict[str, Stored]:
        shape = (N_EXPERTS, n_out, n_in // 32)
        return {
            f"{name}_blocks": rng.integers(0, 256, (*shape, 16)).astype(np.uint8),
            f"{name}_scales": rng.integers(highest - 30, highest, shape).astype(np.uint8),
            f"{name}_bias": rng.normal(size=(N_EXPERTS, n_out)).astype(np.float32),
        }

    return {
        **experts("experts.gate_up_proj", 2 * N_FF, N_EMBD),
        **experts("experts.down_proj", N_EMBD, N_FF),
    }


def by_definition(tensors: dict[str, Stored], name: str) -> np.ndarray:
    """Weights `(n_experts, n_out, n_in)`, one by one."""
    blocks, scales = tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
    assert isinstance(blocks, np.ndarray)
    assert isinstance(scales, np.ndarray)
    weights = np.zeros((*blocks.shape[:-1], 32), np.float32)
    for place in np.ndindex(*blocks.shape):
        scale = 2.0 ** (int(scales[place[:-1]]) - 127)
        code = int(blocks[place])
        weights[(*place[:-1], 2 * place[-1])] = VALUES[code & 15] * scale
        weights[(*place[:-1], 2 * place[-1] + 1)] = VALUES[code >> 4] * scale
    return weights.reshape(*blocks.shape[:2], -1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderCheckpoint]:
    with store(tmp_path_factory.mktemp("mxfp4") / "checkpoint", make()) as source:
        yield source


@pytest.fixture(scope="module")
def experts(checkpoint: FolderCheckpoint) -> dict[str, Rows]:
    return unpack(checkpoint, CONFIG)


def test_gate_and_up_become_matrices_of_their_own(experts: dict[str, Rows]):
    assert {name: rows.shape for name, rows in experts.items()} == {
        "experts.gate": (N_EXPERTS, N_FF, N_EMBD),
        "experts.up": (N_EXPERTS, N_FF, N_EMBD),
        "experts.gate_up_proj_bias": (N_EXPERTS, 2 * N_FF),
        "experts.down": (N_EXPERTS, N_EMBD, N_FF),
        "experts.down_proj_bias": (N_EXPERTS, N_EMBD),
    }


@pytest.fixture(scope="module")
def defined() -> dict[str, np.ndarray]:
    gate_up = by_definition(make(), "experts.gate_up_proj")
    return {
        "experts.gate": gate_up[:, 0::2],
        "experts.up": gate_up[:, 1::2],
        "experts.down": by_definition(make(), "experts.down_proj"),
    }


@given(cuts=st.lists(st.integers(0, N_EXPERTS * N_EMBD)))
def test_ranges_put_together_are_the_whole(
    experts: dict[str, Rows], defined: dict[str, np.ndarray], cuts: list[int]
):
    for name, expected in defined.items():
        assert np.array_equal(in_ranges(experts[name], cuts), expected)


def test_weights_are_what_transformers_makes_of_them(experts: dict[str, Rows]):
    tensors = make()

    def original(name: str) -> np.ndarray:
        parts = (torch.from_numpy(tensors[f"{name}_{part}"]) for part in ("blocks", "scales"))
        made = convert_moe_packed_tensors(*parts, dtype=torch.float32)
        return made.numpy().transpose(0, 2, 1)

    gate_up = original("experts.gate_up_proj")
    assert np.array_equal(whole(experts["experts.gate"]), gate_up[:, 0::2])
    assert np.array_equal(whole(experts["experts.up"]), gate_up[:, 1::2])
    assert np.array_equal(whole(experts["experts.down"]), original("experts.down_proj"))


def test_blocks_are_repacked_without_loss(experts: dict[str, Rows], defined: dict[str, np.ndarray]):
    for name, expected in defined.items():
        rows = experts[name]
        assert rows.packed is not None
        assert rows.packed.type_name == "MXFP4"
        raw = np.frombuffer(rows.packed.read(0, rows.n_rows), np.uint8).reshape(rows.n_rows, -1)
        assert raw.shape[1] == rows.n_columns // 32 * 17
        restored = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.MXFP4)
        assert np.array_equal(restored.reshape(rows.shape), expected)


@given(ranges=st.lists(st.tuples(st.integers(0, 96), st.integers(0, 96)), max_size=5))
def test_packed_bytes_of_any_range_are_that_part_of_the_whole(
    experts: dict[str, Rows], ranges: list[tuple[int, int]]
):
    for rows in (experts["experts.gate"], experts["experts.up"]):
        assert rows.packed is not None
        every = rows.packed.read(0, 96)
        row_bytes = len(every) // 96
        for one, other in ranges:
            start, stop = min(one, other), max(one, other)
            part = every[start * row_bytes : stop * row_bytes]
            assert rows.packed.read(start, stop) == part


@given(block=st.binary(min_size=16, max_size=16), exponent=st.integers(0, 254))
def test_every_block_survives_repacking_to_the_last_exponent(block: bytes, exponent: int):
    blocks = np.frombuffer(block, np.uint8).reshape(1, 1, 16)
    scales = np.array([[exponent]], np.uint8)
    with np.errstate(over="ignore"):
        scale = np.ldexp(np.float32(1), exponent - 127)
        values = np.array([VALUES[half] for byte in block for half in (byte & 15, byte >> 4)])
        expected = values.astype(np.float32) * scale
        packed = repack_mxfp4(blocks, scales)
        assert packed.shape == (1, 17)
        restored = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.MXFP4)[0]
    assert np.array_equal(restored, expected)
    assert np.array_equal(np.signbit(restored[expected != 0]), np.signbit(expected[expected != 0]))


def test_weights_beyond_float32_are_infinite_as_for_ggml_and_warn_of_nothing(tmp_path: Path):
    tensors: dict[str, Stored] = {
        "experts.down_proj_blocks": np.full((1, 1, 1, 16), 0x79, np.uint8),
        "experts.down_proj_scales": np.full((1, 1, 1), 254, np.uint8),
    }
    with store(tmp_path / "checkpoint", tensors) as source:
        values = whole(unpack(source, CONFIG)["experts.down"])[0, 0]
    assert values.tolist() == [-(2.0**126), np.inf] * 16


@pytest.mark.parametrize(
    ("part", "stored", "error"),
    [
        ("_scales", None, IntegrityError),
        ("_scales", np.zeros((3, 64), np.uint8), UnsupportedError),
        ("_scales", np.zeros((3, 64, 1), np.uint8), IntegrityError),
        ("_scales", np.zeros((3, 64, 2), np.float32), UnsupportedError),
        ("_blocks", np.zeros((3, 64, 2, 8), np.uint8), IntegrityError),
        ("_blocks", np.zeros((3, 64, 32), np.uint8), UnsupportedError),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(
    tmp_path: Path, part: str, stored: np.ndarray | None, error: type[LlmedgeError]
):
    tensors = make()
    del tensors[f"experts.gate_up_proj{part}"]
    if stored is not None:
        tensors[f"experts.gate_up_proj{part}"] = stored
    with (
        store(tmp_path / "checkpoint", tensors) as source,
        pytest.raises(error, match=f"gate_up_proj{part}"),
    ):
        unpack(source, CONFIG)


def test_an_exponent_that_is_no_number_is_an_error_on_both_ways(tmp_path: Path):
    tensors = make()
    tensors["experts.down_proj_scales"][1, 2, 0] = 255  # type: ignore[index,call-overload]
    with store(tmp_path / "checkpoint", tensors) as source:
        with pytest.raises(IntegrityError, match="down_proj_scales has an exponent"):
            whole(unpack(source, CONFIG)["experts.down"])
        down = unpack(source, CONFIG)["experts.down"]
        assert down.packed is not None
        with pytest.raises(IntegrityError, match="down_proj_scales has an exponent"):
            down.packed.read(0, down.n_rows)


def test_rows_of_gate_and_up_come_in_pairs(tmp_path: Path):
    tensors: dict[str, Stored] = {
        "experts.gate_up_proj_blocks": np.zeros((2, 3, 1, 16), np.uint8),
        "experts.gate_up_proj_scales": np.zeros((2, 3, 1), np.uint8),
    }
    with (
        store(tmp_path / "checkpoint", tensors) as source,
        pytest.raises(IntegrityError, match="3 rows"),
    ):
        unpack(source, CONFIG)


def test_gpt_oss_as_it_is_published_keeps_its_blocks(tmp_path: Path):
    folder = tmp_path / "checkpoint"
    model = make_checkpoint(gpt_oss("packed", hidden_size=64, intermediate_size=64), folder)
    tensors = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if not name.endswith(("gate_up_proj", "down_proj")):
            continue
        del tensors[name]
        n_experts, n_in, n_out = parameter.shape
        shape = (n_experts, n_out, n_in // 32)
        blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=random)
        scales = torch.randint(121, 125, shape, dtype=torch.uint8, generator=random)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        with torch.no_grad():
            parameter.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": CONFIG}))
    floats = convert(folder, tmp_path / "floats.gguf")
    assert compare(original_outputs(model), llama_cpp_outputs(floats)).is_within(1e-5)
    kept = read_header(convert(folder, tmp_path / "kept.gguf", mix="Q8_0"))
    types = {tensor.name: tensor.quant_type.name for tensor in kept.tensors}
    assert {kind for name, kind in types.items() if "_exps.weight" in name} == {"MXFP4"}
    smaller = read_header(convert(folder, tmp_path / "smaller.gguf", mix="Q2_0"))
    types = {tensor.name: tensor.quant_type.name for tensor in smaller.tensors}
    assert "MXFP4" not in types.values()
