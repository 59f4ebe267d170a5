"""The mixes: named rules that give every tensor a quant type, as llama.cpp defines them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.gguf.quant_types import BY_NAME, QuantType

if TYPE_CHECKING:
    from collections.abc import Iterable

ImatrixUse: TypeAlias = Literal["none", "uses", "requires"]


@dataclass(frozen=True, slots=True)
class Mix:
    """One mix.

    Attributes:
        name: As users type it.
        ftype: llama.cpp's number for it (`enum llama_ftype`).
        base: The quant type of most of its tensors.
        imatrix: What an importance matrix is to it: `none` where the base type ignores one, `uses`
            where rounding is better with one, `requires` where llama.cpp refuses to go without.
        what: What it is good for, in a few words.
    """

    name: str
    ftype: int
    base: QuantType
    imatrix: ImatrixUse
    what: str


# From the largest to the smallest; the last four are for models that were trained that way.
# NVFP4 has a number in the enum and no way there: the quantizer calls it an invalid file type.
# Source: include/llama.h `enum llama_ftype`; src/llama-quant.cpp `llama_ftype_get_default_type`,
# `tensor_requires_imatrix`; ggml/src/ggml-quants.c for who uses `quant_weights`.
_TABLE: tuple[tuple[str, int, str, ImatrixUse, str], ...] = (
    ("F32", 0, "F32", "none", "the original precision"),
    ("F16", 1, "F16", "none", "half precision: no loss that matters"),
    ("BF16", 32, "BF16", "none", "half precision with the range of F32"),
    ("Q8_0", 7, "Q8_0", "none", "8 bits: almost no loss"),
    ("Q6_K", 18, "Q6_K", "uses", "6 bits: very little loss"),
    ("Q5_K_M", 17, "Q5_K", "uses", "5 bits, important tensors in 6"),
    ("Q5_K_S", 16, "Q5_K", "uses", "5 bits"),
    ("Q5_1", 9, "Q5_1", "uses", "5 bits, for rows that are no multiple of 256"),
    ("Q5_0", 8, "Q5_0", "uses", "5 bits, for rows that are no multiple of 256"),
    ("Q4_K_M", 15, "Q4_K", "uses", "4 bits, important tensors in 6: the usual choice"),
    ("Q4_K_S", 14, "Q4_K", "uses", "4 bits"),
    ("IQ4_NL", 25, "IQ4_NL", "uses", "4 bits on an uneven grid: better than Q4_0, fast on phones"),
    ("IQ4_XS", 30, "IQ4_XS", "uses", "4.25 bits on an uneven grid: small, slow on phones"),
    ("Q4_1", 3, "Q4_1", "uses", "4 bits with an offset: slow on phones"),
    ("Q4_0", 2, "Q4_0", "uses", "4 bits: the fastest everywhere, the largest loss"),
    ("MXFP4_MOE", 38, "MXFP4", "none", "experts in 4 bits, all else in 8: for mixtures of experts"),
    ("Q3_K_L", 13, "Q3_K", "uses", "3 bits, important tensors in 5"),
    ("Q3_K_M", 12, "Q3_K", "uses", "3 bits, important tensors in 4"),
    ("IQ3_M", 27, "IQ3_S", "uses", "3.4 bits on a lattice, important tensors in 4"),
    ("IQ3_S", 26, "IQ3_S", "uses", "3.4 bits on a lattice: better than Q3_K_S, slow"),
    ("Q3_K_S", 11, "Q3_K", "uses", "3 bits"),
    ("IQ3_XS", 22, "IQ3_S", "requires", "3.3 bits on a lattice"),
    ("IQ3_XXS", 23, "IQ3_XXS", "requires", "3.1 bits on a lattice"),
    ("Q2_K", 10, "Q2_K", "uses", "2 bits: for experiments"),
    ("Q2_K_S", 21, "Q2_K", "requires", "2 bits, nearly everywhere"),
    ("IQ2_M", 29, "IQ2_S", "requires", "2.7 bits on a lattice"),
    ("IQ2_S", 28, "IQ2_XS", "requires", "2.5 bits on a lattice"),
    ("IQ2_XS", 20, "IQ2_XS", "requires", "2.3 bits on a lattice"),
    ("IQ2_XXS", 19, "IQ2_XXS", "requires", "2.1 bits on a lattice"),
    ("IQ1_M", 31, "IQ1_M", "requires", "1.75 bits: hardly usable"),
    ("IQ1_S", 24, "IQ1_S", "requires", "1.56 bits: hardly usable"),
    ("Q2_0", 41, "Q2_0", "none", "2 bits: only for models trained in 2 bits"),
    ("TQ2_0", 37, "TQ2_0", "none", "three values in 2 bits: only for ternary models"),
    ("TQ1_0", 36, "TQ1_0", "none", "three values in 1.7 bits: only for ternary models"),
    ("Q1_0", 40, "Q1_0", "none", "1 bit: only for models trained in 1 bit"),
)
MIXES = {row[0]: Mix(row[0], row[1], BY_NAME[row[2]], row[3], row[4]) for row in _TABLE}
# What a source is quantized to when nothing is named, and what measured plans start from.
BASE_MIX = "Q4_K_M"
_IMATRIX_TYPES = frozenset(mix.base.name for mix in MIXES.values() if mix.imatrix != "none")


def find_mix(name: str) -> Mix:
    """Return a mix by its name, in any case.

    Raises:
        UsageError: No mix has that name.
    """
    upper = name.upper()
    if upper in MIXES:
        return MIXES[upper]
    # A bare quant type means the mix of it that most take.
    usual = [mix for mix in MIXES if mix == f"{upper}_M"]
    close = usual or difflib.get_close_matches(upper, MIXES, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"unknown mix {name!r}", f"{suggestion}known: {', '.join(MIXES)}")


def uses_imatrix(mix: Mix, types: Iterable[str] = ()) -> bool:
    """Return whether an importance matrix changes what a mix and types of single tensors make."""
    return mix.imatrix != "none" or not _IMATRIX_TYPES.isdisjoint(types)


def is_float(mix: Mix) -> bool:
    """Whether a mix quantizes nothing."""
    return mix.base.block_weights == 1


def require_imatrix(mix: Mix, *, has_imatrix: bool) -> Mix:
    """Return the mix if it can be made with what is there.

    Raises:
        UnsupportedError: It needs an importance matrix and there is none.
    """
    if mix.imatrix == "requires" and not has_imatrix:
        raise UnsupportedError(
            f"{mix.name} needs an importance matrix, without which its output is garbage",
            "without one the smallest mix is Q2_K; Q3_K_M loses far less",
        )
    return mix
