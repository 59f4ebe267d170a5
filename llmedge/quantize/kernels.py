"""Which quant types a kind of processor computes fast with, and so which a plan may choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.gguf.quant_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.gguf.quant_types import QuantType
    from llmedge.store.plan_file import Kernels

# `arm`, `avx2` and `hexagon`: types whose weights are repacked, or have kernels of their own for
# prompts and for single tokens there. On x86, the types of blocks of 256 have a tiled path instead.
# Source: ggml/src/ggml-cpu/repack.cpp `ggml_repack_get_optimal_repack_type`, ggml-cpu/tiled and
# ggml-hexagon of llama.cpp. The lattice types (IQ1 to IQ3) are left out: they are slow everywhere.
_ARM = ("MXFP4", "Q4_0", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
KERNELS: dict[Kernels, tuple[str, ...]] = {
    "arm": _ARM,
    "avx2": ("Q2_K", "Q3_K", "IQ4_XS", *_ARM),
    "hexagon": ("Q4_1", *_ARM),
    "generic": ("Q2_K", "Q3_K", "IQ4_XS", "Q4_1", "Q5_0", "Q5_1", *_ARM),
}


def fast_types(kernels: Kernels, n_in: int) -> Sequence[QuantType]:
    """Return the types that rows of `n_in` weights can have, from the smallest to the largest.

    Types with blocks of 32 that are larger than one of blocks of 256 and worse are left out where
    rows fit the latter.
    """
    types = [BY_NAME[name] for name in KERNELS[kernels]]
    if n_in % 256 == 0:
        types = [kind for kind in types if kind.name not in _WORSE_THAN_K]
    fitting = [kind for kind in types if n_in % kind.block_weights == 0]
    return sorted(fitting, key=lambda kind: (kind.bits_per_weight, kind.name))


# Q4_1 and Q5_0 take more bits than Q4_K and Q5_K for more error, Q5_1 more than Q5_K.
_WORSE_THAN_K = ("Q4_1", "Q5_0", "Q5_1")
