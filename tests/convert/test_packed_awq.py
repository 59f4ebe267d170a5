from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.convert.packed import unpack
from llmedge.convert.packed_awq import unpack_awq
from llmedge.convert.packed_parts import Ledger
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from tests.convert.stored import Stored, in_ranges, store, whole

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
CONFIG: dict[str, object] = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 16,
    "version": "gemm",
    "zero_point": True,
}


def pack(codes: np.ndarray) -> np.ndarray:
    """Pack eight columns into a word as AutoAWQ does, a code at a time."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for row in range(codes.shape[0]):
        for word in range(words.shape[1]):
            for place in range(8):
                code = int(codes[row, 8 * word + ORDER[place]])
                words[row, word] |= np.uint32(code << (4 * place))
    return words.view(np.int32)


def make(
    *, n_in: int = 48, n_out: int = 24, group: int = 16
) -> tuple[dict[str, Stored], np.ndarray]:
    rng = np.random.default_rng(n_out)
    size = n_in if group == -1 else group
    codes = rng.integers(0, 16, (n_in, n_out))
    zeros = rng.integers(0, 16, (n_in // size, n_out))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    expected = np.zeros((n_out, n_in), np.float32)
    for i in range(n_in):
        for o in range(n_out):
            difference = int(codes[i, o]) - int(zeros[i // size, o])
            expected[o, i] = difference * float(scales[i // size, o])
    tensors = {"x.qweight": pack(codes), "x.qzeros": pack(zeros), "x.scales": scales}
    return tensors, expected


@pytest.mark.parametrize("group", [16, 48, -1])
def test_weights_are_what_the_format_defines(tmp_path: Path, group: int):
    tensors, expected = make(group=group)
    with store(tmp_path / "checkpoint", tensors) as source:
        rows = unpack(source, {**CONFIG, "group_size": group})
        assert list(rows) == ["x.weight"]
        assert np.array_equal(whole(rows["x.weight"]), expected)
        assert rows["x.weight"].whole_bytes == 48 * 24 // 2


def test_the_older_spellings_of_the_settings_are_read(tmp_path: Path):
    tensors, expected = make()
    config = {"quant_method": "awq", "w_bit": 4, "q_group_size": 16, "version": "GEMM"}
    with store(tmp_path / "checkpoint", tensors) as source:
        assert np.array_equal(whole(unpack(source, config)["x.weight"]), expected)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rows, np.ndarray]]:
    tensors, expected = make()
    with store(tmp_path_factory.mktemp("awq") / "checkpoint", tensors) as source:
        yield unpack(source, CONFIG)["x.weight"], expected


@given(cuts=st.lists(st.integers(0, 24)))
def test_ranges_put_together_are_the_whole(layer: tuple[Rows, np.ndarray], cuts: list[int]):
    rows, expected = layer
    assert np.array_equal(in_ranges(rows, cuts), expected)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"bits": 8}, UnsupportedError, "bits is 8; supported: 4"),
        ({"version": "gemv"}, UnsupportedError, "'gemv'; supported: gemm"),
        ({"group_size": 0}, IntegrityError, "group_size is 0"),
        ({"group_size": 32}, IntegrityError, "x.qzeros"),
        ({"dynamic": {"lm_head": {"bits": 8}}}, UnsupportedError, "lm_head"),
    ],
)
def test_settings_that_are_not_read_are_named(
    tmp_path: Path, change: dict[str, object], error: type[LlmedgeError], match: str
):
    with (
        store(tmp_path / "checkpoint", make()[0]) as source,
        pytest.raises(error, match=match),
    ):
        unpack_awq(Ledger(source), {**CONFIG, **change})


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_a_missing_or_misshapen_part_is_named(tmp_path: Path, part: str):
    tensors, _ = make()
    stored = tensors.pop(f"x.{part}")
    assert isinstance(stored, np.ndarray)
    with (
        store(tmp_path / "missing", tensors) as source,
        pytest.raises(IntegrityError, match=f"x.{part} is missing"),
    ):
        unpack(source, CONFIG)
    tensors[f"x.{part}"] = stored[:, :-1].copy()
    with (
        store(tmp_path / "misshapen", tensors) as source,
        pytest.raises(IntegrityError, match=f"x.{part} has the shape"),
    ):
        unpack(source, CONFIG)


def test_a_layout_by_another_name_is_not_taken_for_this_one(tmp_path: Path):
    tensors, _ = make()
    tensors["x.qweight"] = np.zeros((48, 3), np.int16)
    with (
        store(tmp_path / "checkpoint", tensors) as source,
        pytest.raises(UnsupportedError, match=r"x\.qweight is I16"),
    ):
        unpack(source, CONFIG)
