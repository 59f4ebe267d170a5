"""Stand-ins at llmedge's own seams."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmedge.core.errors import ContextLengthError, EngineError, LlmedgeError
from llmedge.engine.engine import Embedding, EngineState, EngineStats, ModelInfo, Score
from llmedge.engine.generation import (
    ChatPrompt,
    Delta,
    Event,
    Finished,
    Generation,
    GenerationReport,
    Started,
    TextPrompt,
    TokenChance,
    TokenChances,
    TokenPrompt,
)
from llmedge.runtime.generation import StopMatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence


@contextlib.contextmanager
def works_or_is_refused(word: str = "") -> Iterator[None]:
    """Let a block work, or end in an error of ours that says something."""
    try:
        yield
    except LlmedgeError as error:
        if not error.message or word not in error.message:
            raise


@dataclass
class RecordingProgress:
    """A progress that keeps what it is told."""

    updates: list[tuple[str, float, str]] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def task(self, description: str, *, total: float, unit: str) -> Iterator[RecordingTask]:
        del unit
        self.totals[description] = total
        yield RecordingTask(self, description)


@dataclass
class RecordingTask:
    progress: RecordingProgress
    description: str

    def update(self, completed: float, note: str = "") -> None:
        self.progress.updates.append((self.description, completed, note))


class FakeEngine:
    """An engine that says given words, fails where it is told to, and notes who cancelled.

    Its tokens are characters. It obeys `max_tokens` and `stop`, gives log probabilities where they
    are wanted, and ignores the rest; `requests` keeps what it was asked.

    Args:
        words: The answer, or what makes it of a request.
        error: Raised after so many words.
        error_after: See `error`.
        forever: Say dots after the words, until cancelled.
        pause_s: Seconds before each word.
        info: Facts of the model.
    """

    def __init__(
        self,
        words: Sequence[str] | Callable[[Generation], Sequence[str]] = ("Hello", " world"),
        *,
        error: BaseException | None = None,
        error_after: int = 0,
        forever: bool = False,
        pause_s: float = 0.0,
        info: ModelInfo | None = None,
    ) -> None:
        self.words = words
        self.error = error
        self.error_after = error_after
        self.forever = forever
        self.pause_s = pause_s
        self.requests: list[Generation] = []
        self.n_cancelled = 0
        self.n_running = 0
        self.n_restarts = 0
        self.state: EngineState = "ready"
        self.stats_delay_s = 0.0
        self.limits: list[tuple[int, bool]] = []
        self.info = info or ModelInfo(
            id="fake:Q4_0", created=1, description="fake 1M Q4_0", n_ctx=4096, n_ctx_train=8192
        )

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        self.requests.append(request)
        self.n_running += 1
        has_ended = False
        try:
            self._fail_at(0)
            prompt = await self._prompt(request)
            if len(prompt) >= self.info.n_ctx:
                raise ContextLengthError(
                    f"the prompt has {len(prompt)} tokens, the context holds {self.info.n_ctx}"
                )
            yield Started(len(prompt))
            n_said, reason, stop = 0, "stop", None
            matcher = StopMatcher(request.stop)
            words = self.words(request) if callable(self.words) else self.words
            for index, word in enumerate(words, start=1):
                await asyncio.sleep(self.pause_s)
                rest = request.max_tokens - n_said if request.max_tokens else len(word)
                n_said += len(word[:rest])
                text, is_stopped = matcher.feed(word[:rest])
                yield Delta(text, self._chances(word[:rest], request))
                self._fail_at(index)
                if is_stopped:
                    stop = request.stop[0]
                    break
                if n_said == request.max_tokens:
                    reason = "length"
                    break
            while self.forever:
                await asyncio.sleep(0.01)
                yield Delta(".")
            if self.state == "closed":
                raise EngineError("the engine was closed")
            if stop is None and (rest_of_text := matcher.finish()):
                yield Delta(rest_of_text)
            has_ended = True
            yield Finished(
                GenerationReport(
                    n_prompt=len(prompt),
                    n_cached=1,
                    n_generated=n_said,
                    queue_s=0.25,
                    prompt_s=0.5,
                    generation_s=0.25,
                    finish_reason=reason,
                    stop_text=stop,
                )
            )
        except (LlmedgeError, KeyError):
            has_ended = True
            raise
        finally:
            self.n_running -= 1
            self.n_cancelled += not has_ended

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        del add_special, parse_special
        return [ord(char) for char in text]

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return [chr(token).encode() for token in tokens]

    async def render(self, prompt: ChatPrompt) -> str:
        return "".join(f"<{m['role']}>{m.get('content') or ''}" for m in prompt.messages)

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> list[Embedding]:
        return [Embedding([float(len(text)), 1.0], len(text)) for text in texts]

    async def rerank(self, query: str, documents: Sequence[str]) -> list[Score]:
        return [Score(float(query in text), len(text)) for text in documents]

    async def stats(self) -> EngineStats:
        await asyncio.sleep(self.stats_delay_s)
        return EngineStats(n_running=self.n_running, n_cells=4096, n_cells_used=42)

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        self.limits.append((n_slots, forgets))

    def close(self) -> None:
        self.state = "closed"
        self.error, self.error_after = EngineError("the engine was closed"), 0
        self.forever = False

    async def _prompt(self, request: Generation) -> list[int]:
        if isinstance(request.prompt, TokenPrompt):
            return request.prompt.tokens
        if isinstance(request.prompt, TextPrompt):
            return [ord(char) for char in request.prompt.text]
        return [ord(char) for char in await self.render(request.prompt)]

    def _fail_at(self, n_words: int) -> None:
        if self.error and self.error_after == n_words:
            raise self.error

    def _chances(self, text: str, request: Generation) -> list[TokenChances]:
        if request.n_logprobs is None:
            return []
        likely = [
            [TokenChance(ord(char) + n, chr(ord(char) + n).encode(), -0.5 - n) for n in range(20)]
            for char in text
        ]
        return [TokenChances(row[0], row[: request.n_logprobs]) for row in likely]


@dataclass
class FakeTerminal:
    """A terminal with lines typed in advance."""

    lines: list[str]
    written: str = ""
    notes: list[str] = field(default_factory=list)

    def read_line(self, prompt: str) -> str | None:
        del prompt
        return self.lines.pop(0) if self.lines else None

    def write(self, text: str) -> None:
        self.written += text

    def note(self, text: str) -> None:
        self.notes.append(text)
