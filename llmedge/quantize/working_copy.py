"""The file that a model is measured in: weights that can be changed in memory, and that fit there.

Most often this is the source. A source of 4-bit weights, or one that is larger than the memory, is
measured in 8 bits instead, whose own loss is far below that of any plan.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import quantizable_tensors
from llmedge.host.memory import read_memory
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from llmedge.quantize.probe import WRITABLE
from llmedge.store.atomic import work_folder

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.reader import Header

# Of the machine's memory, for the weights. Not of what is free at the moment: what was measured in
# one file is not found again for another.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """Where a model is measured.

    Attributes:
        work: The file whose weights are changed in memory.
        reference: The file that variants are compared with.
    """

    work: Path
    reference: Path


def fits_memory(n_bytes: int) -> bool:
    """Return whether weights leave enough of this machine's memory for what else is there."""
    return n_bytes <= _MEMORY_SHARE * read_memory().total_bytes


@contextlib.contextmanager
def measured_in(
    source: Path, options: QuantizeOptions, settings: Settings, progress: Progress
) -> Generator[Measured]:
    """Give the files to measure a source in; a copy in 8 bits is removed afterwards.

    Raises:
        UsageError: The source is quantized already, and quantizing it again was not allowed.
        ResourceError: The disk has too little room for the copy.
    """
    header = read_header(source)
    is_large = not fits_memory(header.file_bytes)
    if not is_large and _is_writable(header):
        yield Measured(source, source)
        return
    with work_folder(settings.home / "work" / source.name) as folder:
        plain = QuantizeOptions(
            output=folder / source.name,
            n_threads=options.n_threads,
            allow_requantize=options.allow_requantize,
            max_buffer_bytes=options.max_buffer_bytes,
            stamp=options.stamp,
        )
        report = quantize(source, find_mix("Q8_0"), plain, settings, progress)
        yield Measured(report.path, report.path if is_large else source)


def _is_writable(header: Header) -> bool:
    return all(tensor.quant_type.name in WRITABLE for tensor in quantizable_tensors(header))
