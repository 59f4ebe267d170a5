"""Tiny models of real classes, and what enters their weights."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from llmedge.gguf.writer import Metadata, encode_metadata
from llmedge.quantize.collector import Collector
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.model import Model
from llmedge.runtime.observer import Observation
from tests.convert import parity
from tests.convert.cases import CASES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from llmedge.gguf.imatrix_file import ImatrixSums

BY_NAME = {case.name: case for case in CASES}


def byte_vocabulary(n_tokens: int = parity.N_VOCAB) -> Metadata:
    """Return a vocabulary of the bytes, filled up, so that texts become tokens."""
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    tokens += [f"<filler {number}>".encode() for number in range(n_tokens - len(tokens))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (n_tokens - 259)]
    return encode_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": array("f", [0.0] * n_tokens),
            "tokenizer.ggml.token_type": array("i", kinds),
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.add_space_prefix": False,
        }
    )


def make_variant(name: str, folder: Path) -> Path:
    """Convert a case's checkpoint with a byte vocabulary."""
    parity.make_checkpoint(BY_NAME[name], folder / "checkpoint")
    return parity.convert(
        folder / "checkpoint", folder / f"{name}.gguf", vocabulary=byte_vocabulary()
    )


def random_chunks(n_tokens: int = 48) -> list[list[int]]:
    """Return two chunks of tokens that every case has."""
    random = np.random.default_rng(3)
    return random.integers(3, 250, (2, n_tokens)).tolist()


def collect(
    path: Path,
    chunks: Sequence[Sequence[int]],
    *,
    unneeded: Collection[str] = (),
    n_rows: int | None = None,
) -> tuple[ImatrixSums, bool]:
    """Return what enters each weight, and whether graphs ended before the output."""
    n_ctx = len(chunks[0])
    rows = n_rows or n_ctx
    options = ContextOptions(
        n_ctx=n_ctx,
        n_batch=rows,
        n_ubatch=rows,
        type_k="f32",
        type_v="f32",
        flash_attention="off",
        n_threads=1,
    )
    with Model.load(path) as model:
        collector = Collector([tensor.name for tensor in model.header.tensors])
        observation = Observation(collector, unneeded)
        with Context(model, options, observation) as context, Batch(rows) as batch:
            for chunk in chunks:
                context.clear()
                for start in range(0, n_ctx, rows):
                    part = chunk[start : start + rows]
                    batch.fill(part, start, n_logits=len(part))
                    assert context.decode(batch) is DecodeResult.OK
    return collector.sums((), len(chunks), n_ctx), observation.stops_early


def assert_same(one: ImatrixSums, other: ImatrixSums, *, rtol: float = 0) -> None:
    """Compare names, shapes, counts and sums; sums to the last bit unless told otherwise."""
    assert one.entries.keys() == other.entries.keys()
    for name, entry in one.entries.items():
        expected = other.entries[name]
        assert entry.counts.tolist() == expected.counts.tolist(), name
        np.testing.assert_allclose(entry.sums, expected.sums, rtol=rtol, err_msg=name)
