"""Chunks of text through one or several models in step, logits handed over piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import EngineError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llmedge.runtime.model import Model

# Logits of one decode call and model: 256 MiB hold half of 512 tokens of any vocabulary up to
# 262,144, so that a batch is what llama.cpp's perplexity tool makes it: batches of other sizes run
# other kernels, which round otherwise.
_LOGITS_BYTES = 256 << 20
_MAX_CHUNKS = 64  # the library knows 256 sequences


@dataclass(frozen=True, slots=True)
class Step:
    """Positions of one chunk at which every model was asked.

    Attributes:
        chunk: The chunk's place among those that were given.
        first: The first position's place in the chunk; the others follow.
        logits: One view a model, `(n, n_vocab)`; valid until the next step.
        next_tokens: The tokens that really follow, `(n,)`.
    """

    chunk: int
    first: int
    logits: tuple[NDArray[np.float32], ...]
    next_tokens: NDArray[np.int64]


def rows_at_once(n_vocab: int, n_wanted: int) -> int:
    """Return how many of the wanted rows of logits fit the memory set aside for them."""
    return max(1, min(n_wanted, _LOGITS_BYTES // (4 * n_vocab)))


def chunks_at_once(options: ContextOptions) -> int:
    """Return how many chunks of `n_ctx` tokens are decoded together: as many as fit `n_batch`."""
    return min(_MAX_CHUNKS, max(1, options.n_batch // options.n_ctx))


def logits_bytes(n_vocab: int, options: ContextOptions) -> int:
    """Return the memory that a context of `step_context` takes for logits, computed and kept."""
    return 2 * 4 * n_vocab * _rows(n_vocab, options, chunks_at_once(options))


def step_context(model: Model, options: ContextOptions) -> Context:
    """Make a context for `decode_in_step`, its logits' memory bounded.

    Args:
        model: The model. One with a recurrent state, which is kept once a sequence, takes one
            chunk at a time.
        options: How to run it; `n_ctx` is the length of a chunk.

    Raises:
        ResourceError: The memory is not there.
    """
    n_chunks = chunks_at_once(options) if model.can_rewind else 1
    return Context(
        model,
        replace(
            options,
            n_ctx=n_chunks * options.n_ctx,
            n_seq_max=n_chunks,
            n_outputs_max=_rows(model.vocab.n_tokens, options, n_chunks),
        ),
    )


def decode_in_step(contexts: Sequence[Context], chunks: Sequence[Sequence[int]]) -> Iterator[Step]:
    """Decode chunks in all contexts, as parallel sequences, and yield their second halves' logits.

    The first half is what the models read before they are asked, as llama.cpp's perplexity tool
    does it; a chunk's last token has no successor and is not asked about.

    Args:
        contexts: Of `step_context`.
        chunks: At most as many as each context's `n_seq_max`, none longer than it was made for.

    Raises:
        EngineError: llama.cpp failed, or a kv cache is too small.
    """
    n_batch = min(context.n_batch for context in contexts)
    n_rows = min(context.n_outputs_max for context in contexts)
    for context in contexts:
        context.clear()
    with Batch(n_batch) as batch:
        asked: list[tuple[int, int]] = []
        for chunk, position in _order(chunks):
            wants_logits = position >= len(chunks[chunk]) // 2
            if batch.n_tokens == n_batch or (wants_logits and batch.n_outputs == n_rows):
                yield from _decode(contexts, chunks, batch, asked)
                batch.clear()
                asked = []
            batch.add(chunks[chunk][position], position, seq_id=chunk, wants_logits=wants_logits)
            if wants_logits:
                asked.append((chunk, position))
        yield from _decode(contexts, chunks, batch, asked)


def _rows(n_vocab: int, options: ContextOptions, n_chunks: int) -> int:
    n_wanted = n_chunks * (options.n_ctx - options.n_ctx // 2)
    return rows_at_once(n_vocab, min(n_wanted, options.n_batch))


def _order(chunks: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Yield chunks and positions: all first halves, so that they share batches, then the rest."""
    halves = [len(tokens) // 2 for tokens in chunks]
    for chunk, half in enumerate(halves):
        yield from ((chunk, position) for position in range(half))
    for chunk, half in enumerate(halves):
        yield from ((chunk, position) for position in range(half, len(chunks[chunk])))


def _decode(
    contexts: Sequence[Context],
    chunks: Sequence[Sequence[int]],
    batch: Batch,
    asked: Sequence[tuple[int, int]],
) -> Iterator[Step]:
    """Decode a batch and yield a step for each chunk that was asked about in it."""
    for context in contexts:
        if context.decode(batch) is not DecodeResult.OK:
            raise EngineError("the context is too small for the chunk")
    if not asked:
        return
    logits = [context.logits() for context in contexts]
    for chunk in dict(asked):
        rows = [row for row, (of, _) in enumerate(asked) if of == chunk]
        first = asked[rows[0]][1]
        following = chunks[chunk][first + 1 : first + 1 + len(rows)]
        # The last row of a chunk was only computed to make the batch like llama.cpp's.
        part = slice(rows[0], rows[0] + len(following))
        if following:
            yield Step(
                chunk,
                first,
                tuple(view[part] for view in logits),
                np.asarray(following, dtype=np.int64),
            )
