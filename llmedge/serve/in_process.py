"""An engine on a thread of this process: one sequence at a time, in order of arrival."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from llmedge.core.errors import ContextLengthError, EngineError, LlmedgeError
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.generation import TextGenerator
from llmedge.serve.engine import (
    ChatPrompt,
    Delta,
    Event,
    Finished,
    Generation,
    ModelInfo,
    Started,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmedge.runtime.context import Context

# Long runs of spaces are one token in some vocabularies; whole texts of them are not.
_MAX_CHARS_PER_TOKEN = 32

_Word: TypeAlias = "Event | BaseException | None"


class InProcessEngine:
    """Serves one context. The thread is the context's only user, except to abort it.

    Args:
        context: Closed by the engine, with its model.
        model_id: The model's id on the endpoint.
    """

    def __init__(self, context: Context, model_id: str) -> None:
        self._context = context
        self._generator = TextGenerator(context)
        self._template: ChatTemplate | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._lock = threading.Lock()
        self._current: _Job | None = None
        self._jobs: set[_Job] = set()
        self._is_closing = False
        self._is_healthy = True
        model = context.model
        self.info = ModelInfo(
            id=model_id,
            created=int(model.path.stat().st_mtime),
            description=model.description,
            n_ctx=context.n_ctx,
            n_ctx_train=model.n_ctx_train,
            n_params=model.n_params,
            size_bytes=model.size_bytes,
        )

    @property
    def is_healthy(self) -> bool:
        """Whether the last computation did not fail and the engine is open."""
        return self._is_healthy and not self._is_closing

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Run a request; see `Engine.generate`."""
        job = _Job(request, asyncio.get_running_loop())
        with self._lock:
            if self._is_closing:
                raise EngineError("the engine is closed")
            self._jobs.add(job)
            self._thread.submit(self._run, job)
        try:
            while (word := await job.words.get()) is not None:
                if isinstance(word, BaseException):
                    raise word
                yield word
        finally:
            # Nothing may be awaited here: who waits may be cancelled. The thread sees the flag at
            # the next graph node and goes on with the next job.
            self._cancel(job)

    def close(self) -> None:
        """Stop what runs and what waits with an error, and free the model; twice is harmless."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            jobs = list(self._jobs)
        for job in jobs:
            job.say(EngineError("the engine was closed"))
            self._cancel(job)
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._generator.close()
        self._context.model.close()

    def _cancel(self, job: _Job) -> None:
        job.is_cancelled.set()
        with self._lock:
            self._jobs.discard(job)
            if self._current is job:
                self._context.abort()

    def _run(self, job: _Job) -> None:
        """Run on the engine's thread."""
        with self._lock:
            if job.is_cancelled.is_set():
                return
            self._current = job
            self._context.clear_abort()
        try:
            self._generate(job)
        except LlmedgeError as error:
            if isinstance(error, EngineError):
                self._is_healthy = False
            job.say(error)
        except Exception as error:  # noqa: BLE001 - a bug ends one request, not the engine
            job.say(error)
        finally:
            with self._lock:
                self._current = None
            job.say(None)

    def _generate(self, job: _Job) -> None:
        prompt = self._tokenize(job.request)
        self._generator.check(prompt)
        job.say(Started(len(prompt)))
        if not self._is_healthy:
            self._generator.forget()
        with contextlib.closing(self._generator.generate(prompt, job.request.options)) as pieces:
            for text in pieces:
                job.say(Delta(text))
                if job.is_cancelled.is_set():
                    return
        self._is_healthy = True
        report = self._generator.report
        # What was cut off is no answer; whoever cut it off is not waiting for one.
        if report is not None and report.finish_reason != "cancelled":
            job.say(Finished(report))

    def _tokenize(self, request: Generation) -> list[int]:
        model = self._context.model
        self._refuse_hopeless(request)
        if isinstance(request.prompt, ChatPrompt):
            if self._template is None:
                self._template = ChatTemplate.of_model(model)
            return self._template.tokenize(model, request.prompt.messages)
        return model.vocab.tokenize(request.prompt.text, add_special=True, parse_special=True)

    def _refuse_hopeless(self, request: Generation) -> None:
        """Refuse a prompt that no vocabulary makes short enough, before it is tokenized.

        Tokenizing megabytes takes seconds, and nothing can stop it.
        """
        if isinstance(request.prompt, ChatPrompt):
            n_chars = sum(len(str(m.get("content", ""))) for m in request.prompt.messages)
        else:
            n_chars = len(request.prompt.text)
        if n_chars > _MAX_CHARS_PER_TOKEN * self._context.n_ctx:
            raise ContextLengthError(
                f"the prompt has {n_chars} characters, the context holds {self._context.n_ctx} "
                "tokens",
                "shorten the prompt, or start with a larger --ctx",
            )


class _Job:
    """A request on its way through the engine's thread."""

    def __init__(self, request: Generation, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.words: asyncio.Queue[_Word] = asyncio.Queue()
        self.is_cancelled = threading.Event()
        self._loop = loop

    def say(self, word: _Word) -> None:
        """Hand a word over to the event loop; a loop that has ended hears nothing."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.words.put_nowait, word)
