"""The mix that a plan has to beat: the best of llama.cpp's own that takes no more bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.gguf.mix_rules import ModelShape, TensorShape, assign_types
from llmedge.gguf.mixes import MIXES
from llmedge.gguf.quant_types import BY_NAME, align
from llmedge.gguf.reader import Array

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmedge.gguf.mixes import Mix
    from llmedge.gguf.reader import Header

# From the best to the worst at what they take; the rest of the mixes lose to one of these of the
# same size, or need more than a plan's smallest types.
_LADDER = (
    *("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_0"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"),
)


def stock_types(header: Header, mix: Mix, *, has_imatrix: bool) -> dict[str, str]:
    """Return the quant type that a mix gives each tensor of a file.

    Raises:
        UnsupportedError: Rows fit no type that the mix may use.
        IntegrityError: An expert's name has no layer.
    """
    tensors = [TensorShape(t.name, t.shape, t.quant_type) for t in header.tensors]
    types = assign_types(mix, tensors, _shape(header), has_imatrix=has_imatrix)
    return {name: assignment.quant_type.name for name, assignment in types.items()}


def best_stock(
    header: Header, budget_bytes: int, allowed: Collection[str], *, has_imatrix: bool
) -> Mix | None:
    """Return the best mix whose tensors take no more than a plan's may.

    Args:
        header: The file that is quantized.
        budget_bytes: For all its tensors, padded as in a file.
        allowed: The quant types that the mix may use; others are slow where the plan will run.
        has_imatrix: Whether there is an importance matrix.
    """
    for name in _LADDER:
        types = stock_types(header, MIXES[name], has_imatrix=has_imatrix)
        n_bytes = sum(
            align(BY_NAME[types[tensor.name]].row_bytes(tensor.n_weights), 32)
            for tensor in header.tensors
        )
        changed = {types[t.name] for t in header.tensors if types[t.name] != t.quant_type.name}
        if n_bytes <= budget_bytes and changed <= set(allowed):
            return MIXES[name]
    return None


def _shape(header: Header) -> ModelShape:
    def first(key: str, default: int = 0) -> int:
        value = header.metadata.get(f"{header.architecture}.{key}", default)
        item = value.items[0] if isinstance(value, Array) and value.items else value
        return item if isinstance(item, int) else default

    n_heads = first("attention.head_count")

    return ModelShape(
        architecture=header.architecture,
        n_layers=first("block_count"),
        n_heads=n_heads,
        n_kv_heads=first("attention.head_count_kv", n_heads),
        n_experts=first("expert_count"),
    )
