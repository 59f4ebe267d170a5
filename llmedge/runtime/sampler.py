"""The sampler chain: how the next token is chosen from the logits."""

from __future__ import annotations

import ctypes
import math
import secrets
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError
from llmedge.runtime.handle import Handle
from llmedge.runtime.library import library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmedge.runtime.context import Context
    from llmedge.runtime.vocab import Vocab

_MAX_SEED = 0xFFFFFFFE  # llama.cpp reads 0xFFFFFFFF as "choose one"
_MAX_WINDOW = 1 << 16
# llama.cpp looks through the whole vocabulary for each: 0.1 s with 262k tokens, once a chain.
_MAX_BREAKERS = 16
# llama.h's llama_token_data.
_CANDIDATE = [("id", "i4"), ("logit", "f4"), ("p", "f4")]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to choose tokens; the defaults are llama.cpp's.

    Attributes:
        temperature: 0 always takes the most likely token.
        top_k: Only the k most likely tokens; 0 takes all.
        top_p: Only the most likely tokens that make up this share.
        min_p: Only tokens at least this likely in proportion to the most likely.
        repeat_penalty: Divides the logits of the last tokens; 1 is off.
        frequency_penalty: Subtracted for each time a token appeared; 0 is off.
        presence_penalty: Subtracted once a token appeared; 0 is off.
        seed: Any number gives the same text again; `None` chooses one.
        typical_p: Only tokens about as surprising as is to be expected, up to this share; 1 is off.
        xtc_probability: How often all but the last of several likely tokens are left out; 0 is off.
        xtc_threshold: How likely these are.
        top_n_sigma: Only tokens within so many standard deviations of the most likely; 0 is off.
        min_keep: Tokens that each filter leaves at least.
        penalty_last_n: Tokens that the penalties look back; 0 is off, -1 as far as they can.
        dry_multiplier: Strength of the penalty for going on with a repetition; 0 is off.
        dry_base: Grows with each token that a repetition is longer than allowed.
        dry_allowed_length: Tokens that may be repeated.
        dry_penalty_last_n: Tokens that are searched for repetitions; -1 as far as it can.
        dry_sequence_breakers: Texts at which a repetition begins anew.
        logit_bias: Added to the logits of tokens by their ids; minus infinity bans one.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    top_n_sigma: float = 0.0
    min_keep: int = 1
    penalty_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    logit_bias: tuple[tuple[int, float], ...] = ()


