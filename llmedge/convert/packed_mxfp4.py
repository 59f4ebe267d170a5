"""MXFP4 experts as GPT-OSS stores them: blocks of 32 E2M1 codes, each with one E8M0 exponent.

    experts.gate_up_proj_blocks (n_experts, 2 * n_ff, n_embd / 32, 16)   even rows gate, odd rows up
    experts.down_proj_blocks    (n_experts, n_embd, n_ff / 32, 16)
    …_scales                    the same without the last axis

Byte j of a block holds weights 2j (low half) and 2j + 1. GGML's block_mxfp4 is the exponent and
then 16 bytes that hold weights j and j + 16, so that nothing but the order of halves changes.

Source: "OCP Microscaling Formats" 1.0; github.com/huggingface/transformers, integrations/mxfp4.py
`convert_moe_packed_tensors`; ggml/src/ggml-common.h `block_mxfp4`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.packed_parts import E8M0, Ledger
from llmedge.convert.rows import PackedRows, Rows
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.packed_parts import Bytes, Part
    from llmedge.convert.rows import Floats

_BLOCK = 32
_CODE_BYTES = 16
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], np.float32)
_NO_NUMBER = 255  # as an exponent


def unpack_mxfp4(ledger: Ledger, _config: Mapping[str, object]) -> None:
    """Take every packed stack of experts as the matrices `gate`, `up` and `down`.

    Each is `(n_experts, n_out, n_in)`, in floats and as GGML blocks without loss; the unquantized
    model holds gate and up in one tensor and all of them transposed.

    Raises:
        UnsupportedError: Another type or number of axes.
        IntegrityError: Blocks and exponents do not fit each other.
    """
    for name in ledger.prefixes("_blocks"):
        experts = _take(ledger, name)
        stem, _, projection = name.rpartition(".")
        if projection != "gate_up_proj":
            ledger.put(f"{stem}.{projection.removesuffix('_proj')}", experts.every(1, 0))
            continue
        if experts.n_out % 2:
            raise IntegrityError(f"{name} has {experts.n_out} rows: no pairs of gate and up")
        ledger.put(f"{stem}.gate", experts.every(2, 0))
        ledger.put(f"{stem}.up", experts.every(2, 1))


def repack_mxfp4(blocks: Bytes, scales: Bytes) -> Bytes:
    """Reorder blocks into GGML's block_mxfp4.

    Args:
        blocks: `(…, n_blocks, 16)`.
        scales: `(…, n_blocks)`.

    Returns:
        `(…, n_blocks * 17)`.
    """
    packed = np.empty((*scales.shape, 1 + _CODE_BYTES), np.uint8)
    packed[..., 0] = scales
    first, second = blocks[..., : _CODE_BYTES // 2], blocks[..., _CODE_BYTES // 2 :]
    packed[..., 1::2] = first & 15 | second << 4
    packed[..., 2::2] = first >> 4 | second & 240
    return packed.reshape(*scales.shape[:-1], scales.shape[-1] * (1 + _CODE_BYTES))


@dataclass(frozen=True, slots=True)
class _Experts:
    blocks: Part
    scales: Part

    @property
    def n_out(self) -> int:
        return self.blocks.shape[1]

    @property
    def n_in(self) -> int:
        return self.blocks.shape[2] * _BLOCK

    def read(self, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Return codes and exponents of rows `[start, stop)` of all experts' matrices."""
        n_blocks = self.blocks.shape[2]
        codes = self.blocks.raw(start * n_blocks, stop * n_blocks)
        exponents = self.scales.raw(start, stop)
        if (exponents == _NO_NUMBER).any():
            raise IntegrityError(f"{self.scales.name} has an exponent that is no number")
        return codes.reshape(stop - start, n_blocks, _CODE_BYTES), exponents

    def every(self, step: int, first: int) -> Rows:
        """Return one row of `step`, from the `first` on."""

        def read(start: int, stop: int) -> tuple[Bytes, Bytes]:
            codes, exponents = self.read(start * step, stop * step)
            return codes[first::step], exponents[first::step]

        shape = (self.blocks.shape[0], self.n_out // step, self.n_in)
        packed = PackedRows("MXFP4", lambda start, stop: repack_mxfp4(*read(start, stop)).tobytes())
        return Rows(shape, lambda start, stop: _dequantize(*read(start, stop)), packed=packed)


def _take(ledger: Ledger, name: str) -> _Experts:
    blocks = ledger.take(f"{name}_blocks", ("U8",), (None, None, None, _CODE_BYTES))
    return _Experts(blocks, ledger.take(f"{name}_scales", ("U8",), blocks.shape[:3]))


def _dequantize(blocks: Bytes, scales: Bytes) -> Floats:
    """Return `(…, n_blocks * 32)` floats."""
    floats = np.empty((*blocks.shape, 2), np.float32)
    floats[..., 0] = _VALUES[blocks & 15]
    floats[..., 1] = _VALUES[blocks >> 4]
    with np.errstate(over="ignore"):  # the greatest exponents are beyond float32, for GGML too
        floats *= E8M0[scales][..., None, None]
    return floats.reshape(*scales.shape[:-1], scales.shape[-1] * _BLOCK)
