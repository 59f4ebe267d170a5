from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError
from llmedge.runtime.imatrix_argument import imatrix_argument
from llmedge.runtime.library import library
from tests.gguf.imatrix_files import write_imatrix


def test_the_weights_stay_alive_and_the_array_ends_in_an_empty_entry(tmp_path: Path):
    path = write_imatrix(tmp_path / "i.gguf", {"output.weight": ([[2.0, 4.0]], [2.0])})
    array = imatrix_argument(library(), path)
    assert [entry.name for entry in array] == [b"output.weight", None]
    assert array[0].data[: array[0].size] == [1.0, 2.0]


def test_any_matrix_stands_for_one_that_is_not_there_yet(tmp_path: Path):
    assert [entry.name for entry in imatrix_argument(library(), None)] == [b"any", None]
    with pytest.raises(NotFoundError):
        imatrix_argument(library(), tmp_path / "none.gguf")
