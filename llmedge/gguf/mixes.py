"""The mixes: named rules that give every tensor a quant type, as llama.cpp defines them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.gguf.quant_types import BY_NAME, QuantType


@dataclass(frozen=True, slots=True)
class Mix:
    """One mix.

    Attributes:
        name: As users type it.
        ftype: llama.cpp's number for it (`enum llama_ftype`).
        base: The quant type of most of its tensors.
        what: What it is good for, in a few words.
    """

    name: str
    ftype: int
    base: QuantType
    what: str


# Source: include/llama.h `enum llama_ftype`; src/llama-quant.cpp `llama_ftype_get_default_type`.
_TABLE = (
    ("F32", 0, "F32", "the original precision"),
    ("F16", 1, "F16", "half precision: no loss that matters"),
    ("BF16", 32, "BF16", "half precision with the range of F32"),
    ("Q8_0", 7, "Q8_0", "8 bits: almost no loss"),
    ("Q6_K", 18, "Q6_K", "6 bits: very little loss"),
    ("Q5_K_M", 17, "Q5_K", "5 bits, important tensors in 6"),
    ("Q5_K_S", 16, "Q5_K", "5 bits"),
    ("Q5_1", 9, "Q5_1", "5 bits, for rows that are no multiple of 256"),
    ("Q5_0", 8, "Q5_0", "5 bits, for rows that are no multiple of 256"),
    ("Q4_K_M", 15, "Q4_K", "4 bits, important tensors in 6: the usual choice"),
    ("Q4_K_S", 14, "Q4_K", "4 bits"),
    ("IQ4_NL", 25, "IQ4_NL", "4 bits on an uneven grid: better than Q4_0, fast on phones"),
    ("IQ4_XS", 30, "IQ4_XS", "4.25 bits on an uneven grid: small, slow on phones"),
    ("Q4_1", 3, "Q4_1", "4 bits with an offset: slow on phones"),
    ("Q4_0", 2, "Q4_0", "4 bits: the fastest everywhere, the largest loss"),
    ("Q3_K_L", 13, "Q3_K", "3 bits, important tensors in 5"),
    ("Q3_K_M", 12, "Q3_K", "3 bits, important tensors in 4"),
    ("Q3_K_S", 11, "Q3_K", "3 bits"),
    ("Q2_K", 10, "Q2_K", "2 bits: for experiments"),
)
MIXES = {row[0]: Mix(row[0], row[1], BY_NAME[row[2]], row[3]) for row in _TABLE}

# Known to llama.cpp; refused until an importance matrix can be given to them.
_NEEDS_IMATRIX = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "Q2_K_S")


def find_mix(name: str) -> Mix:
    """Return a mix by its name, in any case.

    Raises:
        UsageError: No mix has that name.
        UnsupportedError: The mix needs an importance matrix.
    """
    upper = name.upper()
    if upper in MIXES:
        return MIXES[upper]
    if upper in _NEEDS_IMATRIX:
        raise UnsupportedError(
            f"{upper} needs an importance matrix, which llmedge cannot make yet",
            "the smallest mix without one is Q2_K",
        )
    close = difflib.get_close_matches(upper, MIXES, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"unknown mix {name!r}", f"{suggestion}known: {', '.join(MIXES)}")
