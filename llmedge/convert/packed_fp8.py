"""FP8 with scales for tiles or whole tensors, as DeepSeek publishes and transformers writes it.

    weight (n_out, n_in) F8_E4M3      weight_scale_inv (n_out / tile, n_in / tile), or one number
    older, by AutoFP8               weight_scale, one number

Despite its name the scale multiplies. Scales of activations say nothing about weights.

Source: huggingface.co/deepseek-ai/DeepSeek-V3, inference/kernel.py `weight_dequant`;
github.com/huggingface/transformers, integrations/finegrained_fp8.py `Fp8Dequantize`;
github.com/neuralmagic/AutoFP8, auto_fp8/quantize.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llmedge.convert.packed_config import block, refuse_unless, text
from llmedge.convert.packed_scaled import Grid, scaled_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.packed_parts import Ledger

_ABOUT_ACTIVATIONS = (".activation_scale", ".input_scale", ".k_scale", ".v_scale", ".kv_scale")
_SCALE_TYPES = ("F32", "BF16", "F16", "F8_E8M0", "U8")


def unpack_fp8(ledger: Ledger, config: Mapping[str, object]) -> None:
    """Take every FP8 matrix.

    Raises:
        UnsupportedError: A type or layout that is not read.
        IntegrityError: A scale is missing or does not fit its weight.
    """
    refuse_unless("fp8's fmt", text(config, "fmt", default="e4m3"), ("e4m3", "float8_e4m3fn"))
    tile = block(config, "weight_block_size")
    for name in ledger.of_type("F8_E4M3"):
        weight = ledger.take(name, ("F8_E4M3",), (None, None))
        matrix = cast("tuple[int, int]", weight.shape)
        is_older = ledger.has(f"{name}_scale")
        grid = Grid(matrix, matrix if is_older or tile is None else tile)
        scale_name = f"{name}_scale" if is_older else f"{name}_scale_inv"
        ledger.put(name, scaled_rows(weight, grid, grid.take(ledger, scale_name, _SCALE_TYPES)))
    ledger.drop(*_ABOUT_ACTIVATIONS)
