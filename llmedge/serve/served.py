"""What every request to an engine goes through: the door, the deadline, the meters.

Whatever speaks to a model gets it wrapped like this, so that no dialect can forget a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from llmedge.core.errors import DeadlineError, LlmedgeError, UnsupportedError
from llmedge.engine.generation import Delta, Finished
from llmedge.serve.limits import Door
from llmedge.serve.request_log import RequestRecord, current_record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence

    from llmedge.engine.engine import (
        Embedding,
        Engine,
        EngineState,
        EngineStats,
        ModelInfo,
        Score,
    )
    from llmedge.engine.generation import ChatPrompt, Event, Generation
    from llmedge.serve.limits import Drain, Limits
    from llmedge.serve.metrics import Meters


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a generation gets whose request does not name it.

    Attributes:
        max_tokens: Most tokens to generate; `None` goes on to the end of the context.
        seed: The seed; `None` chooses one for each.
        reasoning_budget: Most tokens of reasoning; `None` has no bound.
    """

    max_tokens: int | None = None
    seed: int | None = None
    reasoning_budget: int | None = None

    def fill(self, request: Generation) -> Generation:
        """Return a generation with what its request left open."""
        sampling = request.sampling
        if sampling.seed is None and self.seed is not None:
            sampling = replace(sampling, seed=self.seed)
        max_tokens = self.max_tokens if request.max_tokens is None else request.max_tokens
        return msgspec.structs.replace(request, sampling=sampling, max_tokens=max_tokens)


