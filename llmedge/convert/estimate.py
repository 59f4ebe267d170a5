"""What a conversion takes: memory by arithmetic, time by trying the quantizer on this machine."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import ResourceError
from llmedge.core.units import format_mib
from llmedge.runtime.row_quantizer import quantize_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.convert.stream import OutputTensor

# The interpreter with numpy, the tokenizer's metadata and what allocators keep.
_BASE_BYTES = 96 << 20
# A worker holds a range as it was read, as float32 and as it is written, and an edit's copy of it;
# one result a thread and one more wait for the writer.
_COPIES_AT_WORK, _COPIES_WAITING = 4, 1
_MAX_RANGE_BYTES, _MIN_RANGE_BYTES = 8 << 20, 256 << 10
_SAMPLE_WEIGHTS = 1 << 18


def range_bytes(budget_bytes: int, n_threads: int) -> int:
    """Return how large a range of rows may be for a conversion to keep within a budget.

    Raises:
        ResourceError: The budget is too small.
    """
    n_copies = _copies(n_threads)
    size = (budget_bytes - _BASE_BYTES) // n_copies
    if size < _MIN_RANGE_BYTES:
        needed = _BASE_BYTES + n_copies * _MIN_RANGE_BYTES
        raise ResourceError(
            f"{format_mib(budget_bytes)} are too little to convert with --threads {n_threads}",
            f"allow --memory {-(-needed // (1 << 20))}MiB{_fewer(n_threads)}",
        )
    return min(size, _MAX_RANGE_BYTES)


def peak_bytes(tensors: Sequence[OutputTensor], size: int, n_threads: int) -> int:
    """Return the memory that streaming takes, a tensor needed whole included."""
    widest = max(tensor.rows.n_columns * 4 * tensor.rows.align for tensor in tensors)
    largest = max(tensor.info.n_weights * 4 for tensor in tensors)
    whole = max(tensor.rows.whole_bytes for tensor in tensors)
    held = sum(tensor.importance.nbytes for tensor in tensors if tensor.importance is not None)
    ranges = _copies(n_threads) * min(max(size, widest), largest)
    return _BASE_BYTES + ranges + whole + held


def estimate_seconds(tensors: Sequence[OutputTensor], n_threads: int) -> float:
    """Return how long quantizing takes on this machine; reading and writing come on top.

    Each type is tried on a quarter of a million random weights.
    """
    weights: dict[str, int] = defaultdict(int)
    example: dict[str, OutputTensor] = {}
    for tensor in tensors:
        name = tensor.info.quant_type.name
        weights[name] += tensor.info.n_weights
        example.setdefault(name, tensor)
    return sum(_seconds_a_weight(example[name]) * n for name, n in weights.items()) / n_threads


def _seconds_a_weight(tensor: OutputTensor) -> float:
    n_columns = tensor.rows.n_columns
    n_rows = max(1, _SAMPLE_WEIGHTS // n_columns)
    sample = np.random.default_rng(0).standard_normal((n_rows, n_columns), np.float32)
    importance = None if tensor.importance is None else tensor.importance[0]
    quantize_rows(tensor.info.quant_type, sample[:1], importance)
    start = time.perf_counter()
    quantize_rows(tensor.info.quant_type, sample, importance)
    return (time.perf_counter() - start) / sample.size


def _fewer(n_threads: int) -> str:
    return ", or fewer --threads" if n_threads > 1 else ""


def _copies(n_threads: int) -> int:
    return _COPIES_AT_WORK * n_threads + _COPIES_WAITING * (n_threads + 1)
