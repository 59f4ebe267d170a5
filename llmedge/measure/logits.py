"""A chunk of text through one or several models in step, logits handed over piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import EngineError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, DecodeResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# Logits of one step and model: 64 MiB hold 340 rows of SmolLM2's vocabulary, 64 of Gemma's.
_LOGITS_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """Positions at which every model was asked.

    Attributes:
        logits: One view a model, `(n, n_vocab)`; valid until the next step.
        next_tokens: The tokens that really follow, `(n,)`.
    """

    logits: tuple[NDArray[np.float32], ...]
    next_tokens: NDArray[np.int64]


def rows_at_once(n_vocab: int, n_ctx: int) -> int:
    """Return how many rows of logits fit the memory set aside for them."""
    return max(1, min(n_ctx, _LOGITS_BYTES // (4 * n_vocab)))


def decode_in_step(contexts: Sequence[Context], tokens: Sequence[int]) -> Iterator[Step]:
    """Decode a chunk in all contexts and yield the logits of its second half.

    The first half is what the models read before they are asked, as llama.cpp's perplexity tool
    does it; the chunk's last token has no successor.

    Args:
        contexts: Their batches hold at least `rows_at_once` tokens.
        tokens: The chunk, at most as long as the contexts.

    Raises:
        EngineError: llama.cpp failed, or a kv cache is too small.
    """
    n_rows = min(context.n_batch for context in contexts)
    first = len(tokens) // 2
    usable = tokens[:-1]
    following = np.asarray(tokens[1:], dtype=np.int64)
    with Batch(n_rows) as batch:
        for context in contexts:
            context.clear()
        for start in range(0, len(usable), n_rows):
            part = usable[start : start + n_rows]
            n_outputs = max(0, min(len(part), start + len(part) - first))
            batch.fill(part, start, n_logits=n_outputs)
            for context in contexts:
                if context.decode(batch) is not DecodeResult.OK:
                    raise EngineError("the context is too small for the chunk")
            if n_outputs:
                end = start + len(part)
                yield Step(
                    tuple(context.logits() for context in contexts),
                    following[end - n_outputs : end],
                )
