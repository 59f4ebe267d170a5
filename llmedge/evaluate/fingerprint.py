"""What a comparison depends on: two evaluations are of the same thing where these agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.runtime.library import library_info
from llmedge.store.manifest import file_sha256, hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.measure.corpus import Corpus
    from llmedge.runtime.context import ContextOptions


@dataclass(frozen=True, slots=True)
class EvaluationFingerprint:
    """The conditions of a comparison.

    Attributes:
        variant_sha256: The variant's hash.
        reference_sha256: The reference's.
        text_sha256: The text's.
        n_ctx: Tokens in a chunk.
        max_chunks: Most chunks; `None` for all.
        type_k: Type of the keys in the kv cache.
        type_v: Type of the values in the kv cache.
        flash_attention: `auto`, `on` or `off`.
        llama_cpp: Version and commit of llama.cpp.
    """

    variant_sha256: str
    reference_sha256: str
    text_sha256: str
    n_ctx: int
    max_chunks: int | None
    type_k: str
    type_v: str
    flash_attention: str
    llama_cpp: str


def take_evaluation_fingerprint(
    variant: Path,
    reference: Path,
    corpus: Corpus,
    context: ContextOptions,
    max_chunks: int | None,
) -> EvaluationFingerprint:
    """Describe a comparison; large files without a sidecar are hashed, which takes seconds."""
    return EvaluationFingerprint(
        variant_sha256=file_sha256(variant),
        reference_sha256=file_sha256(reference),
        text_sha256=hash_file(corpus.path),
        n_ctx=context.n_ctx,
        max_chunks=max_chunks,
        type_k=context.type_k,
        type_v=context.type_v,
        flash_attention=context.flash_attention,
        llama_cpp=library_info().label,
    )