class ServedEngine:
    """An engine as the endpoint uses it; an `Engine` itself.

    Args:
        engine: Does the work; closed with this.
        limits: How many requests it gets, and for how long.
        drain: Whether it gets any.
        meters: Told of each request.
        defaults: What requests get that do not name it.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        drain: Drain,
        meters: Meters,
        defaults: Defaults | None = None,
    ) -> None:
        self._engine = engine
        self._defaults = defaults or Defaults()
        self._limits = limits
        self._meters = meters
        self._door = Door(limits, drain, engine.info.n_slots)
        self._n_short = 0
        self.last_used = time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for it."""
        return self._door.n_active + self._n_short == 0

    @property
    def info(self) -> ModelInfo:
        """The model."""
        return self._engine.info

    @property
    def state(self) -> EngineState:
        """What the next request can expect."""
        return self._engine.state

    @property
    def n_restarts(self) -> int:
        """Times that the process was started again."""
        return self._engine.n_restarts

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Run a request; see `Engine.generate`.

        Raises:
            UnsupportedError: The model does not continue text.
            BusyError: Too many wait.
            DeadlineError: It took too long.
        """
        record = current_record()
        record.model = self.info.id
        request = self._defaults.fill(request)
        request = msgspec.structs.replace(request, cache_key=record.cache_key)
        return self._generate(request, record)

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turn text into tokens."""
        with self._in_use():
            return await self._engine.tokenize(
                text, add_special=add_special, parse_special=parse_special
            )

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of tokens."""
        with self._in_use():
            return await self._engine.pieces(tokens)

    async def render(self, prompt: ChatPrompt) -> str:
        """Return what the chat template makes of messages."""
        with self._in_use():
            return await self._engine.render(prompt)

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> list[Embedding]:
        """Turn texts into vectors."""
        record = current_record()
        record.model = self.info.id
        with self._let_in():
            try:
                async with asyncio.timeout(self._limits.deadline_s):
                    vectors = await self._engine.embed(texts)
            except TimeoutError:
                raise self._too_late() from None
        record.n_prompt += sum(vector.n_tokens for vector in vectors)
        return vectors

    async def rerank(self, query: str, documents: Sequence[str]) -> list[Score]:
        """Score documents against a query."""
        with self._let_in():
            try:
                async with asyncio.timeout(self._limits.deadline_s):
                    return await self._engine.rerank(query, documents)
            except TimeoutError:
                raise self._too_late() from None

    async def stats(self) -> EngineStats:
        """Return the counters of this moment."""
        return await self._engine.stats()

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        """Change how many requests run at once; see `Engine.limit`."""
        self._engine.limit(n_slots, forgets=forgets)

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    async def _generate(
        self, request: Generation, record: RequestRecord
    ) -> AsyncGenerator[Event, None]:
        if not self.info.can_generate:
            raise UnsupportedError(f"{self.info.id} is not a model that generates text")
        with self._let_in() as start:
            outcome = "cancelled"
            label = self._meters.label(self.info.id)
            meter = _Meter(self._meters, label, record, start)
            events = self._engine.generate(request)
            try:
                while (event := await self._next(events, start)) is not None:
                    meter.note(event)
                    if isinstance(event, Finished):
                        outcome = event.report.finish_reason
                    yield event
            except LlmedgeError as error:
                outcome = record.error = type(error).__name__
                raise
            finally:
                self._meters.requests.add(1, label, outcome)
                if (close := getattr(events, "aclose", None)) is not None:
                    await close()

    async def _next(self, events: AsyncIterator[Event], start: float) -> Event | None:
        """Wait for an event, until the deadline."""
        rest = start + self._limits.deadline_s - time.perf_counter()
        try:
            async with asyncio.timeout(rest):
                return await anext(events, None)
        except TimeoutError:
            raise self._too_late() from None

    @contextlib.contextmanager
    def _let_in(self) -> Generator[float]:
        try:
            self._door.enter()
        except LlmedgeError as error:
            label = self._meters.label(self.info.id)
            self._meters.requests.add(1, label, type(error).__name__)
            raise
        start = time.perf_counter()
        try:
            yield start
        finally:
            self._door.leave(time.perf_counter() - start)
            self.last_used = time.monotonic()

    @contextlib.contextmanager
    def _in_use(self) -> Generator[None]:
        """Keep the model loaded for something short."""
        self._n_short += 1
        try:
            yield
        finally:
            self._n_short -= 1
            self.last_used = time.monotonic()

    def _too_late(self) -> DeadlineError:
        return DeadlineError(f"the request took more than {self._limits.deadline_s:g} s")


class _Meter:
    """Notes what one generation tells of itself."""

    def __init__(self, meters: Meters, model: str, record: RequestRecord, start: float) -> None:
        self._meters = meters
        self._model = model
        self._record = record
        self._start = self._last = start
        self._has_text = False

    def note(self, event: Event) -> None:
        """Note an event at the time it came."""
        now = time.perf_counter()
        if isinstance(event, Delta):
            if self._has_text:
                self._meters.token_gap_s.observe(now - self._last, self._model)
            else:
                self._has_text = True
                self._meters.first_token_s.observe(now - self._start, self._model)
                if self._record.first_token_s is None:
                    self._record.first_token_s = now - self._start
            self._last = now
        elif isinstance(event, Finished):
            self._finish(event, now - self._start)

    def _finish(self, event: Finished, seconds: float) -> None:
        report, model, meters, record = event.report, self._model, self._meters, self._record
        meters.prompt_tokens.add(report.n_prompt, model)
        meters.cached_tokens.add(report.n_cached, model)
        meters.generated_tokens.add(report.n_generated, model)
        meters.drafted_tokens.add(report.n_drafted, model)
        meters.accepted_tokens.add(report.n_accepted, model)
        meters.queue_s.observe(report.queue_s, model)
        meters.request_s.observe(seconds, model)
        meters.prompt_size.observe(report.n_prompt, model)
        meters.answer_size.observe(report.n_generated, model)
        record.n_prompt += report.n_prompt
        record.n_cached += report.n_cached
        record.n_generated += report.n_generated
        if report.energy_j is not None:
            record.energy_j = (record.energy_j or 0.0) + report.energy_j
        record.finish_reasons.append(report.finish_reason)
        record.queue_s = max(record.queue_s, report.queue_s)
