"""Weights that are stored transposed, as `(n_in, n_out)` codes with groups along the inputs.

A row of the logical matrix is a column of what is stored, so the packed tensor is held while its
ranges are read: an eighth of the float32 matrix at four bits, and never that matrix itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.convert.packed_parts import Bytes, Latest, Part, Words
    from llmedge.convert.rows import Floats, Index


@dataclass(frozen=True, slots=True)
class Columns:
    """A transposed weight in memory.

    Attributes:
        words: Its codes, packed.
        zeros: The code that stands for zero, `(n_groups, n_out)`.
        scales: `(n_groups, n_out)`.
        groups: The group of each input, `(n_in,)`.
    """

    words: Words
    zeros: Bytes
    scales: Floats
    groups: Index


def column_rows(
    packed: Part,
    shape: tuple[int, int],
    load: Callable[[], Columns],
    decode: Callable[[Words, int, int], Bytes],
    latest: Latest[Columns],
) -> Rows:
    """Return the logical matrix of a transposed weight.

    Args:
        packed: Its codes; they are what stays in memory.
        shape: `(n_out, n_in)`.
        load: Reads all of it.
        decode: Packed words and outputs `[start, stop)` → codes `(stop - start, n_in)`.
        latest: Shared by all weights that are read one after the other.
    """

    def read(start: int, stop: int) -> Floats:
        columns = latest.get(packed.name, load, is_last=stop >= shape[0])
        weights = decode(columns.words, start, stop).astype(np.float32)
        weights -= np.take(columns.zeros[:, start:stop].T, columns.groups, axis=1)
        weights *= np.take(columns.scales[:, start:stop].T, columns.groups, axis=1)
        return weights

    return Rows(shape, read, whole_bytes=packed.n_bytes)
