import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.convert.packed import unpack
from llmedge.convert.packed_bitsandbytes import unpack_bitsandbytes
from llmedge.convert.packed_parts import Ledger
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from llmedge.store.checkpoint import FolderCheckpoint
from tests.convert.stored import Stored, in_ranges, store, whole

CONFIG: dict[str, object] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
SHAPE, BLOCK, NESTED_BLOCK = (21, 13), 32, 4
N = SHAPE[0] * SHAPE[1]
N_BLOCKS = -(-N // BLOCK)
STATE = "x.weight.quant_state.bitsandbytes__nf4"
# Written by bitsandbytes 0.50.2 on a CPU: quantize_4bit(torch.randn(13, 7), blocksize=64), nf4 with
# double quantization and fp4 without, int8_vectorwise_quant(torch.randn(5, 7).half()), what
# QuantState.as_dict(packed=True) makes of them, and what its own dequantize functions give back.
GOLDEN = Path(__file__).parent / "data"


def state(**change: object) -> np.ndarray:
    values: dict[str, object] = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": "bfloat16",
        "shape": list(SHAPE),
        **change,
    }
    return np.frombuffer(json.dumps(values).encode(), np.uint8)


def make(*, is_nested: bool = True) -> tuple[dict[str, Stored], np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, N + 1)
    quant_map = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
    tensors: dict[str, Stored] = {
        "x.weight": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)[:, None],
        "x.weight.quant_map": quant_map,
    }
    if is_nested:
        nested_map = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
        nested = rng.uniform(0.5, 2, -(-N_BLOCKS // NESTED_BLOCK)).astype(np.float32)
        coded = rng.integers(0, 256, N_BLOCKS).astype(np.uint8)
        scales = np.zeros(N_BLOCKS, np.float32)
        for block in range(N_BLOCKS):
            scale = nested_map[coded[block]] * nested[block // NESTED_BLOCK]
            scales[block] = scale + np.float32(0.25)
        tensors["x.weight.absmax"] = coded
        tensors["x.weight.nested_absmax"] = nested
        tensors["x.weight.nested_quant_map"] = nested_map
        tensors[STATE] = state(nested_blocksize=NESTED_BLOCK, nested_offset=0.25)
    else:
        scales = rng.uniform(0.5, 2, N_BLOCKS).astype(np.float32)
        tensors["x.weight.absmax"] = scales
        tensors[STATE] = state()
    weights = np.zeros(N, np.float32)
    for place in range(N):
        weights[place] = quant_map[codes[place]] * scales[place // BLOCK]
    return tensors, weights.reshape(SHAPE)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_weights_are_what_bitsandbytes_makes_of_its_own(kind: str):
    with FolderCheckpoint(GOLDEN) as source:
        ledger = Ledger(source)
        unpack_bitsandbytes(ledger, CONFIG)
        assert set(ledger.rows) == {"nf4.weight", "fp4.weight", "int8.weight"}
        expected = ledger.take(f"expected.{kind}", ("F32",)).all_floats()
        assert np.array_equal(whole(ledger.rows[f"{kind}.weight"]), expected)


@pytest.mark.parametrize("is_nested", [False, True])
def test_weights_are_what_the_format_defines(tmp_path: Path, is_nested: bool):
    tensors, expected = make(is_nested=is_nested)
    with store(tmp_path / "checkpoint", tensors) as source:
        rows = unpack(source, CONFIG)
        assert list(rows) == ["x.weight"]
        assert np.array_equal(whole(rows["x.weight"]), expected)
        assert rows["x.weight"].whole_bytes == 4 * N_BLOCKS


@pytest.fixture(scope="module", params=["U8", "BF16"])
def layer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rows, np.ndarray]]:
    tensors, expected = make()
    if request.param == "BF16":
        packed = tensors["x.weight"]
        assert isinstance(packed, np.ndarray)
        padded = np.append(packed.reshape(-1), np.zeros(1, np.uint8))
        tensors["x.weight"] = ("BF16", padded.view(np.uint16)[:, None])
    with store(tmp_path_factory.mktemp("bnb") / "checkpoint", tensors) as source:
        yield unpack(source, CONFIG)["x.weight"], expected


@given(cuts=st.lists(st.integers(0, SHAPE[0])))
def test_ranges_that_begin_inside_blocks_and_bytes_are_the_whole(
    layer: tuple[Rows, np.ndarray], cuts: list[int]
):
    rows, expected = layer
    assert np.array_equal(in_ranges(rows, cuts), expected)


def test_eight_bits_are_shares_of_the_greatest_magnitude_of_a_row(tmp_path: Path):
    weight = np.array([[127, -127, 0], [64, 1, -1]], np.int8)
    tensors: dict[str, Stored] = {"x.weight": weight, "x.SCB": np.array([2, 254], np.float32)}
    with store(tmp_path / "checkpoint", tensors) as source:
        rows = unpack(source, CONFIG)["x.weight"]
        assert whole(rows) == pytest.approx(np.array([[2, -2, 0], [128, 2, -2]]))
        assert rows.read(1, 2) == pytest.approx(np.array([[128, 2, -2]]))


@pytest.mark.parametrize(
    ("name", "stored", "error"),
    [
        ("x.SCB", np.ones(3, np.float32), IntegrityError),
        ("x.SCB", np.ones((2, 1), np.float32), UnsupportedError),
        ("x.weight", np.ones((2, 3), np.uint8), UnsupportedError),
        ("x.weight_format", np.array(2, np.uint8), UnsupportedError),
        ("x.weight_format", np.array([0], np.uint8), UnsupportedError),
    ],
)
def test_eight_bit_parts_that_do_not_fit_are_named(
    tmp_path: Path, name: str, stored: np.ndarray, error: type[LlmedgeError]
):
    tensors: dict[str, Stored] = {
        "x.weight": np.ones((2, 3), np.int8),
        "x.SCB": np.ones(2, np.float32),
        "x.weight_format": np.array(0, np.uint8),
        name: stored,
    }
    with store(tmp_path / "checkpoint", tensors) as source, pytest.raises(error, match=name):
        unpack(source, CONFIG)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 4000,
        b" " * 5000,
        state(shape=None).tobytes(),
        state(shape=[]).tobytes(),
        state(shape=[21, -13]).tobytes(),
        state(shape=[21, 0]).tobytes(),
        state(shape=[21, 13.0]).tobytes(),
        state(shape=[21, True]).tobytes(),
        state(shape=[1 << 70]).tobytes(),
        state(shape=[21, 14]).tobytes(),
        state(blocksize=0).tobytes(),
        state(blocksize="64").tobytes(),
        state(blocksize=64).tobytes(),
        state(nested_blocksize=0, nested_offset=0.25).tobytes(),
        state(nested_blocksize=2, nested_offset=0.25).tobytes(),
        state(nested_blocksize=4, nested_offset=float("nan")).tobytes(),
        state(nested_blocksize=4, nested_offset="0").tobytes(),
    ],
    ids=range(20),
)
def test_a_state_that_cannot_be_meant_is_an_integrity_error(tmp_path: Path, raw: bytes):
    tensors, _ = make()
    tensors[STATE] = np.frombuffer(raw, np.uint8)
    with (
        store(tmp_path / "checkpoint", tensors) as source,
        pytest.raises(IntegrityError, match=r"x\.weight"),
    ):
        unpack(source, CONFIG)


@pytest.mark.parametrize(
    "name",
    ["x.weight", "x.weight.absmax", "x.weight.quant_map", "x.weight.nested_quant_map"],
)
def test_a_missing_or_shorter_part_is_named(tmp_path: Path, name: str):
    tensors, _ = make()
    stored = tensors.pop(name)
    assert isinstance(stored, np.ndarray)
    with (
        store(tmp_path / "missing", tensors) as source,
        pytest.raises(IntegrityError, match=f"{name} is missing"),
    ):
        unpack(source, CONFIG)
    tensors[name] = stored[:-1]
    with (
        store(tmp_path / "shorter", tensors) as source,
        pytest.raises(IntegrityError, match=f"{name} has"),
    ):
        unpack(source, CONFIG)


def test_four_bits_without_a_state_are_not_guessed(tmp_path: Path):
    tensors, _ = make()
    del tensors[STATE]
    with (
        store(tmp_path / "checkpoint", tensors) as source,
        pytest.raises(UnsupportedError, match=r"x\.weight"),
    ):
        unpack(source, CONFIG)
