from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.convert.packed import unpack
from llmedge.convert.packed_columns import Columns, column_rows
from llmedge.convert.packed_gptq import unpack_gptq
from llmedge.convert.packed_parts import Latest, Ledger, Part
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from llmedge.store.checkpoint import TensorEntry
from tests.convert.stored import Stored, bfloat16, store, whole

ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack each row of codes into words, a code at a time."""
    per_word = 32 // bits
    words = np.zeros((codes.shape[0], -(-codes.shape[1] // per_word)), np.uint32)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            shift = bits * (column % per_word)
            words[row, column // per_word] |= np.uint32(int(codes[row, column]) << shift)
    return words


@dataclass
class Layer:
    tensors: dict[str, Stored]
    config: dict[str, object]
    expected: np.ndarray


def make(
    *,
    bits: int = 4,
    n_in: int = 72,
    n_out: int = 21,
    group: int = 32,
    desc_act: bool = False,
    version: str = "gptq",
    lowest_zero: int = 1,
) -> Layer:
    rng = np.random.default_rng(bits + n_in)
    size = n_in if group == -1 else group
    n_groups = -(-n_in // size)
    codes = rng.integers(0, 2**bits, (n_in, n_out))
    zeros = rng.integers(lowest_zero, 2**bits, (n_groups, n_out))
    scales = rng.uniform(0.01, 0.1, (n_groups, n_out)).astype(np.float16)
    groups = np.arange(n_in) // size
    if desc_act:
        groups = rng.permutation(groups)
    expected = np.zeros((n_out, n_in), np.float32)
    for i in range(n_in):
        for o in range(n_out):
            difference = int(codes[i, o]) - int(zeros[groups[i], o])
            expected[o, i] = difference * float(scales[groups[i], o])
    words = pack(zeros, bits)
    if version == "gptq":
        words -= np.uint32(ONES[bits])
    return Layer(
        {
            "x.qweight": pack(codes.T, bits).T.copy().view(np.int32),
            "x.qzeros": words.view(np.int32),
            "x.scales": scales,
            "x.g_idx": groups.astype(np.int32),
            "x.bias": np.ones(n_out, np.float16),
        },
        {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group,
            "desc_act": desc_act,
            "checkpoint_format": version,
        },
        expected,
    )


def unpacked(folder: Path, layer: Layer) -> np.ndarray:
    with store(folder / "checkpoint", layer.tensors) as source:
        rows = unpack(source, layer.config)
        assert set(rows) == {"x.weight", "x.bias"}
        assert rows["x.weight"].shape == layer.expected.shape
        return whole(rows["x.weight"])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_weights_are_what_the_format_defines(
    tmp_path: Path, bits: int, desc_act: bool, version: str
):
    layer = make(bits=bits, desc_act=desc_act, version=version)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


def test_one_group_for_all_inputs_is_a_group_size_of_minus_one(tmp_path: Path):
    layer = make(group=-1)
    assert layer.tensors["x.scales"].shape == (1, 21)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


def test_a_zero_point_of_zero_survives_the_borrow_of_the_first_format(tmp_path: Path):
    layer = make(n_in=64, n_out=64, lowest_zero=0)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


def test_inputs_that_do_not_fill_the_last_word_are_cut(tmp_path: Path):
    layer = make(n_in=67)
    assert layer.tensors["x.qweight"].shape == (9, 21)
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


def test_without_activation_order_the_groups_need_not_be_stored(tmp_path: Path):
    layer = make()
    del layer.tensors["x.g_idx"]
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


def test_scales_may_be_bfloat16(tmp_path: Path):
    layer = make()
    layer.tensors["x.scales"] = np.full((3, 21), 0.375, np.float32)
    expected = unpacked(tmp_path / "float32", layer)
    layer.tensors["x.scales"] = bfloat16(np.full((3, 21), 0.375))
    assert np.array_equal(unpacked(tmp_path / "bfloat16", layer), expected)


@pytest.fixture(scope="module")
def layer_rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rows, np.ndarray]]:
    layer = make(desc_act=True)
    with store(tmp_path_factory.mktemp("gptq") / "checkpoint", layer.tensors) as source:
        yield unpack(source, layer.config)["x.weight"], layer.expected


@given(ranges=st.lists(st.tuples(st.integers(0, 21), st.integers(0, 21)), max_size=6))
def test_any_range_in_any_order_is_the_same_part_of_the_whole(
    layer_rows: tuple[Rows, np.ndarray], ranges: list[tuple[int, int]]
):
    rows, expected = layer_rows
    for one, other in ranges:
        start, stop = min(one, other), max(one, other)
        assert np.array_equal(rows.read(start, stop), expected[start:stop])


def test_only_the_packed_words_are_held_and_read_once_for_all_ranges(tmp_path: Path):
    layer = make()
    with store(tmp_path / "checkpoint", layer.tensors) as source:
        rows = unpack(source, layer.config)["x.weight"]
        assert rows.whole_bytes == layer.tensors["x.qweight"].nbytes  # type: ignore[union-attr]
        reads: list[str] = []
        read_rows = source.read_rows
        source.read_rows = lambda name, start, stop: (  # type: ignore[method-assign]
            reads.append(name) or read_rows(name, start, stop)
        )
        for start in range(21):
            rows.read(start, start + 1)
        assert reads.count("x.qweight") == 1
        rows.read(0, 1)
        assert reads.count("x.qweight") == 2


def test_a_column_of_words_is_decoded_with_the_scale_and_zero_of_its_group():
    part = Part(None, "x", TensorEntry("I32", (1, 2)))  # type: ignore[arg-type]
    held = Columns(
        np.array([[0x21, 0x43]], np.uint32),
        np.array([[1, 2]], np.uint8),
        np.array([[10, 100]], np.float32),
        np.zeros(2, np.int64),
    )
    rows = column_rows(
        part,
        (2, 2),
        lambda: held,
        lambda words, start, stop: np.stack([words[0] & 15, words[0] >> 4]).T[start:stop],
        Latest(),
    )
    assert rows.read(0, 2).tolist() == [[0, 10], [100, 200]]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"bits": 3}, UnsupportedError, "bits is 3; supported: 2, 4, 8"),
        ({"bits": None}, IntegrityError, "bits"),
        ({"bits": True}, IntegrityError, "bits"),
        ({"group_size": 0}, IntegrityError, "group_size is 0"),
        ({"group_size": -7}, IntegrityError, "group_size is -7"),
        ({"group_size": "128"}, IntegrityError, "group_size"),
        ({"group_size": 16}, IntegrityError, "qzeros"),
        ({"checkpoint_format": "marlin"}, UnsupportedError, "'marlin'; supported: gptq, gptq_v2"),
        ({"checkpoint_format": 2}, IntegrityError, "checkpoint_format"),
        ({"is_marlin_format": True}, UnsupportedError, "is_marlin_format"),
        ({"pack_dtype": "int16"}, UnsupportedError, "pack_dtype"),
        ({"dynamic": {"+:.*down.*": {"bits": 8}}}, UnsupportedError, "down"),
        ({"dynamic": [1]}, IntegrityError, "dynamic"),
        ({"bits": 8}, IntegrityError, "x.g_idx is for 72 inputs"),
    ],
)
def test_settings_that_are_not_read_are_named(
    tmp_path: Path, change: dict[str, object], error: type[LlmedgeError], match: str
):
    layer = make()
    layer.config.update(change)
    with (
        store(tmp_path / "checkpoint", layer.tensors) as source,
        pytest.raises(error, match=match),
    ):
        unpack_gptq(Ledger(source), layer.config)


def test_rules_that_leave_layers_out_are_no_settings_of_their_own(tmp_path: Path):
    layer = make()
    layer.config["dynamic"] = {"-:.*down.*": {"bits": 8}, "lm_head": {}}
    assert np.array_equal(unpacked(tmp_path, layer), layer.expected)


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_a_missing_part_is_named(tmp_path: Path, part: str):
    layer = make()
    del layer.tensors[f"x.{part}"]
    with pytest.raises(IntegrityError, match=f"x.{part} is missing"):
        unpacked(tmp_path, layer)


def test_activation_order_needs_its_groups(tmp_path: Path):
    layer = make(desc_act=True)
    del layer.tensors["x.g_idx"]
    with pytest.raises(IntegrityError, match=r"x\.g_idx is missing"):
        unpacked(tmp_path, layer)


@pytest.mark.parametrize("group", [-1, 3, 2**31 - 1])
def test_a_group_that_is_not_there_is_found_before_it_is_looked_up(tmp_path: Path, group: int):
    layer = make()
    layer.tensors["x.g_idx"][5] = group  # type: ignore[index]
    with pytest.raises(IntegrityError, match=r"x\.g_idx names group"):
        unpacked(tmp_path, layer)


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("qweight", (9,)),
        ("qweight", (8, 21)),
        ("qweight", (0, 21)),
        ("qzeros", (3, 2)),
        ("qzeros", (2, 3)),
        ("scales", (3, 20)),
        ("scales", (1, 21)),
        ("g_idx", (71, 1)),
        ("g_idx", (8,)),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(
    tmp_path: Path, part: str, shape: tuple[int, ...]
):
    layer = make()
    stored = layer.tensors[f"x.{part}"]
    assert isinstance(stored, np.ndarray)
    layer.tensors[f"x.{part}"] = np.zeros(shape, stored.dtype)
    with pytest.raises((IntegrityError, UnsupportedError), match=r"x\."):
        unpacked(tmp_path, layer)


def test_a_weight_that_is_there_twice_is_refused(tmp_path: Path):
    layer = make()
    layer.tensors["x.weight"] = layer.expected
    with pytest.raises(IntegrityError, match=r"x\.weight is in the checkpoint packed and unpacked"):
        unpacked(tmp_path, layer)
