"""The quant types of GGUF tensors: a table, and the arithmetic of their sizes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QuantType:
    """How one tensor's weights are stored.

    Attributes:
        id: GGML's number for it, as in the file.
        name: GGML's spelling in capitals.
        block_weights: Weights in a block; a row must be a multiple of it.
        block_bytes: Bytes of a block.
    """

    id: int
    name: str
    block_weights: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits that one weight takes, scales included."""
        return 8 * self.block_bytes / self.block_weights

    def row_bytes(self, n_weights: int) -> int:
        """Return the size of a row; `n_weights` must be a multiple of the block."""
        return n_weights // self.block_weights * self.block_bytes


# Source: ggml/src/ggml.c `type_traits` and ggml/src/ggml-common.h block structs; held to both
# llama.cpp's library and the PyPI package gguf by tests/gguf/test_quant_types.py.
_TABLE = (
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
)

BY_ID = {row[0]: QuantType(*row) for row in _TABLE}
BY_NAME = {quant_type.name: quant_type for quant_type in BY_ID.values()}

# Types of whole numbers, of what enters a product, and of what nothing is computed with.
# Source: ggml/src/ggml.c `ggml_quantize_chunk`, which ends the process for these.
_NEVER_WRITTEN = frozenset(("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"))
# What the quantizer can make of a tensor.
WRITTEN = {name: kind for name, kind in BY_NAME.items() if name not in _NEVER_WRITTEN}

F16 = BY_NAME["F16"]
F32 = BY_NAME["F32"]


def align(offset: int, alignment: int) -> int:
    """Return the first multiple of `alignment` at or after `offset`."""
    return (offset + alignment - 1) // alignment * alignment
