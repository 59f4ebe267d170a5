from pathlib import Path

import numpy as np
import pytest

from llmedge.convert.packed import unpack
from llmedge.convert.packed_config import block, group_size, integer, mapping, refuse_unless, text
from llmedge.core.errors import IntegrityError, UnsupportedError
from tests.convert.stored import Stored, bfloat16, store, whole

PLAIN: dict[str, Stored] = {
    "embed.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "norm.weight": bfloat16(np.array([1.5, -2.0])),
    "scale": np.float16(0.5),
}
SUPPORTED = "supported: awq, bitsandbytes, compressed-tensors, fp8, gptq, mxfp4"


@pytest.mark.parametrize("method", [None, "awq", "bitsandbytes", "fp8", "gptq", "mxfp4"])
def test_plain_tensors_are_as_they_lie_whatever_the_method(tmp_path: Path, method: str | None):
    settings = {"quant_method": method, "bits": 4, "group_size": 128}
    with store(tmp_path / "checkpoint", PLAIN) as source:
        rows = unpack(source, settings if method else None)
        assert {name: found.shape for name, found in rows.items()} == {
            "embed.weight": (2, 3),
            "norm.weight": (2,),
            "scale": (1,),
        }
        assert whole(rows["embed.weight"]).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert whole(rows["norm.weight"]).tolist() == [1.5, -2]
        assert whole(rows["scale"]).tolist() == [0.5]


@pytest.mark.parametrize("method", ["torchao", "hqq", "quanto", "modelopt", "bitnet", None, 4, []])
def test_a_method_that_is_not_read_is_refused_by_its_name(tmp_path: Path, method: object):
    with (
        store(tmp_path / "checkpoint", PLAIN) as source,
        pytest.raises(UnsupportedError, match=f"by .*; {SUPPORTED}") as caught,
    ):
        unpack(source, {"quant_method": method})
    assert repr(method) in caught.value.message
    assert caught.value.hint


def test_no_method_at_all_is_refused(tmp_path: Path):
    with (
        store(tmp_path / "checkpoint", PLAIN) as source,
        pytest.raises(UnsupportedError, match="None"),
    ):
        unpack(source, {})


@pytest.mark.parametrize(
    "name",
    [
        "x.qweight",
        "x.scales",
        "x.weight_scale",
        "x.weight_scale_inv",
        "x.weight.absmax",
        "x.SCB",
        "x.weight_scale_2",
        "experts.down_proj_blocks",
    ],
)
@pytest.mark.parametrize("method", [None, "mxfp4", "fp8", "bitsandbytes"])
def test_a_part_that_nothing_took_is_an_error(tmp_path: Path, name: str, method: str | None):
    tensors = {**PLAIN, name: np.ones((2, 2), np.float32)}
    with (
        store(tmp_path / "checkpoint", tensors) as source,
        pytest.raises((UnsupportedError, IntegrityError), match=name.split(".")[0]),
    ):
        unpack(source, {"quant_method": method} if method else None)


def test_a_weight_of_integers_is_no_plain_weight(tmp_path: Path):
    tensors = {**PLAIN, "x.weight": np.ones((2, 2), np.int8)}
    with (
        store(tmp_path / "checkpoint", tensors) as source,
        pytest.raises(UnsupportedError, match=r"x\.weight is I8"),
    ):
        unpack(source, None)


def test_other_integers_are_an_error_once_somebody_reads_them(tmp_path: Path):
    tensors = {**PLAIN, "position_ids": np.arange(4)}
    with store(tmp_path / "checkpoint", tensors) as source:
        rows = unpack(source, None)["position_ids"]
        assert rows.shape == (4,)
        with pytest.raises(UnsupportedError, match="position_ids is I64"):
            whole(rows)


def test_values_of_the_settings_are_checked():
    assert integer({"b": 4}, "a", "b") == 4
    assert text({"a": "GEMM"}, "a", default="") == "gemm"
    assert text({"a": None}, "a", default="x") == "x"
    assert group_size({"a": -1}, "a") is None
    assert group_size({"a": 32}, "a") == 32
    assert block({}, "a") is None
    assert block({"a": [1, 2]}, "a") == (1, 2)
    assert mapping({"a": {"b": 1}}, "a") == {"b": 1}
    refuse_unless("a", 1, (1, 2))
    with pytest.raises(IntegrityError, match=r"quantization_config\.a is 4\.0"):
        integer({"a": 4.0}, "a")
    with pytest.raises(UnsupportedError, match="a is 3; supported: 1, 2"):
        refuse_unless("a", 3, (1, 2))
