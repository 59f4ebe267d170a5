"""Texts to vectors, as each dialect wants them: checked, cut, normalised."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmedge.core.errors import EngineError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.engine.engine import Embedding, Engine, ModelInfo

_MAX_TEXTS = 2048


def require_texts(n_texts: int, name: str) -> None:
    """Refuse no texts, and too many."""
    if not 1 <= n_texts <= _MAX_TEXTS:
        raise UsageError(f"{name} has {n_texts} items, not 1 to {_MAX_TEXTS}")


def require_tokens(tokens: Sequence[int], info: ModelInfo, name: str) -> None:
    """Refuse tokens that the vocabulary does not have."""
    for token in tokens:
        if not 0 <= token < info.n_vocab:
            raise UsageError(f"{name} has the token {token}, not from 0 to {info.n_vocab - 1}")


async def embed_texts(
    engine: Engine,
    texts: Sequence[str | Sequence[int]],
    *,
    dimensions: int | None = None,
) -> list[Embedding]:
    """Turn texts, or their tokens, into vectors, not normalised.

    Args:
        engine: Runs the model.
        texts: At least one.
        dimensions: Checked only; the caller cuts with `normalised`.

    Raises:
        UsageError: No texts, unknown tokens or wrong dimensions.
        UnsupportedError: The model was not trained for it.
    """
    info = engine.info
    if not info.can_embed:
        raise UnsupportedError(f"the model {info.id!r} was not trained to embed texts")
    if dimensions is not None and not 1 <= dimensions <= info.n_embd:
        raise UsageError(f"dimensions is {dimensions}, not from 1 to {info.n_embd}")
    require_texts(len(texts), "input")
    for text in texts:
        if not isinstance(text, str):
            if not text:
                raise UsageError("input has an empty list of tokens")
            require_tokens(text, info, "input")
    vectors = await engine.embed(texts)
    if not all(math.isfinite(value) for vector in vectors for value in vector.values):
        raise EngineError(f"the model {info.id!r} computed a vector that is not of numbers")
    return vectors


def normalised(values: Sequence[float], dimensions: int | None = None) -> list[float]:
    """Return the first dimensions of a vector, of length 1; a vector of zeros stays as it is."""
    kept = values[:dimensions]
    norm = math.hypot(*kept)
    return [value / norm for value in kept] if norm > 0 else list(kept)
