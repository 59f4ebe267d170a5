"""Importance matrices for tests, in both formats."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import gguf
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def write_imatrix(
    path: Path,
    entries: Mapping[str, tuple[Sequence[Sequence[float]], Sequence[float]]],
    *,
    kind: str = "imatrix",
    datasets: Sequence[str] | None = ("wiki.txt",),
) -> Path:
    """Write the GGUF format: by name the sums of squares of each expert, and its token counts."""
    writer = gguf.GGUFWriter(path, "")  # of any architecture, as llama.cpp's own tool writes it
    writer.add_string("general.type", kind)
    if datasets is not None:
        writer.add_array("imatrix.datasets", datasets)
    writer.add_uint32("imatrix.chunk_count", 12)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", np.array(sums, dtype=np.float32))
        writer.add_tensor(f"{name}.counts", np.array(counts, dtype=np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def old_imatrix(
    entries: Mapping[str, tuple[int, Sequence[float]]], tail: bytes | None = None
) -> bytes:
    """Return the old format: by name the number of calls and the values."""
    parts = [struct.pack("<i", len(entries))]
    for name, (n_calls, values) in entries.items():
        parts.append(_string(name) + struct.pack("<ii", n_calls, len(values)))
        parts.append(struct.pack(f"<{len(values)}f", *values))
    return b"".join(parts) + (struct.pack("<i", 12) + _string("wiki.txt") if tail is None else tail)


def _string(text: str) -> bytes:
    return struct.pack("<i", len(text.encode())) + text.encode()
