"""llama.cpp's KL base file: the tokens of a text and a reference's predictions at half of them.

It spares loading the reference: `llama-perplexity --save-all-logits` and llmedge write it, and both
compare variants with it. Layout, little endian: `_logits_`, u32 tokens in a chunk, i32 size of the
vocabulary, i32 number of chunks, i32 tokens; then for each position of each chunk's second half
but the last one f32 scale, f32 floor and u16 codes, one a token of the vocabulary and one more
where their number is odd. The logarithm of a probability is `scale * code + floor`.

Source: llama.cpp tools/perplexity/perplexity.cpp, `perplexity` and `kl_divergence`.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from llmedge.core.closable import Closable
from llmedge.core.errors import IntegrityError, NotFoundError, UsageError
from llmedge.host.memory import require_free_disk
from llmedge.measure.predictions import CodedRows, encode
from llmedge.store.atomic import make_folder, replacing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

_MAGIC = b"_logits_"
_HEAD = struct.Struct("<8sIii")
_MAX_CTX = 1 << 27
_ROW_HEAD_BYTES = 8
_MAX_STRAY = 0.1  # of probabilities that should add up to 1; 16 bits and 16 nats cost up to 0.03


@dataclass(frozen=True, slots=True)
class KlBaseHeader:
    """What a base file holds.

    Attributes:
        n_ctx: Tokens in a chunk.
        n_vocab: Size of the vocabulary.
        n_chunks: Chunks.
    """

    n_ctx: int
    n_vocab: int
    n_chunks: int

    @property
    def n_rows(self) -> int:
        """Positions of a chunk that are kept."""
        return self.n_ctx - 1 - self.n_ctx // 2

    @property
    def row_bytes(self) -> int:
        """Bytes of a position."""
        return _ROW_HEAD_BYTES + 4 * ((self.n_vocab + 1) // 2)

    @property
    def rows_offset(self) -> int:
        """Where the first position begins."""
        return _HEAD.size + 4 * self.n_ctx * self.n_chunks

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.rows_offset + self.n_chunks * self.n_rows * self.row_bytes


class KlBaseReader(Closable):
    """Reads a base file piece by piece.

    Args:
        path: The file.

    Attributes:
        path: The file.
        header: What it holds.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no base file, or its length is not what its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise NotFoundError(f"the base file {path} is no regular file")
        try:
            self._file = path.open("rb", buffering=0)  # each read is large and made once
        except OSError as error:
            raise NotFoundError(
                f"the base file {path} cannot be read: {error.strerror}",
                "write one with --reference MODEL --save-base FILE",
            ) from None
        try:
            self.header = self._read_header()
        except IntegrityError:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def chunk(self, index: int) -> list[int]:
        """Return a chunk's tokens.

        Raises:
            IntegrityError: A token is not in the vocabulary.
        """
        head = self.header
        data = self._read(_HEAD.size + 4 * head.n_ctx * index, 4 * head.n_ctx)
        tokens = np.frombuffer(data, dtype="<i4")
        if tokens.min() < 0 or tokens.max() >= head.n_vocab:
            raise self._damaged(f"chunk {index} has tokens beyond the vocabulary")
        return [int(token) for token in tokens]

    def rows(self, chunk: int, first: int, n: int) -> CodedRows:
        """Return the predictions at `n` kept positions of a chunk, the first of them `first`.

        Raises:
            IntegrityError: They are no probabilities.
        """
        head = self.header
        offset = head.rows_offset + (chunk * head.n_rows + first) * head.row_bytes
        raw = np.frombuffer(self._read(offset, n * head.row_bytes), dtype="<u2").reshape(n, -1)
        scales, floors = raw[:, :4].copy().view("<f4").T
        if not (np.isfinite(scales) & np.isfinite(floors) & (scales >= 0)).all():
            raise self._damaged(f"chunk {chunk} has scales that are no numbers")
        with np.errstate(over="ignore"):  # what overflows is refused below
            rows = CodedRows(raw[:, 4 : 4 + head.n_vocab], scales, floors)
            stray = np.abs(rows.totals - 1)
        if not (stray < _MAX_STRAY).all():
            raise self._damaged(f"chunk {chunk} has probabilities that do not add up to 1")
        return rows

    def _read_header(self) -> KlBaseHeader:
        n_bytes = os.fstat(self._file.fileno()).st_size
        if n_bytes < _HEAD.size:
            raise self._damaged("it is too short")
        magic, *counts = _HEAD.unpack(self._file.read(_HEAD.size))
        header = KlBaseHeader(*counts)
        if magic != _MAGIC:
            raise self._damaged("it does not begin with _logits_")
        if not 4 <= header.n_ctx <= _MAX_CTX or header.n_vocab < 1 or header.n_chunks < 1:
            raise self._damaged(
                f"{header.n_chunks} chunks of {header.n_ctx} tokens of {header.n_vocab} cannot be"
            )
        if header.file_bytes != n_bytes:
            raise self._damaged(f"it has {n_bytes} bytes and should have {header.file_bytes}")
        return header

    def _read(self, offset: int, n_bytes: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise self._damaged("it became shorter while it was read")
        return data

    def _damaged(self, reason: str) -> IntegrityError:
        return IntegrityError(
            f"{self.path} is no sound KL base file: {reason}",
            "write it again with --reference MODEL --save-base FILE",
        )


class KlBaseWriter:
    """Writes the predictions after the tokens; made by `writing_base`."""

    def __init__(self, file: BinaryIO, header: KlBaseHeader) -> None:
        self._file = file
        self.header = header

    def add(self, logits: NDArray[np.float32]) -> None:
        """Append the predictions at the next positions from their logits, `(n, n_vocab)`."""
        codes, heads = encode(logits)
        raw = np.zeros((len(logits), self.header.row_bytes // 2), dtype="<u2")
        raw[:, :4] = heads.astype("<f4").view("<u2")
        raw[:, 4 : 4 + self.header.n_vocab] = codes
        self._file.write(raw.tobytes())


@contextlib.contextmanager
def writing_base(
    path: Path, chunks: Iterable[list[int]], *, n_ctx: int, n_vocab: int
) -> Generator[KlBaseWriter]:
    """Write a base file aside, and put it in its place once it is whole.

    Args:
        path: The file.
        chunks: The text; chunks shorter than `n_ctx` are left out, as the format wants.
        n_ctx: Tokens in a chunk.
        n_vocab: Size of the vocabulary.

    Yields:
        Where the predictions go, chunk by chunk.

    Raises:
        UsageError: No chunk is whole, or another kind of file would be replaced.
        ResourceError: The disk is full or read-only.
        IntegrityError: What was written is not what it should be.
    """
    _require_replaceable(path)
    make_folder(path.parent)
    with replacing(path) as partial:
        with partial.open("wb") as file:
            file.write(bytes(_HEAD.size))
            n_chunks = 0
            for chunk in chunks:
                if len(chunk) == n_ctx:
                    file.write(np.asarray(chunk, dtype="<i4").tobytes())
                    n_chunks += 1
            if n_chunks == 0:
                raise UsageError(
                    f"the text has no whole chunk of {n_ctx} tokens", "use a smaller --ctx"
                )
            header = KlBaseHeader(n_ctx, n_vocab, n_chunks)
            require_free_disk(path.parent, header.file_bytes - header.rows_offset)
            yield KlBaseWriter(file, header)
            file.seek(0)
            file.write(_HEAD.pack(_MAGIC, n_ctx, n_vocab, n_chunks))
        KlBaseReader(partial).close()


def _require_replaceable(path: Path) -> None:
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                return
    raise UsageError(
        f"{path} is in the way: it is no KL base file", "choose another name with --save-base"
    )
