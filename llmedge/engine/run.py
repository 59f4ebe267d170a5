"""One request on its way from tokens to its text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmedge.engine.generation import Delta, FinishReason, GenerationReport, Progress
from llmedge.runtime.grapheme import GraphemeDetokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.engine.clerk import Prepared
    from llmedge.engine.sequence import Outcome, Sequence


class Run:
    """One request's tokens become its text.

    Args:
        sequence: What the scheduler works on.
        prepared: What was asked for; its sampler is closed by who owns the run.
    """

    __slots__ = ("_detokenizer", "_matcher", "_n_told", "_request", "sampler", "sequence")

    def __init__(self, sequence: Sequence, prepared: Prepared) -> None:
        self.sequence = sequence
        self.sampler = prepared.sampler
        self._matcher = prepared.matcher
        self._request = prepared.request
        self._n_told = -1
        self._detokenizer = GraphemeDetokenizer()

    def take(
        self, outcome: Outcome, piece: Callable[..., bytes]
    ) -> tuple[Delta, FinishReason | None]:
        """Return what a step adds to the text, and why that was the end, if it was."""
        token, reason, text, is_stopped = outcome.token, outcome.finish_reason, "", False
        chances = self.sampler.take_chance() if token is not None else []
        tokens: list[int] = []
        if token is not None and token not in self.sequence.end_tokens:
            tokens = [token] if self._request.tells_tokens else []
            data = piece(token, special=self._request.shows_special)
            text, is_stopped = self._matcher.feed(self._detokenizer.feed(data))
        elif token is not None:
            chances = []
        if reason is not None and not is_stopped:
            rest, is_stopped = self._matcher.feed(self._detokenizer.finish())
            text += rest if is_stopped else rest + self._matcher.finish()
        so_far = self.report("length") if self._request.tells_times else None
        return Delta(text, chances, tokens, so_far), "stop" if is_stopped else reason

    def progress(self) -> list[Progress]:
        """Return how far the prompt is, where that is news."""
        sequence = self.sequence
        if sequence.started_s is None:
            return []
        seconds = time.perf_counter() - sequence.started_s
        told: list[Progress] = []
        for n_done in (sequence.n_cached, min(sequence.n_computed, sequence.n_prompt)):
            if n_done > self._n_told:
                told.append(Progress(sequence.n_prompt, sequence.n_cached, n_done, seconds))
                self._n_told = n_done
        return told

    def report(self, reason: FinishReason) -> GenerationReport:
        """Say what the request took."""
        sequence = self.sequence
        started_s = sequence.last_s if sequence.started_s is None else sequence.started_s
        first_s = sequence.last_s if sequence.first_s is None else sequence.first_s
        return GenerationReport(
            n_prompt=sequence.n_prompt,
            n_cached=sequence.n_cached,
            n_generated=sequence.n_generated,
            queue_s=started_s - sequence.added_s,
            prompt_s=first_s - started_s,
            generation_s=sequence.last_s - first_s,
            finish_reason=reason,
            stop_text=self._matcher.found,
            n_drafted=sequence.n_drafted,
            n_accepted=sequence.n_accepted,
            # Nothing is never what it took.
            energy_j=sequence.energy_j if sequence.energy_j > 0 else None,
        )
