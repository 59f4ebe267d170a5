"""Checkpoints that are stored quantized, seen as the tensors of the unquantized model.

Which layout is read is said by `quantization_config` alone. A tensor that belongs to packed weights
and was not understood is an error, whatever the config says: no weight is converted wrongly because
one of its parts went unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.packed_awq import unpack_awq
from llmedge.convert.packed_bitsandbytes import unpack_bitsandbytes
from llmedge.convert.packed_compressed_tensors import unpack_compressed_tensors
from llmedge.convert.packed_fp8 import unpack_fp8
from llmedge.convert.packed_gptq import unpack_gptq
from llmedge.convert.packed_mxfp4 import unpack_mxfp4
from llmedge.convert.packed_parts import FLOAT_TYPES, ORIGINAL, Ledger
from llmedge.convert.rows import Rows, source_rows
from llmedge.core.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmedge.convert.rows import Floats
    from llmedge.store.checkpoint import CheckpointSource, TensorEntry

_METHODS: dict[str, Callable[[Ledger, Mapping[str, object]], None]] = {
    "awq": unpack_awq,
    "bitsandbytes": unpack_bitsandbytes,
    "compressed-tensors": unpack_compressed_tensors,
    "fp8": unpack_fp8,
    "gptq": unpack_gptq,
    "mxfp4": unpack_mxfp4,
}

# Tensors that only packed weights have, in the layouts above and in others.
_COMPANIONS = (
    ".qweight",
    ".qzeros",
    ".scales",
    ".g_idx",
    ".weight_packed",
    ".weight_shape",
    ".weight_scale",
    ".weight_scale_2",
    ".weight_scale_inv",
    ".weight_global_scale",
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_format",
    ".qscale_weight",
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".bitsandbytes__nf4",
    ".bitsandbytes__fp4",
    ".SCB",
    "_proj_blocks",
    "_proj_scales",
)


def unpack(source: CheckpointSource, quantization: Mapping[str, object] | None) -> dict[str, Rows]:
    """Return every logical tensor of a checkpoint by its name in the unquantized model.

    Packed weights are dequantized range by range as they are read; others are as they lie. Layers
    that were `Conv1D` before they were packed (GPT-2) come out as `Linear` holds them: their
    packers transpose them.

    Args:
        source: The checkpoint.
        quantization: `quantization_config` of its config.json; None where it has none.

    Raises:
        UnsupportedError: A method, bit width, type or layout that is not read.
        IntegrityError: Tensors that do not fit each other, or settings that cannot be meant.
    """
    ledger = Ledger(source)
    if quantization is not None:
        _method(quantization)(ledger, quantization)
    for name, entry in source.tensors.items():
        if name not in ledger.taken:
            ledger.taken.add(name)
            ledger.put(name, _plain(source, name, entry))
    return ledger.rows


def _method(quantization: Mapping[str, object]) -> Callable[[Ledger, Mapping[str, object]], None]:
    name = quantization.get("quant_method")
    method = _METHODS.get(name) if isinstance(name, str) else None
    if method is None:
        supported = ", ".join(_METHODS)
        raise UnsupportedError(
            f"the checkpoint is quantized by {name!r}; supported: {supported}", ORIGINAL
        )
    return method


def _plain(source: CheckpointSource, name: str, entry: TensorEntry) -> Rows:
    if name.endswith(_COMPANIONS):
        raise UnsupportedError(
            f"tensor {name} belongs to a packed weight, and quantization_config does not say how",
            ORIGINAL,
        )
    if entry.dtype in FLOAT_TYPES:
        return source_rows(source, name)
    if name.endswith(".weight"):
        raise UnsupportedError(f"tensor {name} is {entry.dtype}: a weight packed how?", ORIGINAL)

    def refuse(_start: int, _stop: int) -> Floats:
        raise UnsupportedError(f"tensor {name} is {entry.dtype} and no weight", ORIGINAL)

    return Rows(entry.shape or (1,), refuse)
