"""Texts to vectors, several of them in one decode call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.core.errors import ContextLengthError, EngineError, UsageError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llmedge.runtime.model import Model

# Source: include/llama.h `enum llama_pooling_type`: none and rank are no embeddings.
_TRAINED = (1, 2, 3)


def is_trained_to_embed(model: Model) -> bool:
    """Whether the file says how the model pools: it was trained for embeddings."""
    return model.header.hyperparameter("pooling_type") in _TRAINED


class Embedder:
    """Embeds texts with a context of its own.

    Args:
        model: Any model.
        pooling: `model` as it was trained; for others `mean` or `last` must be chosen.
        n_tokens: Tokens that one text may have, and that are computed at once.
        n_seqs: Texts that are computed at once.
        n_threads: Threads; `None` takes the performance cores.

    Raises:
        UsageError: The model was not trained for embeddings, and no pooling was chosen.
        ResourceError: The memory is not there.
    """

    def __init__(
        self,
        model: Model,
        pooling: str = "model",
        *,
        n_tokens: int = 512,
        n_seqs: int = 8,
        n_threads: int | None = None,
    ) -> None:
        if pooling == "model" and not is_trained_to_embed(model):
            raise UsageError(
                f"{model.path.name} was not trained for embeddings",
                "choose a pooling, mean or last, or use an embedding model",
            )
        # An encoder sees a text only whole, so that a batch is one micro-batch.
        options = ContextOptions(
            n_ctx=n_tokens,
            n_batch=n_tokens,
            n_ubatch=n_tokens,
            n_seq_max=n_seqs,
            n_threads=n_threads,
            pooling=pooling,
        )
        self._context = Context(model, options)
        self._batch = Batch(n_tokens)

    def close(self) -> None:
        """Free the context; twice is harmless."""
        self._batch.close()
        self._context.close()

    def embed(self, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Return one vector for each text, `(n_embd,)`, not normalised.

        Args:
            texts: Their tokens, with those around a text that the model wants.

        Raises:
            UsageError: A text has no tokens.
            ContextLengthError: A text has more than the context holds.
            EngineError: llama.cpp failed, or the computation was aborted.
        """
        for tokens in texts:
            self._check(tokens)
        vectors: list[NDArray[np.float32]] = []
        self._batch.clear()
        n_seqs = 0
        for tokens in texts:
            is_full = self._batch.n_tokens + len(tokens) > self._batch.n_max
            if is_full or n_seqs == self._context.n_seq_max:
                vectors += self._compute(n_seqs)
                n_seqs = 0
            for position, token in enumerate(tokens):
                self._batch.add(token, position, seq_id=n_seqs, wants_logits=True)
            n_seqs += 1
        return vectors + self._compute(n_seqs)

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise UsageError("a text to embed is empty")
        if len(tokens) > self._batch.n_max:
            raise ContextLengthError(
                f"a text to embed has {len(tokens)} tokens, the context holds {self._batch.n_max}",
                "shorten the text, or start with a larger --ctx",
            )

    def _compute(self, n_seqs: int) -> list[NDArray[np.float32]]:
        if n_seqs == 0:
            return []
        if self._context.has_memory:
            self._context.clear()
        result = self._context.decode(self._batch)
        if result is not DecodeResult.OK:
            raise EngineError(f"embeddings were not computed: {result.name.lower()}")
        self._batch.clear()
        return [self._context.embedding(seq_id) for seq_id in range(n_seqs)]
