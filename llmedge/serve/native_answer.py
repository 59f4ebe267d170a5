"""The objects of llama-server's own completion, whole or in chunks.

Source: llama.cpp tools/server/README.md, `POST /completion`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import msgspec

from llmedge.serve.completion import finite, progress_of, timings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.engine.generation import (
        Delta,
        GenerationReport,
        Progress,
        TokenChance,
        TokenChances,
    )
    from llmedge.runtime.sampler import SamplingOptions

# llama-server's word for "choose one".
_ANY_SEED = 0xFFFFFFFF
_NAMES = {"penalty_last_n": "repeat_last_n"}


def generation_settings(sampling: SamplingOptions, **more: object) -> dict[str, Any]:
    """Return how tokens are chosen, under llama-server's names."""
    settings = {
        _NAMES.get(name, name): value for name, value in dataclasses.asdict(sampling).items()
    }
    settings["seed"] = _ANY_SEED if sampling.seed is None else sampling.seed
    settings["logit_bias"] = [
        {"token": token, "bias": finite(bias)} for token, bias in sampling.logit_bias
    ]
    return {**settings, **more}


class NativeAnswer:
    """Builds the objects of one text.

    Args:
        index: Which of the texts that were asked for.
        model: The model's id.
        prompt: Its text.
        settings: From `generation_settings`.
        keeps_tokens: Whether the whole answer lists its tokens.
        is_after: Whether the chances are those after the samplers.
    """

    def __init__(
        self,
        index: int,
        *,
        model: str,
        prompt: str,
        settings: dict[str, Any],
        keeps_tokens: bool,
        is_after: bool,
    ) -> None:
        self._common = {"index": index, "id_slot": -1}
        self._facts = {"model": model, "prompt": prompt, "generation_settings": settings}
        self._keeps_tokens = keeps_tokens
        self._is_after = is_after
        self._n_prompt = self._n_generated = 0
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._chances: list[TokenChances] = []

    def start(self, n_prompt: int) -> None:
        """Note the length of the prompt."""
        self._n_prompt = n_prompt

    def progress(self, progress: Progress) -> dict[str, Any]:
        """Return the chunk that says how far the prompt is."""
        return self._chunk() | {"prompt_progress": msgspec.to_builtins(progress_of(progress))}

    def add(self, delta: Delta) -> dict[str, Any]:
        """Take the next part and return its chunk."""
        self._texts.append(delta.text)
        self._n_generated += len(delta.tokens)
        if self._keeps_tokens:
            self._tokens += delta.tokens
        self._chances += delta.chances
        chunk = self._chunk() | {"content": delta.text, "tokens": delta.tokens}
        if delta.chances:
            chunk["completion_probabilities"] = self._probabilities(delta.chances)
        if delta.report is not None:
            chunk["timings"] = timings_of(delta.report)
        return chunk

    def last(self, report: GenerationReport) -> dict[str, Any]:
        """Return the chunk that ends the stream; its text came before."""
        return {
            **self._common,
            "content": "",
            "tokens": [],
            "stop": True,
            **self._facts,
            "tokens_predicted": report.n_generated,
            "tokens_evaluated": report.n_prompt,
            "has_new_line": any("\n" in text for text in self._texts),
            "truncated": False,
            "stop_type": _stop_type(report),
            "stopping_word": report.stop_text or "",
            "tokens_cached": report.n_prompt + report.n_generated,
            "timings": timings_of(report),
        }

    def whole(self, report: GenerationReport) -> dict[str, Any]:
        """Return the answer that is not streamed."""
        answer = self.last(report)
        answer |= {"content": "".join(self._texts), "tokens": self._tokens}
        if self._chances:
            answer["completion_probabilities"] = self._probabilities(self._chances)
        return answer

    def _chunk(self) -> dict[str, Any]:
        return {
            **self._common,
            "content": "",
            "tokens": [],
            "stop": False,
            "tokens_predicted": self._n_generated,
            "tokens_evaluated": self._n_prompt,
        }

    def _probabilities(self, chances: Sequence[TokenChances]) -> list[dict[str, Any]]:
        top = "top_probs" if self._is_after else "top_logprobs"
        return [
            self._token(step.chosen) | {top: [self._token(chance) for chance in step.top]}
            for step in chances
        ]

    def _token(self, chance: TokenChance) -> dict[str, Any]:
        likely = (
            {"prob": math.exp(chance.logprob)}
            if self._is_after
            else {"logprob": finite(chance.logprob)}
        )
        text = chance.piece.decode(errors="replace")
        return {"id": chance.token, "token": text, "bytes": list(chance.piece), **likely}


def only(answer: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Return the fields of an answer that are wanted; `a/b` is what `a` has under `b`."""
    chosen: dict[str, Any] = {}
    for field in fields:
        name, slash, below = field.partition("/")
        place: dict[str, Any] = answer.get(name, {}) if slash else answer
        if (below or name) in place:
            chosen[field] = place[below or name]
    return chosen


def _stop_type(report: GenerationReport) -> str:
    if report.finish_reason == "length":
        return "limit"
    return "eos" if report.stop_text is None else "word"
