"""Models that were trained for one quant type, and how those are quantized."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmedge.gguf.tensor_roles import EMBEDDING, role_of

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header

# Google's names for Gemma's checkpoints: `gemma-3-4b-it-qat-q4_0-unquantized`.
_NAMES = re.compile(r"\bqat[-_ .]+(q4[-_ .]0)\b", re.IGNORECASE)
_KEYS = ("general.name", "general.basename", "general.finetune", "general.base_model.0.name")


def trained_type(header: Header) -> str | None:
    """Return the mix that a model was trained for (`Q4_0`), or `None`.

    Source: the model cards of google/gemma-3-*-it-qat-q4_0-unquantized.
    """
    texts = [header.text(key) or "" for key in _KEYS]
    texts += [header.path.stem, header.path.parent.name]
    is_gemma = header.architecture.startswith("gemma")
    return "Q4_0" if is_gemma and any(map(_NAMES.search, texts)) else None


def trained_types(header: Header) -> dict[str, str]:
    """Return the types of tensors that do not get the trained one: the embedding, in 6 bits."""
    return {
        tensor.name: "Q6_K" if tensor.shape[0] % 256 == 0 else "Q8_0"
        for tensor in header.tensors
        if role_of(tensor.name) == EMBEDDING
    }
