from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from llmedge.convert.edits import pair_halves, regroup
from llmedge.convert.rows import (
    Rows,
    apply,
    concatenate,
    constant,
    cut,
    gather,
    reshape,
    source_rows,
    squeeze,
    stack,
    transpose,
)
from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.store.checkpoint import FolderCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float32]


def rows_of(array: Array) -> Rows:
    matrix = array.reshape(-1, array.shape[-1])
    return Rows(array.shape, lambda start, stop: matrix[start:stop])


def whole(rows: Rows) -> Array:
    return rows.read(0, rows.n_rows).reshape(rows.shape)


def numbered(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


INTERLEAVE = pair_halves(12, 3)
EDITS: dict[str, tuple[Callable[[], Rows], Array]] = {
    "gather": (lambda: gather(rows_of(numbered(12, 5)), INTERLEAVE), numbered(12, 5)[INTERLEAVE]),
    "gather far": (
        lambda: gather(rows_of(numbered(40, 3)), np.array([39, 0, 1, 20, 21, 5])),
        numbered(40, 3)[[39, 0, 1, 20, 21, 5]],
    ),
    "gather a vector": (
        lambda: gather(rows_of(numbered(6)), np.array([3, 1])),
        numbered(6)[[3, 1]],
    ),
    "cut": (lambda: cut(rows_of(numbered(9, 4)), 2, 7), numbered(9, 4)[2:7]),
    "cut each": (lambda: cut(rows_of(numbered(3, 8, 4)), 4, 8), numbered(3, 8, 4)[:, 4:8]),
    "cut a vector": (lambda: cut(rows_of(numbered(9)), 2, 7), numbered(9)[2:7]),
    "stack": (
        lambda: stack([rows_of(numbered(4, 3) + n) for n in range(3)]),
        np.stack([numbered(4, 3) + n for n in range(3)]),
    ),
    "concatenate": (
        lambda: concatenate([rows_of(numbered(n, 3)) for n in (1, 4, 2)]),
        np.concatenate([numbered(n, 3) for n in (1, 4, 2)]),
    ),
    "transpose": (lambda: transpose(rows_of(numbered(5, 7))), numbered(5, 7).T),
    "transpose each": (
        lambda: transpose(rows_of(numbered(3, 5, 7))),
        numbered(3, 5, 7).swapaxes(1, 2),
    ),
    "apply": (lambda: apply(rows_of(numbered(5, 3)), lambda x: x + 1), numbered(5, 3) + 1),
    "squeeze": (lambda: squeeze(rows_of(numbered(6, 1, 4))), numbered(6, 4)),
    "reshape": (lambda: reshape(rows_of(numbered(6, 4)), (3, 8)), numbered(3, 8)),
    "reshape narrow": (lambda: reshape(rows_of(numbered(3, 8)), (12, 2)), numbered(12, 2)),
    "constant": (lambda: constant([1.0, 2.0]), np.array([1, 2], np.float32)),
    "regroup": (
        lambda: regroup(lambda _: 2, 3)(rows_of(numbered(12, 2)), None),  # type: ignore[arg-type]
        numbered(2, 3, 2, 2).swapaxes(0, 1).reshape(12, 2),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_what_numpy_does(name: str):
    make, expected = EDITS[name]
    rows = make()
    assert rows.shape == expected.shape
    np.testing.assert_array_equal(whole(rows), expected)


@pytest.mark.parametrize("name", EDITS)
@given(cuts=st.lists(st.integers(0, 100), max_size=6))
@settings(max_examples=20, deadline=None)
def test_any_ranges_of_rows_make_the_same_tensor(name: str, cuts: list[int]):
    rows = EDITS[name][0]()
    stops = sorted({0, rows.n_rows, *(cut for cut in cuts if cut < rows.n_rows)})
    parts = [rows.read(start, stop) for start, stop in itertools.pairwise(stops)]
    np.testing.assert_array_equal(np.concatenate(parts).reshape(rows.shape), EDITS[name][1])


def test_every_plain_type_is_read_as_the_floats_it_holds(tmp_path: Path):
    values = torch.tensor([[0.0, -1.5, 3.0e-5, 65000.0, float("inf")]])
    types = {
        "f32": torch.float32,
        "f16": torch.float16,
        "bf16": torch.bfloat16,
        "f64": torch.double,
    }
    save_file({n: values.to(kind) for n, kind in types.items()}, tmp_path / "model.safetensors")
    with FolderCheckpoint(tmp_path) as source:
        for name, kind in types.items():
            expected = values.to(kind).float().numpy()
            np.testing.assert_array_equal(whole(source_rows(source, name)), expected)


def test_integers_are_no_weights(tmp_path: Path):
    save_file({"a": torch.ones(2, dtype=torch.int32)}, tmp_path / "model.safetensors")
    with FolderCheckpoint(tmp_path) as source, pytest.raises(UnsupportedError, match="I32"):
        source_rows(source, "a")


@pytest.mark.parametrize(
    "make",
    [
        lambda: cut(rows_of(numbered(3, 4)), 2, 5),
        lambda: stack([rows_of(numbered(3, 4)), rows_of(numbered(4, 4))]),
        lambda: concatenate([rows_of(numbered(3, 4)), rows_of(numbered(3, 5))]),
        lambda: reshape(rows_of(numbered(3, 4)), (5, 2)),
    ],
)
def test_an_edit_that_cannot_fit_is_refused(make: Callable[[], Rows]):
    with pytest.raises(IntegrityError):
        make()


def test_a_matrix_is_never_read_whole_to_be_transposed():
    widest = 0

    def read(start: int, stop: int) -> Array:
        nonlocal widest
        widest = max(widest, stop - start)
        return np.zeros((stop - start, 4096), np.float32)

    rows = transpose(Rows((4096, 4096), read))
    assert rows.read(100, 110).shape == (10, 4096)
    assert widest <= 128