class SamplerChain(Handle):
    """llama.cpp's samplers in its own order.

    Bias, penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature, draw. Top-k
    comes first among the filters that sort, so that they sort forty candidates and not the
    vocabulary: 0.24 ms of a desktop's core for 262k tokens, 2.6 ms with `top_k=0`.

    Args:
        options: How to choose.
        vocab: The vocabulary, or its size where DRY is off.

    Attributes:
        seed: The seed in use.

    Raises:
        UsageError: An option that cannot be meant.
    """

    def __init__(self, options: SamplingOptions, vocab: Vocab | int) -> None:
        n_vocab = vocab if isinstance(vocab, int) else vocab.n_tokens
        _check(options, n_vocab)
        lib = library()
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        super().__init__(chain, lib.llama_sampler_free)
        chosen = secrets.randbelow(_MAX_SEED) if options.seed is None else options.seed
        self.seed = min(chosen & 0xFFFFFFFF, _MAX_SEED)
        self._add_penalties(options, vocab, n_vocab)
        self._is_greedy = options.temperature <= 0
        if self._is_greedy:
            self._add(lib.llama_sampler_init_greedy())
            return
        self._add_filters(options)
        self._add(lib.llama_sampler_init_temp(options.temperature))
        self._add(lib.llama_sampler_init_dist(self.seed))

    def sample(self, context: Context, index: int = -1) -> int:
        """Choose a token from the logits at a batch index and remember it for the penalties.

        Args:
            context: Its last decode succeeded and asked for logits there.
            index: The index in the batch; -1 is the last output.
        """
        return int(library().llama_sampler_sample(self.pointer, context.pointer, index))

    def sample_from(self, logits: NDArray[np.float32]) -> tuple[int, dict[int, float]]:
        """Choose a token from logits, and say how likely each was that the samplers left.

        Args:
            logits: One row, `(n_vocab,)`.

        Returns:
            The token, and by token the natural logarithms of the shares in which it was drawn.
        """
        import numpy as np

        lib = library()
        candidates = np.zeros(len(logits), _CANDIDATE)
        candidates["id"] = np.arange(len(logits))
        candidates["logit"] = logits
        data = (lib.llama_token_data * len(logits)).from_buffer(candidates)
        row = lib.llama_token_data_array(data, len(logits), -1, False)  # noqa: FBT003
        lib.llama_sampler_apply(self.pointer, ctypes.byref(row))
        chosen = row.data[row.selected].id
        if self._is_greedy:
            left = {chosen: 0.0}
        else:
            # Samplers may leave the candidates elsewhere, and fewer of them.
            kept = np.frombuffer(
                ctypes.string_at(row.data, row.size * candidates.itemsize), _CANDIDATE
            )
            scaled = kept["logit"].astype(np.float64) - kept["logit"].max()
            shares = scaled - math.log(np.exp(scaled).sum())
            left = dict(zip(kept["id"].tolist(), shares.tolist(), strict=True))
        lib.llama_sampler_accept(self.pointer, chosen)
        return chosen, left

    def accept(self, token: int) -> None:
        """Let the penalties know of a token that was not sampled here."""
        library().llama_sampler_accept(self.pointer, token)

    def _add_penalties(self, options: SamplingOptions, vocab: Vocab | int, n_vocab: int) -> None:
        lib = library()
        if options.logit_bias:
            biases = (lib.llama_logit_bias * len(options.logit_bias))(*options.logit_bias)
            self._add(lib.llama_sampler_init_logit_bias(n_vocab, len(biases), biases))
        has_penalty = options.repeat_penalty != 1.0
        if has_penalty or options.frequency_penalty or options.presence_penalty:
            self._add(
                lib.llama_sampler_init_penalties(
                    n_vocab,
                    _window(options.penalty_last_n),
                    options.repeat_penalty,
                    options.frequency_penalty,
                    options.presence_penalty,
                )
            )
        if options.dry_multiplier:
            if isinstance(vocab, int):
                raise UsageError("the DRY penalty looks into the vocabulary, which is not there")
            self._add(_dry(options, vocab))

    def _add_filters(self, options: SamplingOptions) -> None:
        lib, n_min = library(), options.min_keep
        if options.top_n_sigma > 0:
            self._add(lib.llama_sampler_init_top_n_sigma(options.top_n_sigma))
        if options.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(options.top_k))
        if options.typical_p < 1:
            self._add(lib.llama_sampler_init_typical(options.typical_p, n_min))
        if options.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(options.top_p, n_min))
        if options.min_p > 0:
            self._add(lib.llama_sampler_init_min_p(options.min_p, n_min))
        if options.xtc_probability > 0:
            self._add(
                lib.llama_sampler_init_xtc(
                    options.xtc_probability, options.xtc_threshold, n_min, self.seed
                )
            )

    def _add(self, sampler: object) -> None:
        library().llama_sampler_chain_add(self.pointer, sampler)


def _dry(options: SamplingOptions, vocab: Vocab) -> object:
    breakers = [text.encode("utf-8", "replace") for text in options.dry_sequence_breakers]
    return library().llama_sampler_init_dry(
        vocab.pointer,
        options.dry_multiplier,
        options.dry_base,
        options.dry_allowed_length,
        _window(options.dry_penalty_last_n),
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )


def _window(n: int) -> int:
    """Return how far back to look: llama.cpp sets the memory aside at once."""
    return _MAX_WINDOW if n < 0 else min(n, _MAX_WINDOW)


def _check(options: SamplingOptions, n_vocab: int) -> None:
    """Refuse what llama.cpp would take as it comes."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{field.name} cannot be {value}")
        if isinstance(value, int) and field.name != "seed" and abs(value) >= 1 << 31:
            raise UsageError(f"{field.name} cannot be {value}")
    for token, bias in options.logit_bias:
        if not 0 <= token < n_vocab:
            raise UsageError(
                f"logit_bias names token {token}", f"the vocabulary has tokens 0 to {n_vocab - 1}"
            )
        if math.isnan(bias) or bias == math.inf:
            raise UsageError(f"logit_bias cannot add {bias} to token {token}")
    breakers = options.dry_sequence_breakers
    if options.dry_multiplier and (len(breakers) > _MAX_BREAKERS or not all(breakers)):
        raise UsageError(
            f"{len(breakers)} texts in dry_sequence_breakers, at most {_MAX_BREAKERS} and none "
            "empty are taken"
        )
    if options.repeat_penalty <= 0:
        raise UsageError(f"repeat_penalty must be positive, not {options.repeat_penalty}")
