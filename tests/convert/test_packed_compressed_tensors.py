from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.convert.packed import unpack
from llmedge.convert.packed_compressed_tensors import unpack_compressed_tensors
from llmedge.convert.packed_parts import E4M3, Ledger
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from tests.convert.stored import Stored, bfloat16, in_ranges, store, whole

N_OUT, N_IN, GROUP = 21, 75, 16
SCALES = {
    "tensor": (1,),
    "channel": (N_OUT, 1),
    "group": (N_OUT, -(-N_IN // GROUP)),
    "block": (-(-N_OUT // 8), -(-N_IN // 32)),
}


@dataclass
class Layer:
    tensors: dict[str, Stored]
    config: dict[str, object]
    expected: np.ndarray


def config(chosen: str, *groups: dict[str, object]) -> dict[str, object]:
    return {
        "quant_method": "compressed-tensors",
        "format": chosen,
        "quantization_status": "compressed",
        "sparsity_config": {"format": "dense"},
        "transform_config": {},
        "ignore": ["lm_head"],
        "config_groups": {
            f"group_{number}": {"targets": ["Linear"], "weights": weights, "format": None}
            for number, weights in enumerate(groups)
        },
    }


def arguments(strategy: str, **change: object) -> dict[str, object]:
    return {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": strategy,
        "group_size": {"group": GROUP, "channel": -1}.get(strategy),
        "block_structure": [8, 32] if strategy == "block" else None,
        **change,
    }


def place_of(strategy: str, row: int, column: int) -> tuple[int, ...]:
    return {
        "tensor": (0,),
        "channel": (row, 0),
        "group": (row, column // GROUP),
        "block": (row // 8, column // 32),
    }[strategy]


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack each row as one string of bits, offset by half the range."""
    rows = []
    for row in codes:
        number = sum((int(code) + 2 ** (bits - 1)) << (bits * i) for i, code in enumerate(row))
        n_words = -(-len(row) * bits // 32)
        rows.append(np.frombuffer(number.to_bytes(4 * n_words, "little"), np.int32))
    return np.stack(rows)


def make(kind: str, strategy: str, *, bits: int = 8, is_symmetric: bool = True) -> Layer:
    rng = np.random.default_rng(bits)
    half = 2 ** (bits - 1)
    codes = rng.integers(-half, half, (N_OUT, N_IN))
    values = codes.astype(np.float32)
    scales = rng.uniform(0.01, 0.1, SCALES[strategy]).astype(np.float16)
    zeros = np.zeros(SCALES[strategy], np.int8)
    tensors: dict[str, Stored] = {"x.weight_scale": scales}
    if not is_symmetric:
        zeros = rng.integers(-half, half, SCALES[strategy]).astype(np.int8)
        tensors["x.weight_zero_point"] = zeros
    if kind == "pack":
        tensors["x.weight_packed"] = pack(codes, bits)
        tensors["x.weight_shape"] = np.array([N_OUT, N_IN])
        if not is_symmetric:
            tensors["x.weight_zero_point"] = pack(zeros.T, bits).T.copy()
    elif kind == "float":
        raw = rng.integers(0, 127, (N_OUT, N_IN)).astype(np.uint8)
        tensors["x.weight"], values = ("F8_E4M3", raw), E4M3[raw]
    else:
        tensors["x.weight"] = codes.astype(np.int8)
    expected = np.zeros((N_OUT, N_IN), np.float32)
    for row in range(N_OUT):
        for column in range(N_IN):
            place = place_of(strategy, row, column)
            expected[row, column] = (values[row, column] - zeros[place]) * np.float32(scales[place])
    given_type = "float" if kind == "float" else "int"
    weights = arguments(strategy, num_bits=bits, type=given_type, symmetric=is_symmetric)
    chosen = {"pack": "pack-quantized", "float": "float-quantized", "int": "int-quantized"}[kind]
    return Layer(tensors, config(chosen, weights), expected)


def unpacked(folder: Path, layer: Layer) -> np.ndarray:
    with store(folder / "checkpoint", layer.tensors) as source:
        rows = unpack(source, layer.config)
        assert list(rows) == ["x.weight"]
        return whole(rows["x.weight"])


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group", "block"])
def test_bytes_are_integers_with_scales_and_zero_points(
    tmp_path: Path, strategy: str, is_symmetric: bool
):
    layer = make("int", strategy, is_symmetric=is_symmetric)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_fp8_has_scales_of_every_kind(tmp_path: Path, strategy: str):
    layer = make("float", strategy)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["channel", "group"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_words_hold_integers_and_their_zero_points(
    tmp_path: Path, bits: int, strategy: str, is_symmetric: bool
):
    layer = make("pack", strategy, bits=bits, is_symmetric=is_symmetric)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


@pytest.fixture(scope="module", params=["pack", "int"])
def layer_rows(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rows, np.ndarray]]:
    strategy = "group" if request.param == "pack" else "block"
    bits = 4 if request.param == "pack" else 8
    layer = make(request.param, strategy, bits=bits, is_symmetric=False)
    with store(tmp_path_factory.mktemp("ct") / "checkpoint", layer.tensors) as source:
        yield unpack(source, layer.config)["x.weight"], layer.expected


@given(cuts=st.lists(st.integers(0, N_OUT)))
def test_ranges_put_together_are_the_whole(layer_rows: tuple[Rows, np.ndarray], cuts: list[int]):
    rows, expected = layer_rows
    assert rows.whole_bytes == 0
    assert np.array_equal(in_ranges(rows, cuts), expected)


@pytest.mark.parametrize("kind", ["pack", "int"])
def test_columns_that_were_sorted_by_activation_have_groups_of_their_own(tmp_path: Path, kind: str):
    layer = make(kind, "group")
    order = np.random.default_rng(5).permutation(N_IN)
    columns = np.arange(N_IN)[order]
    codes = layer.tensors["x.weight"] if kind == "int" else None
    layer.tensors["x.weight_g_idx"] = (columns // GROUP).astype(np.int32)
    if isinstance(codes, np.ndarray):
        layer.tensors["x.weight"] = codes[:, order]
    else:
        packed = layer.tensors["x.weight_packed"]
        assert isinstance(packed, np.ndarray)
        raw = packed.view(np.uint8)[:, :N_IN][:, order]
        layer.tensors["x.weight_packed"] = pack(raw.astype(int) - 128, 8)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected[:, order])


def test_groups_of_minus_one_say_that_columns_were_left_in_order(tmp_path: Path):
    layer = make("pack", "group", bits=4)
    layer.tensors["x.weight_g_idx"] = np.full(N_IN, -1, np.int32)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


@pytest.mark.parametrize("group", [5, 2**31 - 1, -2])
def test_a_group_that_is_not_there_is_found_before_it_is_looked_up(tmp_path: Path, group: int):
    layer = make("pack", "group", bits=4)
    groups = np.zeros(N_IN, np.int32)
    groups[3] = group
    layer.tensors["x.weight_g_idx"] = groups
    with pytest.raises(IntegrityError, match="weight_g_idx names group"):
        unpacked(tmp_path, layer)


def test_scales_of_activations_and_caches_are_dropped(tmp_path: Path):
    layer = make("float", "tensor")
    for name in ("x.input_scale", "x.output_scale", "attn.k_scale", "attn.v_scale"):
        layer.tensors[name] = bfloat16(np.ones(1))
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


def test_layers_of_one_checkpoint_may_belong_to_different_groups(tmp_path: Path):
    first, second = make("pack", "group", bits=4), make("float", "channel")
    tensors = dict(first.tensors)
    tensors.update((name.replace("x.", "y."), stored) for name, stored in second.tensors.items())
    settings = config(
        "mixed-precision",
        arguments("group", num_bits=4),
        arguments("channel", type="float"),
    )
    with store(tmp_path / "checkpoint", tensors) as source:
        rows = unpack(source, settings)
        assert np.array_equal(whole(rows["x.weight"]), first.expected)
        assert np.array_equal(whole(rows["y.weight"]), second.expected)


def test_a_layer_that_fits_two_groups_is_not_guessed(tmp_path: Path):
    layer = make("pack", "group", bits=4)
    layer.config = config(
        "pack-quantized",
        arguments("group", num_bits=4),
        arguments("group", num_bits=4, group_size=GROUP + 1),
    )
    with pytest.raises(IntegrityError, match=r"x\.weight_scale .* by 2 groups"):
        unpacked(tmp_path, layer)


def test_a_strategy_that_is_not_named_follows_from_the_group_size(tmp_path: Path):
    for strategy in ("tensor", "channel", "group"):
        layer = make("int", strategy)
        layer.config = config("int-quantized", {**arguments(strategy), "strategy": None})
        assert np.array_equal(unpacked(tmp_path / strategy, layer), layer.expected)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"num_bits": 3}, UnsupportedError, "num_bits of type int is 3; supported: 2, 4, 8"),
        ({"num_bits": 4, "type": "float"}, UnsupportedError, "num_bits"),
        ({"type": "complex"}, UnsupportedError, "'complex'"),
        ({"strategy": "tensor_group"}, UnsupportedError, "tensor_group"),
        ({"group_size": 0}, IntegrityError, "group_size is 0"),
        ({"group_size": None}, IntegrityError, "group_size"),
        ({"strategy": "block"}, IntegrityError, "block_structure"),
        ({"strategy": "channel"}, IntegrityError, r"x\.weight_scale .* by 0 groups"),
        ({"num_bits": 8}, IntegrityError, r"x\.weight_packed"),
        ({"symmetric": False}, IntegrityError, r"x\.weight_zero_point is missing"),
    ],
)
def test_arguments_that_are_not_read_or_not_meant_are_named(
    tmp_path: Path, change: dict[str, object], error: type[LlmedgeError], match: str
):
    layer = make("pack", "group", bits=4)
    layer.config = config("pack-quantized", {**arguments("group", num_bits=4), **change})
    with pytest.raises(error, match=match):
        unpacked(tmp_path, layer)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"format": "nvfp4-pack-quantized"}, UnsupportedError, "nvfp4-pack-quantized"),
        ({"format": "marlin-24"}, UnsupportedError, "marlin-24"),
        ({"format": None}, UnsupportedError, "format"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, UnsupportedError, "sparse-24"),
        ({"transform_config": {"config_groups": {"R1": {"type": 1}}}}, UnsupportedError, "rotated"),
        ({"config_groups": {}}, IntegrityError, "config_groups"),
        ({"config_groups": [1]}, IntegrityError, "config_groups"),
        ({"config_groups": {"a": {"weights": None}}}, IntegrityError, "config_groups"),
    ],
)
def test_settings_that_are_not_read_or_not_meant_are_named(
    tmp_path: Path, change: dict[str, object], error: type[LlmedgeError], match: str
):
    layer = make("pack", "group", bits=4)
    layer.config.update(change)
    with (
        store(tmp_path / "checkpoint", layer.tensors) as source,
        pytest.raises(error, match=match),
    ):
        unpack_compressed_tensors(Ledger(source), layer.config)


@pytest.mark.parametrize(
    ("name", "stored", "error"),
    [
        ("x.weight_scale", None, IntegrityError),
        ("x.weight_scale", np.ones((N_OUT, 4), np.float16), IntegrityError),
        ("x.weight_scale", np.ones((N_OUT, 5), np.int8), UnsupportedError),
        ("x.weight_shape", None, IntegrityError),
        ("x.weight_shape", np.array([N_OUT, 0]), IntegrityError),
        ("x.weight_shape", np.array([-1, N_IN]), IntegrityError),
        ("x.weight_shape", np.array([2**62, 2**62]), IntegrityError),
        ("x.weight_shape", np.array([N_OUT]), IntegrityError),
        ("x.weight_packed", np.zeros((N_OUT, 9), np.int32), IntegrityError),
        ("x.weight_packed", np.zeros((2, N_OUT, 10), np.int32), UnsupportedError),
        ("x.weight_zero_point", np.zeros((2, 5), np.int32), IntegrityError),
        ("x.weight_zero_point", np.zeros((3, 5), np.int8), UnsupportedError),
        ("x.weight_g_idx", np.zeros(N_IN - 1, np.int32), IntegrityError),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(
    tmp_path: Path, name: str, stored: np.ndarray | None, error: type[LlmedgeError]
):
    layer = make("pack", "group", bits=4, is_symmetric=False)
    layer.tensors.pop(name, None)
    if stored is not None:
        layer.tensors[name] = stored
    with pytest.raises(error, match=r"x\.weight"):
        unpacked(tmp_path, layer)


def test_scales_of_a_weight_that_is_not_packed_are_refused(tmp_path: Path):
    layer = make("int", "channel")
    layer.tensors["x.weight"] = layer.expected
    with pytest.raises(UnsupportedError, match=r"x\.weight is F32, not I8 or F8_E4M3"):
        unpacked(tmp_path, layer)
