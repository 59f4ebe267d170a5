from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.convert.packed import unpack
from llmedge.convert.packed_fp8 import unpack_fp8
from llmedge.convert.packed_parts import E4M3, Ledger
from llmedge.convert.packed_scaled import Grid
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from tests.convert.stored import Stored, bfloat16, in_ranges, store, whole

TILED: dict[str, object] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
WHOLE: dict[str, object] = {"quant_method": "fp8", "weight_block_size": None}


def numbers(*shape: int) -> np.ndarray:
    """Codes of E4M3 numbers, none of them NaN."""
    return np.random.default_rng(0).integers(0, 127, shape).astype(np.uint8)


def make() -> tuple[dict[str, Stored], np.ndarray]:
    codes = numbers(300, 257)
    scales = np.random.default_rng(1).uniform(0.5, 2, (3, 3)).astype(np.float32)
    expected = np.zeros(codes.shape, np.float32)
    for row in range(300):
        for column in range(257):
            expected[row, column] = E4M3[codes[row, column]] * scales[row // 128, column // 128]
    tensors: dict[str, Stored] = {
        "x.weight": ("F8_E4M3", codes),
        "x.weight_scale_inv": scales,
        "x.activation_scale": np.float32(1),
        "norm.weight": np.ones(4, np.float32),
    }
    return tensors, expected


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rows, np.ndarray]]:
    tensors, expected = make()
    with store(tmp_path_factory.mktemp("fp8") / "checkpoint", tensors) as source:
        rows = unpack(source, TILED)
        assert set(rows) == {"x.weight", "norm.weight"}
        yield rows["x.weight"], expected


@given(cuts=st.lists(st.integers(0, 300)))
def test_ranges_of_a_weight_that_ends_inside_a_tile_are_the_whole(
    layer: tuple[Rows, np.ndarray], cuts: list[int]
):
    rows, expected = layer
    assert np.array_equal(in_ranges(rows, cuts), expected)
    assert rows.whole_bytes == 0


@pytest.mark.parametrize("shape", [(256, 384), (128, 128)])
def test_tiles_are_scaled_as_transformers_scales_them(tmp_path: Path, shape: tuple[int, int]):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("transformers.integrations.finegrained_fp8")
    codes, n_tiles = numbers(*shape), (shape[0] // 128, shape[1] // 128)
    scales = np.random.default_rng(1).uniform(0.5, 2, n_tiles).astype(np.float32)
    tensors: dict[str, Stored] = {
        "x.weight": ("F8_E4M3", codes),
        "x.weight_scale_inv": scales,
    }
    expected = reference.Fp8Dequantize(None)._dequantize_one(
        torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scales), torch.float32
    )
    with store(tmp_path / "checkpoint", tensors) as source:
        assert np.array_equal(whole(unpack(source, TILED)["x.weight"]), expected.numpy())


@pytest.mark.parametrize(
    "scale",
    [np.float32(0.375), np.array([0.375], np.float32), bfloat16(np.array([[0.375]]))],
    ids=["scalar", "vector", "matrix"],
)
@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
def test_one_scale_for_a_tensor_may_have_any_number_of_axes(
    tmp_path: Path, scale: Stored, suffix: str
):
    codes = numbers(5, 7)
    tensors = {"x.weight": ("F8_E4M3", codes), f"x.weight{suffix}": scale}
    with store(tmp_path / "checkpoint", tensors) as source:
        result = whole(unpack(source, WHOLE)["x.weight"])
    assert np.array_equal(result, E4M3[codes] * np.float32(0.375))


def test_exponents_serve_as_scales(tmp_path: Path):
    codes = numbers(128, 256)
    exponents = np.array([[126, 129]], np.uint8)
    tensors: dict[str, Stored] = {
        "x.weight": ("F8_E4M3", codes),
        "x.weight_scale_inv": ("F8_E8M0", exponents),
    }
    expected = E4M3[codes] * np.repeat(np.array([0.5, 4], np.float32), 128)
    with store(tmp_path / "checkpoint", tensors) as source:
        assert np.array_equal(whole(unpack(source, TILED)["x.weight"]), expected)


def test_a_grid_counts_the_blocks_at_the_edges():
    grid = Grid((300, 257), (128, 128))
    assert grid.shape == (3, 3)
    assert grid.fits((3, 3))
    assert not grid.fits((2, 2))
    assert not grid.fits((3,))
    assert Grid((5, 7), (1, 7)).fits((5,))
    assert Grid((5, 7), (5, 7)).fits(())


@pytest.mark.parametrize(
    ("name", "change", "error", "match"),
    [
        ("x.weight_scale_inv", None, IntegrityError, r"x\.weight_scale_inv is missing"),
        ("x.weight_scale_inv", np.ones((2, 2), np.float32), IntegrityError, r"\[2, 2\]"),
        ("x.weight_scale_inv", np.float32(1), IntegrityError, r"blocks of \[128, 128\]"),
        ("x.weight_scale_inv", np.ones((3, 3), np.int32), UnsupportedError, "is I32"),
        ("x.weight", ("F8_E4M3", numbers(2, 300, 257)), UnsupportedError, "this layout has 2 axes"),
        ("x.weight", ("F8_E5M2", numbers(300, 257)), UnsupportedError, "belongs to a packed"),
        ("x.weight", numbers(300, 257).view(np.int8), UnsupportedError, "belongs to a packed"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(
    tmp_path: Path, name: str, change: Stored | None, error: type[LlmedgeError], match: str
):
    tensors, _ = make()
    del tensors["norm.weight"]
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change
        tensors = dict(sorted(tensors.items(), reverse=True))
    with store(tmp_path / "checkpoint", tensors) as source, pytest.raises(error, match=match):
        unpack(source, TILED)


@pytest.mark.parametrize("size", [[128], [0, 128], "128", [128, 128, 1], [128, None], 128])
def test_a_tile_has_two_sizes(tmp_path: Path, size: object):
    with (
        store(tmp_path / "checkpoint", make()[0]) as source,
        pytest.raises(IntegrityError, match="weight_block_size"),
    ):
        unpack_fp8(Ledger(source), {**TILED, "weight_block_size": size})


def test_other_kinds_of_fp8_are_refused(tmp_path: Path):
    with (
        store(tmp_path / "checkpoint", make()[0]) as source,
        pytest.raises(UnsupportedError, match="'e5m2'; supported: e4m3"),
    ):
        unpack(source, {**TILED, "fmt": "e5m2"})
