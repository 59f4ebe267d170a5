import importlib.util

import numpy as np
import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.gguf.quant_types import BY_NAME
from llmedge.runtime.ggml_base import base_library
from llmedge.runtime.row_quantizer import dequantize_rows, quantize_rows


def test_the_library_knows_its_operations():
    base = base_library()
    assert base.ggml_op_name(0) == b"NONE"
    assert b"MUL_MAT" in {base.ggml_op_name(number) for number in range(64)}


def test_a_binding_without_the_library_is_named(monkeypatch):
    base_library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="ggml-base"):
        base_library()
    base_library.cache_clear()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "IQ4_XS", "MXFP4"])
def test_rows_come_back_as_the_package_gguf_reads_them(name: str):
    import gguf

    rows = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    kind = BY_NAME[name]
    data = quantize_rows(kind, rows)
    ours = dequantize_rows(kind, data, 512)
    raw = data.reshape(4, -1)
    if name in ("F32", "F16"):
        raw = raw.view({"F32": np.float32, "F16": np.float16}[name])
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind.id))
    assert np.allclose(ours, theirs.reshape(4, 512), atol=1e-6)


def test_a_type_that_cannot_be_read_back_is_refused():
    with pytest.raises(UnsupportedError, match="Q8_1"):
        dequantize_rows(BY_NAME["Q8_1"], np.zeros(36, np.uint8), 32)
