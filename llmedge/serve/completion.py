"""What chat and text completions have in common: ids, usage, timings, names of tokens."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from llmedge.serve.answer_schema import PromptDetails, PromptProgress, Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.engine.generation import GenerationReport, Progress

# OpenAI's number for a token that is out of the question; JSON has no infinity.
_LEAST_LOGPROB = -9999.0


def new_common(prefix: str, model: str, fingerprint: str) -> dict[str, Any]:
    """Return the fields that all objects of one answer share."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
    }


def usage_of(reports: Sequence[GenerationReport], n_per_prompt: int) -> Usage:
    """Count tokens; a prompt that has several answers counts once."""
    prompts = reports[::n_per_prompt]
    n_prompt = sum(report.n_prompt for report in prompts)
    n_generated = sum(report.n_generated for report in reports)
    n_cached = sum(report.n_cached for report in prompts)
    usage = Usage(n_prompt, n_generated, n_prompt + n_generated, PromptDetails(n_cached))
    joules = [report.energy_j for report in reports if report.energy_j is not None]
    if joules and len(joules) == len(reports):
        usage.energy_j = sum(joules)
    return usage


def timings_of(report: GenerationReport) -> Timings:
    """Return the speed of one generation."""
    n_computed, n_decoded = report.n_prompt - report.n_cached, report.n_generated - 1
    timings = Timings(
        cache_n=report.n_cached,
        prompt_n=n_computed,
        prompt_ms=1000 * report.prompt_s,
        prompt_per_second=_rate(n_computed, report.prompt_s),
        predicted_n=report.n_generated,
        predicted_ms=1000 * report.generation_s,
        # The first token came with the prompt's decode.
        predicted_per_second=_rate(n_decoded, report.generation_s),
    )
    if report.n_drafted:
        timings.draft_n, timings.draft_n_accepted = report.n_drafted, report.n_accepted
    return timings


def progress_of(progress: Progress) -> PromptProgress:
    """Return how far a prompt is."""
    return PromptProgress(
        progress.n_prompt, progress.n_cached, progress.n_done, 1000 * progress.seconds
    )


def finite(logprob: float) -> float:
    """Return a log probability as JSON can say it."""
    return max(_LEAST_LOGPROB, logprob)


def _rate(n: int, seconds: float) -> float:
    return n / seconds if n > 0 and seconds > 0 else 0.0
