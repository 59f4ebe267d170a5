"""The original and what was made of it, asked the same: how far apart are their answers?

The original runs in transformers, in a process of its own, so that converting never loads torch.
Both are given the same tokens; whether the tokenizers agree is checked elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmedge.core.errors import (
    EngineError,
    JudgementError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.core.extras import require_extra
from llmedge.core.units import format_mib
from llmedge.gguf.reader import read_header
from llmedge.host.child import Child, ChildDied, Talk
from llmedge.host.memory import read_memory
from llmedge.measure.kl_divergence import DivergenceMeter
from llmedge.measure.sentences import read_sentences
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.model import Model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_KINDS = ("en", "hi", "ta", "bn", "ar", "zh", "code", "numbers")
_N_TOKENS = 256
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_HEADROOM = 1.3

# What counts as agreement, by bits per weight of the file: mean KL divergence at most, share of
# equal predictions at least. At 16 bits and more only a right conversion passes; below, the loss of
# quantizing hides small mistakes, and is `llmedge evaluate`'s to judge.
_BOUNDS = ((14.0, 0.002, 0.97), (7.5, 0.02, 0.93), (4.0, 0.60, 0.50), (0.0, 2.0, 0.30))
_HALF_NOISE = 0.01  # what an original that is itself computed in 16 bits adds


@dataclass(frozen=True, slots=True)
class Verification:
    """How far a variant is from its original.

    Attributes:
        n_tokens: Positions compared.
        kl: Mean KL divergence of the variant's predictions from the original's, in nats.
        argmax: Share of positions where both predict the same token.
        max_kl: Largest `kl` that passes.
        min_argmax: Smallest `argmax` that passes.
        dtype: What the original was computed in.
    """

    n_tokens: int
    kl: float
    argmax: float
    max_kl: float
    min_argmax: float
    dtype: str

    @property
    def has_passed(self) -> bool:
        """Whether the two agree."""
        return self.kl <= self.max_kl and self.argmax >= self.min_argmax


def require_verifiable(n_weights: int, *, is_encoder: bool, has_adapter: bool) -> None:
    """Make sure, before anything is converted, that the result can be verified.

    Args:
        n_weights: Of the model.
        is_encoder: Whether it makes embeddings.
        has_adapter: Whether an adapter is merged into it.

    Raises:
        MissingExtraError: torch and transformers are not installed.
        UnsupportedError: There are no predictions to compare.
        UsageError: The checkpoint is not what the variant is made of.
        ResourceError: The memory does not hold the original.
    """
    if has_adapter:
        raise UsageError(
            "--verify compares with the checkpoint, which does not have the adapter",
            "verify the base without --adapter, or an adapter that was merged by PEFT",
        )
    if is_encoder:
        raise UnsupportedError(
            "--verify compares predictions of text, which an embedding model does not make",
            "without --verify the conversion itself is not affected",
        )
    require_extra("verify", "torch", "transformers", reason="--verify")
    _choose_dtype(n_weights)


def verify(folder: Path, variant: Path, n_threads: int) -> Verification:
    """Run a checkpoint and its variant on the same text.

    256 tokens of several languages: what only shows beyond that, such as the scaling of long
    contexts, is out of its sight.

    Args:
        folder: The checkpoint's.
        variant: What was made of it.
        n_threads: Threads to compute with.

    Raises:
        UnsupportedError: transformers cannot run the checkpoint without running its code.
        ResourceError: The memory does not hold the original.
    """
    header = read_header(variant)
    dtype = _choose_dtype(header.n_weights)
    max_kl, min_argmax = next(
        (kl, argmax) for bits, kl, argmax in _BOUNDS if header.bits_per_weight >= bits
    )
    if dtype != "float32":
        max_kl += _HALF_NOISE
    with Child(_measure, folder, variant, dtype, n_threads) as child:
        try:
            n_tokens, kl, argmax = child.wait()
        except ChildDied as death:
            raise ResourceError(
                f"the original could not be run: ended by {death.cause}",
                "most likely the memory ran out; verify on a larger machine",
            ) from None
    return Verification(n_tokens, kl, argmax, max_kl, min_argmax, dtype)


def require_agreement(verification: Verification) -> None:
    """Judge.

    Raises:
        JudgementError: The variant does not agree with its original.
    """
    if not verification.has_passed:
        raise JudgementError(
            f"the variant does not agree with its original: KL divergence {verification.kl:.4f} "
            f"(at most {verification.max_kl}), equal predictions {verification.argmax:.1%} "
            f"(at least {verification.min_argmax:.0%})",
            "do not use it; convert again to BF16 with --verify to tell a wrong conversion from a "
            "lossy mix",
        )


def _choose_dtype(n_weights: int) -> str:
    available = read_memory().available_bytes
    for dtype, width in (("float32", _FLOAT_BYTES), ("bfloat16", _HALF_BYTES)):
        if n_weights * width * _HEADROOM < available:
            return dtype
    raise ResourceError(
        f"the original takes {format_mib(n_weights * _HALF_BYTES)}, {format_mib(available)} are "
        "available",
        "verify on a machine with more memory",
    )


def _measure(
    _: Talk, folder: Path, variant: Path, dtype: str, n_threads: int
) -> tuple[int, float, float]:
    """Run in the child."""
    options = ContextOptions(
        n_ctx=_N_TOKENS, n_batch=_N_TOKENS, type_k="f32", type_v="f32", n_threads=n_threads
    )
    with Model.load(variant) as model:
        tokens = _tokens(model)
        with Context(model, options) as context, Batch(len(tokens)) as batch:
            batch.fill(tokens, 0, n_logits=len(tokens))
            if context.decode(batch) is not DecodeResult.OK:
                raise EngineError("llama.cpp could not run the variant")
            ours = context.logits().copy()
    theirs = _original_logits(folder, tokens, dtype, n_threads)
    meter = DivergenceMeter()
    meter.add(theirs[:-1, : ours.shape[1]], ours[:-1], np.asarray(tokens[1:], np.int64))
    found = meter.result()
    return found.n_tokens, found.mean_kld, found.top1_agreement


def _tokens(model: Model) -> list[int]:
    """Return a few sentences of each of several languages, to the length of the context."""
    texts = [sentence.text for kind in _KINDS for sentence in read_sentences([kind])[:4]]
    tokens = model.vocab.tokenize("\n".join(texts), add_special=True)
    return tokens[: min(_N_TOKENS, model.n_ctx_train)]


def _original_logits(
    folder: Path, tokens: list[int], dtype: str, n_threads: int
) -> NDArray[np.float32]:
    try:
        import torch
        import transformers
    except (ImportError, OSError) as error:
        raise UnsupportedError(
            f"torch or transformers cannot be imported: {error}", "pip install 'llmedge[verify]'"
        ) from None
    torch.set_num_threads(n_threads)
    auto: Any = transformers.AutoModelForCausalLM
    try:
        original = auto.from_pretrained(
            folder, dtype=getattr(torch, dtype), trust_remote_code=False, local_files_only=True
        )
    except (ValueError, OSError, KeyError, ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"transformers {transformers.__version__} cannot run {folder}: {error}",
            "without --verify the conversion itself is not affected",
        ) from None
    with torch.no_grad():
        return original.eval()(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
