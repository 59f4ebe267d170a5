"""Stand-ins at llmedge's own seams."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmedge.core.errors import LlmedgeError
from llmedge.runtime.generation import GenerationReport
from llmedge.serve.engine import Delta, Event, Finished, Generation, ModelInfo, Started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence


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
    """An engine that says given words, fails where it is told to, and notes who cancelled."""

    def __init__(
        self,
        words: Sequence[str] = ("Hello", " world"),
        *,
        error: LlmedgeError | None = None,
        error_after: int = 0,
        forever: bool = False,
    ) -> None:
        self.words = words
        self.error = error
        self.error_after = error_after
        self.forever = forever
        self.requests: list[Generation] = []
        self.n_cancelled = 0
        self.is_healthy = True
        self.is_closed = False
        self.info = ModelInfo("fake:Q4_0", 1, "fake 1M Q4_0", 4096, 8192, 1_000_000, 600_000)

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        self.requests.append(request)
        has_ended = False
        try:
            if self.error and self.error_after == 0:
                has_ended = True
                raise self.error
            yield Started(3)
            for index, word in enumerate(self.words, start=1):
                await asyncio.sleep(0)
                yield Delta(word)
                if self.error and self.error_after == index:
                    has_ended = True
                    raise self.error
            while self.forever:
                await asyncio.sleep(0.01)
                yield Delta(".")
            has_ended = True
            yield Finished(GenerationReport(3, 1, len(self.words), 0.5, 0.25, "stop"))
        finally:
            self.n_cancelled += not has_ended

    def close(self) -> None:
        self.is_closed = True


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
