from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest

from llmedge.core.errors import IntegrityError
from llmedge.gguf.quant_types import BY_NAME, WRITTEN
from llmedge.runtime.row_quantizer import quantize_rows

ROWS = np.random.default_rng(0).standard_normal((8, 512), np.float32)
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4")


@pytest.mark.parametrize("name", TYPES)
def test_rows_come_back_as_close_as_the_type_allows(name: str):
    quant_type = BY_NAME[name]
    data = quantize_rows(quant_type, ROWS)
    assert data.size == 8 * quant_type.row_bytes(512)
    back = gguf.quants.dequantize(
        data.reshape(8, -1), gguf.GGMLQuantizationType[quant_type.name]
    ).reshape(8, 512)
    bits = quant_type.bits_per_weight
    error = float(np.sqrt(np.mean((back - ROWS) ** 2)))
    assert error <= (0.2 if bits < 5 else 0.06 if bits < 8 else 0.01)


def test_columns_that_matter_more_are_kept_better():
    importance = np.ones(512, np.float32)
    importance[:16] = 1e4
    errors: list[float] = []
    for weights in (None, importance):
        data = quantize_rows(BY_NAME["Q4_K"], ROWS, weights).reshape(8, -1)
        back = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q4_K).reshape(8, 512)
        errors.append(float(np.sum((back - ROWS)[:, :16] ** 2)))
    assert errors[1] < 0.85 * errors[0]


def test_many_threads_get_the_bytes_of_one():
    wanted = [quantize_rows(BY_NAME[name], ROWS).tobytes() for name in TYPES * 4]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: quantize_rows(BY_NAME[n], ROWS).tobytes(), TYPES * 4))
    assert found == wanted


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(name: str, value: float):
    broken = ROWS.copy()
    broken[5, 77] = value
    with pytest.raises(IntegrityError, match="finite"):
        quantize_rows(BY_NAME[name], broken)


def test_what_is_too_large_for_a_type_is_refused():
    large = ROWS.copy()
    large[0, 0] = 1e30
    with pytest.raises(IntegrityError, match="too large for F16"):
        quantize_rows(BY_NAME["F16"], large)
    quantize_rows(BY_NAME["BF16"], large)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_type_that_is_offered_can_be_written(name: str):
    data = quantize_rows(BY_NAME[name], ROWS, np.ones(512, np.float32))
    assert data.size == 8 * BY_NAME[name].row_bytes(512)
