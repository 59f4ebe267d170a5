"""Texts to vectors, or pairs of texts to scores, several of them in one decode call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.core.errors import ContextLengthError, EngineError, UnsupportedError, UsageError
from llmedge.gguf.reader import Array
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import POOLING, Context, ContextOptions, DecodeResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llmedge.gguf.reader import Header
    from llmedge.runtime.model import Model


def trained_pooling(header: Header) -> str | None:
    """Return how a model pools by its file: it was trained for embeddings, or to `rank`.

    `None` is a model that predicts text, or one that does not say how it pools.
    """
    kind = header.hyperparameter("pooling_type")
    return next((name for name, number in POOLING.items() if number == kind and number > 0), None)


def is_causal(header: Header) -> bool:
    """Whether a token sees only those before it, as it must to predict the next."""
    return header.metadata.get(f"{header.architecture}.attention.causal") is not False


def is_trained_to_embed(model: Model) -> bool:
    """Whether the file says how the model pools: it was trained for embeddings."""
    return trained_pooling(model.header) not in (None, "rank")


def score_index(header: Header) -> int:
    """Return which of a reranker's outputs is the score: its only one, or that for "yes".

    Raises:
        UnsupportedError: It tells several classes apart.
    """
    labels = header.metadata.get(f"{header.architecture}.classifier.output_labels")
    names = [str(label).lower() for label in labels.items] if isinstance(labels, Array) else []
    if len(names) > 1 and "yes" not in names:
        raise UnsupportedError(
            f"{header.path.name} sorts texts into {len(names)} classes, and gives no score",
            "choose a reranker, which has one output",
        )
    return names.index("yes") if len(names) > 1 else 0


class Embedder:
    """Embeds texts with a context of its own.

    Args:
        model: Any model.
        pooling: `model` as it was trained; for others `mean`, `cls` or `last` must be chosen.
        n_tokens: Tokens that one text may have, and that are computed at once; no more than the
            model was trained for.
        n_seqs: Texts that are computed at once.
        n_threads: Threads; `None` takes the performance cores.
        flash_attention: As in `ContextOptions`.

    Attributes:
        context: Its own; `abort` ends a computation from any thread.
        n_tokens: Tokens that one text may have.

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
        flash_attention: str = "auto",
    ) -> None:
        if pooling == "model" and trained_pooling(model.header) is None:
            raise UsageError(
                f"{model.path.name} was not trained for embeddings",
                "choose a pooling, mean or last, or use an embedding model",
            )
        # Beyond the trained positions an encoder's table ends, and so would the process.
        self.n_tokens = min(n_tokens, model.n_ctx_train)
        # An encoder sees a text only whole, so that a batch is one micro-batch.
        options = ContextOptions(
            n_ctx=self.n_tokens,
            n_batch=self.n_tokens,
            n_ubatch=self.n_tokens,
            n_seq_max=n_seqs,
            n_threads=n_threads,
            pooling=pooling,
            flash_attention=flash_attention,
        )
        self.context = Context(model, options)
        self._batch = Batch(self.n_tokens)

    def close(self) -> None:
        """Free the context; twice is harmless."""
        self._batch.close()
        self.context.close()

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
        begin = n_tokens = 0
        for end, tokens in enumerate(texts):
            is_full = n_tokens + len(tokens) > self.n_tokens
            if is_full or end - begin == self.context.n_seq_max:
                vectors += self._require(self.compute(texts[begin:end]))
                begin, n_tokens = end, 0
            n_tokens += len(tokens)
        return vectors + self._require(self.compute(texts[begin:]))

    def compute(self, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]] | None:
        """Return the vectors of texts that fit in one decode call, or `None` where it was aborted.

        Raises:
            EngineError: llama.cpp failed.
        """
        if not texts:
            return []
        self._batch.clear()
        for seq_id, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                self._batch.add(token, position, seq_id=seq_id, wants_logits=True)
        if self.context.has_memory:
            self.context.clear()
        result = self.context.decode(self._batch)
        if result is DecodeResult.ABORTED:
            return None
        if result is not DecodeResult.OK:
            raise EngineError(f"embeddings were not computed: {result.name.lower()}")
        return [self.context.embedding(seq_id) for seq_id in range(len(texts))]

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise UsageError("a text to embed is empty")
        if len(tokens) > self.n_tokens:
            raise ContextLengthError(
                f"a text to embed has {len(tokens)} tokens, the context holds {self.n_tokens}",
                "shorten the text, or start with a larger --ctx",
            )

    def _require(self, vectors: list[NDArray[np.float32]] | None) -> list[NDArray[np.float32]]:
        if vectors is None:
            raise EngineError("embeddings were not computed: aborted")
        return vectors
