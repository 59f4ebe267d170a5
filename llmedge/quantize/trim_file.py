"""A trimmed model's file: rows of the vocabulary's matrices left out, everything else copied.

Quantized rows are copied as they are; memory is bounded by one block.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.gguf.reader import read_header
from llmedge.gguf.writer import encode_header, lay_out, padded_bytes
from llmedge.quantize.trim_vocabulary import EMBEDDING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llmedge.gguf.reader import Header, TensorInfo
    from llmedge.gguf.writer import Metadata

# Tensors with one row, or one number, a token and nothing else that depends on tokens.
# Source: src/models of llama.cpp: what `get_rows` takes by token, and what makes the logits.
_BY_TOKEN = (EMBEDDING, "output.weight", "output.bias", "per_layer_token_embd.weight")
_MAPS = ("d2t", "t2d")  # of draft models: ids of another model's vocabulary
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a trimmed file comes from and goes to.

    Attributes:
        head: Everything before the weights.
        tensors: Old and new place of each tensor; they differ in shape where rows go.
        kept: The tokens that stay, ascending.
    """

    head: bytes
    tensors: tuple[tuple[TensorInfo, TensorInfo], ...]
    kept: array[int]

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return len(self.head) + sum(padded_bytes(new) for _, new in self.tensors)


def require_known_tensors(header: Header, n_vocab: int) -> None:
    """Make sure that every tensor that depends on the vocabulary is known.

    Raises:
        UnsupportedError: A tensor may depend on it and is not known.
    """
    for tensor in header.tensors:
        is_known = tensor.name in _BY_TOKEN and tensor.shape[-1] == n_vocab
        is_suspect = n_vocab in tensor.shape or tensor.name in _BY_TOKEN
        if not is_known and (is_suspect or tensor.name.startswith(_MAPS)):
            raise UnsupportedError(
                f"{header.path.name} has the tensor {tensor.name} with shape {list(tensor.shape)}, "
                f"which may depend on the vocabulary of {n_vocab} tokens and is not known",
                "leave this model's vocabulary whole",
            )


def plan_file(header: Header, metadata: Metadata, kept: array[int]) -> Layout:
    """Lay a trimmed file out; its tensors must be known."""
    shapes = (
        (*tensor.shape[:-1], len(kept)) if tensor.name in _BY_TOKEN else tensor.shape
        for tensor in header.tensors
    )
    new = lay_out(
        (tensor.name, shape, tensor.quant_type)
        for tensor, shape in zip(header.tensors, shapes, strict=True)
    )
    tensors = tuple(zip(header.tensors, new, strict=True))
    return Layout(encode_header(metadata, new), tensors, kept)


def write_file(
    header: Header, layout: Layout, target: Path, on_bytes: Callable[[int, str], None]
) -> None:
    """Write a trimmed file.

    Args:
        header: The original's.
        layout: From `plan_file`.
        target: Where to write.
        on_bytes: Called with the bytes written so far and the tensor's name.

    Raises:
        IntegrityError: The original is no longer what its header says, or the new header is not
            what was planned.
    """
    n_written = len(layout.head)
    with header.path.open("rb") as source, target.open("wb") as file:
        file.write(layout.head)
        for old, new in layout.tensors:
            for block in _blocks(source, header, old, layout.kept, is_cut=old.shape != new.shape):
                file.write(block)
                n_written += len(block)
                on_bytes(n_written, new.name)
            padding = padded_bytes(new) - new.n_bytes
            file.write(bytes(padding))
            n_written += padding
    written = read_header(target).tensors
    planned = tuple(new for _, new in layout.tensors)
    if written != planned or n_written != layout.file_bytes:
        raise IntegrityError(f"{target.name} was not written as it was planned")


def _blocks(
    source: BinaryIO, header: Header, tensor: TensorInfo, kept: array[int], *, is_cut: bool
) -> Iterator[bytes]:
    """Yield what stays of a tensor, in blocks of bounded size."""
    n_rows = tensor.shape[-1] if is_cut else 1
    row_bytes = tensor.n_bytes // n_rows
    n_read = max(1, _BLOCK_BYTES // row_bytes) * row_bytes if is_cut else _BLOCK_BYTES
    source.seek(header.data_offset + tensor.offset)
    for start in range(0, tensor.n_bytes, n_read):
        wanted = min(n_read, tensor.n_bytes - start)
        block = source.read(wanted)
        if len(block) != wanted:
            raise IntegrityError(
                f"{header.path} became shorter while {tensor.name} was read",
                "wait until nothing writes it",
            )
        yield _cut(block, start // row_bytes, row_bytes, kept) if is_cut else block


def _cut(block: bytes, first_row: int, row_bytes: int, kept: array[int]) -> bytes:
    begin = bisect_left(kept, first_row)
    end = bisect_left(kept, first_row + len(block) // row_bytes)
    rows = ((row - first_row) * row_bytes for row in kept[begin:end])
    return b"".join(block[at : at + row_bytes] for at in rows)
