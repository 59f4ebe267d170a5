import ctypes
from pathlib import Path

import gguf
import pytest

from llmedge.gguf.quant_types import BY_ID, BY_NAME, F16, F32
from llmedge.runtime.library import library


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    lib = library()

    folder = Path(lib.__file__).parent / "lib"
    found = sorted(folder.glob("*ggml-base*"), key=lambda path: len(path.name))
    ggml = ctypes.CDLL(str(found[0]))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    return ggml


def test_the_table_is_llama_cpps_own(ggml: ctypes.CDLL):
    for quant_type in BY_ID.values():
        assert ggml.ggml_blck_size(quant_type.id) == quant_type.block_weights, quant_type.name
        assert ggml.ggml_type_size(quant_type.id) == quant_type.block_bytes, quant_type.name
        assert ggml.ggml_type_name(quant_type.id).decode().upper() == quant_type.name


def test_the_table_has_every_type_that_llama_cpp_has(ggml: ctypes.CDLL):
    n_types = library().GGML_TYPE_COUNT
    alive = {number for number in range(n_types) if ggml.ggml_blck_size(number)}
    assert alive == set(BY_ID)


def test_the_table_agrees_with_the_package_gguf():
    for kind, (block_weights, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        # Q8_1 and Q8_K live between two kernels and never in a file.
        if int(kind) in BY_ID and kind.name not in ("Q8_1", "Q8_K"):
            quant_type = BY_ID[int(kind)]
            assert (quant_type.block_weights, quant_type.block_bytes) == (
                block_weights,
                block_bytes,
            )
            assert quant_type.name == kind.name


def test_sizes_follow_from_the_blocks():
    assert BY_NAME["Q4_K"].bits_per_weight == 4.5
    assert BY_NAME["Q4_0"].row_bytes(64) == 36
    assert (F16.row_bytes(3), F32.row_bytes(3)) == (6, 12)
