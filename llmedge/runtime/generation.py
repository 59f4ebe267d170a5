"""Text generation over one sequence of a context, token by token."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmedge.core.errors import ContextLengthError, EngineError, UsageError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, DecodeResult
from llmedge.runtime.sampler import SamplerChain, SamplingOptions
from llmedge.runtime.vocab import Detokenizer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to generate.

    Attributes:
        max_tokens: Most tokens to generate; `None` goes on to the end of the context.
        stop: Texts that end the generation and are not part of it.
        sampling: How tokens are chosen.
        ignore_end: Go on after the model ends its text; for measurements.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    ignore_end: bool = False


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """What one generation took.

    Attributes:
        n_prompt: Tokens of the prompt.
        n_cached: Of these, tokens that were still in the kv cache.
        n_generated: Tokens generated, the ending one included.
        prompt_s: Seconds until the prompt was in the kv cache.
        generation_s: Seconds after that.
        finish_reason: `stop` (ended by itself or at a stop text), `length` or `cancelled`.
    """

    n_prompt: int
    n_cached: int
    n_generated: int
    prompt_s: float
    generation_s: float
    finish_reason: FinishReason

    @property
    def pp_tokens_per_s(self) -> float:
        """Prompt tokens computed per second."""
        return (self.n_prompt - self.n_cached) / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def tg_tokens_per_s(self) -> float:
        """Tokens decoded per second after the first, which the prompt's decode gave."""
        n_decoded = self.n_generated - 1
        return n_decoded / self.generation_s if n_decoded > 0 and self.generation_s > 0 else 0.0


class StopMatcher:
    """Finds stop texts in a stream; holds back what may be the beginning of one.

    Args:
        stops: The texts to stop at; none may be empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise UsageError("a stop text is empty")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """The stop text that was met."""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take text and return what is safe to show, and whether a stop text was met."""
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.found = min(found)
            shown, self._held = self._held[:at], ""
            return shown, True
        n_kept = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - n_kept
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def finish(self) -> str:
        """Return what was held back."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Return how many characters at the end could begin `stop`."""
        for n in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:n]):
                return n
        return 0


class TextGenerator:
    """Generates text in sequence 0 of a context, keeping what the next prompt can reuse.

    Args:
        context: Used by nobody else meanwhile, except to abort it.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._batch = Batch(context.n_batch)
        self._cached: list[int] = []
        self.report: GenerationReport | None = None
        """What the last generation took, once its iterator has ended."""

    def close(self) -> None:
        """Free the batch; the context is its owner's."""
        self._batch.close()

    def forget(self) -> None:
        """Drop the kv cache, so that the next prompt is computed whole."""
        self._context.clear()
        self._cached = []

    def generate(
        self, prompt: Sequence[int], options: GenerationOptions
    ) -> Generator[str, None, None]:
        """Yield the text as it comes, always whole characters.

        `Context.abort` from another thread ends it, also inside a long prompt; whoever starts the
        next generation calls `Context.clear_abort` first. Closing the iterator ends it too.

        Raises:
            ContextLengthError: The prompt leaves no room for an answer.
            UsageError: The prompt is empty, or a stop text is.
            EngineError: llama.cpp failed.
        """
        self.check(prompt)
        run = _Run(len(prompt), options)
        with SamplerChain(options.sampling, self._context.model.vocab) as sampler:
            try:
                if self._process_prompt(prompt, run):
                    yield from self._decode(sampler, run)
                else:
                    run.finish_reason = "cancelled"
            except GeneratorExit:
                run.finish_reason = "cancelled"
                raise
            finally:
                self.report = run.report()

    def check(self, prompt: Sequence[int]) -> None:
        """Make sure that a prompt can be answered; raises what `generate` raises for it."""
        if not prompt:
            raise UsageError("the prompt is empty")
        if len(prompt) >= self._context.n_ctx:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens, the context holds {self._context.n_ctx}",
                "shorten the prompt, or start with a larger --ctx",
            )

    def _process_prompt(self, prompt: Sequence[int], run: _Run) -> bool:
        """Bring the prompt into the kv cache; `False` when it was aborted."""
        run.n_cached = self._reuse(prompt)
        position = run.n_cached
        while position < len(prompt):
            part = prompt[position : position + self._batch.n_max]
            is_last = position + len(part) == len(prompt)
            self._batch.fill(part, position, n_logits=int(is_last))
            if not self._step(part):
                return False
            position += len(part)
        run.end_prompt()
        return True

    def _reuse(self, prompt: Sequence[int]) -> int:
        """Cut the kv cache back to what it shares with the prompt; at least one token is left."""
        n_same = 0
        limit = min(len(self._cached), len(prompt) - 1)
        while n_same < limit and self._cached[n_same] == prompt[n_same]:
            n_same += 1
        # An interrupt between a decode and its note here leaves the cache one step ahead of it, so
        # the cache itself is asked.
        if n_same == len(self._cached) == self._context.next_position():
            return n_same
        can_cut = self._context.model.can_rewind and self._context.remove(0, n_same)
        if not can_cut:
            self.forget()
            return 0
        del self._cached[n_same:]
        return n_same

    def _step(self, tokens: Sequence[int]) -> bool:
        result = self._context.decode(self._batch)
        if result is DecodeResult.OK:
            self._cached.extend(tokens)
            return True
        if result is DecodeResult.ABORTED:
            # Some of the micro-batches may be in the cache, some not: keep what is known.
            if not self._context.remove(0, len(self._cached)):
                self.forget()
            return False
        raise EngineError("the kv cache has no room for the next token")

    def _decode(self, sampler: SamplerChain, run: _Run) -> Iterator[str]:
        vocab, matcher, detokenizer = self._context.model.vocab, run.matcher, Detokenizer()
        while True:
            token = sampler.sample(self._context)
            run.n_generated += 1
            if vocab.is_end(token) and not run.options.ignore_end:
                break
            text, is_stopped = matcher.feed(detokenizer.feed(vocab.piece(token)))
            if text:
                yield text
            if is_stopped:
                return
            if run.is_full(len(self._cached), self._context.n_ctx):
                run.finish_reason = "length"
                break
            self._batch.fill([token], len(self._cached))
            if not self._step([token]):
                run.finish_reason = "cancelled"
                break
        text, is_stopped = matcher.feed(detokenizer.finish())
        text += "" if is_stopped else matcher.finish()
        if text:
            yield text


class _Run:
    """The counters of one generation."""

    def __init__(self, n_prompt: int, options: GenerationOptions) -> None:
        self.options = options
        self.matcher = StopMatcher(options.stop)
        self.n_prompt = n_prompt
        self.n_cached = 0
        self.n_generated = 0
        self.finish_reason: FinishReason = "stop"
        self._start = time.perf_counter()
        self._prompt_end: float | None = None

    def end_prompt(self) -> None:
        self._prompt_end = time.perf_counter()

    def is_full(self, n_cached: int, n_ctx: int) -> bool:
        limit = self.options.max_tokens
        return n_cached >= n_ctx or (limit is not None and self.n_generated >= limit)

    def report(self) -> GenerationReport:
        now = time.perf_counter()
        prompt_end = now if self._prompt_end is None else self._prompt_end
        return GenerationReport(
            self.n_prompt,
            self.n_cached,
            self.n_generated,
            prompt_end - self._start,
            now - prompt_end,
            self.finish_reason,
        )
