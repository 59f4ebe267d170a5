"""The sampler chain: how the next token is chosen from the logits."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.runtime.handle import Handle
from llmedge.runtime.library import library

if TYPE_CHECKING:
    from llmedge.runtime.context import Context

_MAX_SEED = 0xFFFFFFFE  # llama.cpp reads 0xFFFFFFFF as "choose one"
_PENALTY_WINDOW = 64


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to choose tokens; the defaults are llama.cpp's.

    Attributes:
        temperature: 0 always takes the most likely token.
        top_k: Only the k most likely tokens; 0 takes all.
        top_p: Only the most likely tokens that make up this share.
        min_p: Only tokens at least this likely in proportion to the most likely.
        repeat_penalty: Divides the logits of the last 64 tokens; 1 is off.
        frequency_penalty: Subtracted for each time a token appeared; 0 is off.
        presence_penalty: Subtracted once a token appeared; 0 is off.
        seed: Any number gives the same text again; `None` chooses one.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None


class SamplerChain(Handle):
    """llama.cpp's samplers in a fixed order: penalties, top-k, top-p, min-p, temperature, draw.

    Top-k comes first among the filters, so that the others sort forty candidates and not the
    vocabulary.

    Args:
        options: How to choose.
        n_vocab: Size of the vocabulary.

    Attributes:
        seed: The seed in use.
    """

    def __init__(self, options: SamplingOptions, n_vocab: int) -> None:
        lib = library()
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        super().__init__(chain, lib.llama_sampler_free)
        chosen = secrets.randbelow(_MAX_SEED) if options.seed is None else options.seed
        self.seed = chosen & 0xFFFFFFFF if chosen & 0xFFFFFFFF <= _MAX_SEED else _MAX_SEED
        has_penalty = options.repeat_penalty != 1.0
        if has_penalty or options.frequency_penalty or options.presence_penalty:
            self._add(
                lib.llama_sampler_init_penalties(
                    n_vocab,
                    _PENALTY_WINDOW,
                    options.repeat_penalty,
                    options.frequency_penalty,
                    options.presence_penalty,
                )
            )
        if options.temperature <= 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if options.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(options.top_k))
        if options.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(options.top_p, 1))
        if options.min_p > 0:
            self._add(lib.llama_sampler_init_min_p(options.min_p, 1))
        self._add(lib.llama_sampler_init_temp(options.temperature))
        self._add(lib.llama_sampler_init_dist(self.seed))

    def sample(self, context: Context, index: int = -1) -> int:
        """Choose a token from the logits at a batch index and remember it for the penalties.

        Args:
            context: Its last decode succeeded and asked for logits there.
            index: The index in the batch; -1 is the last output.
        """
        return int(library().llama_sampler_sample(self.pointer, context.pointer, index))

    def accept(self, token: int) -> None:
        """Let the penalties know of a token that was not sampled here."""
        library().llama_sampler_accept(self.pointer, token)

    def _add(self, sampler: object) -> None:
        library().llama_sampler_chain_add(self.pointer, sampler)
