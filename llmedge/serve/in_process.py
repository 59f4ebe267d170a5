"""An engine on a thread of this process: one sequence at a time, in order of arrival."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from llmedge.core.errors import ContextLengthError, EngineError, LlmedgeError, UnsupportedError
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
    TokenPrompt,
)
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.generation import GenerationOptions, TextGenerator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from llmedge.runtime.context import Context

ResultT = TypeVar("ResultT")

# Long runs of spaces are one token in some vocabularies; whole texts of them are not.
_MAX_CHARS_PER_TOKEN = 32

_Word: TypeAlias = "Event | BaseException | None"


class InProcessEngine:
    """Serves one context; an `engine.Engine` for one request at a time.

    The thread is the context's only user, except to abort it. Constraints, log probabilities, stop
    tokens, adapters, embeddings and scores are refused.

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
        self._has_failed = False
        self._info = _describe(context, model_id)
        self._n_prompt = self._n_cached = self._n_generated = 0

    @property
    def info(self) -> ModelInfo:
        """The model."""
        return self._info

    @property
    def state(self) -> EngineState:
        """`failed` after a computation failed, until one works again."""
        if self._is_closing:
            return "closed"
        return "failed" if self._has_failed else "ready"

    @property
    def n_restarts(self) -> int:
        """Always 0: there is no process of its own."""
        return 0

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Run a request; see `Engine.generate`."""
        _refuse_unsupported(request)
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

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turn text into tokens."""
        self._refuse_hopeless(len(text))
        vocab = self._context.model.vocab
        return await self._do(
            lambda: vocab.tokenize(text, add_special=add_special, parse_special=parse_special)
        )

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of tokens."""
        vocab = self._context.model.vocab
        return await self._do(lambda: [vocab.piece(token) for token in tokens])

    async def render(self, prompt: ChatPrompt) -> str:
        """Return what the chat template makes of messages."""
        return await self._do(lambda: self._render(prompt))

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> list[Embedding]:
        """Refuse; see the class."""
        del texts
        _refuse("embeddings")

    async def rerank(self, query: str, documents: Sequence[str]) -> list[Score]:
        """Refuse; see the class."""
        del query, documents
        _refuse("scores")

    async def stats(self) -> EngineStats:
        """Return the counters of this moment."""
        n_running = int(self._current is not None)
        return EngineStats(
            n_running=n_running,
            n_waiting=max(0, len(self._jobs) - n_running),
            n_cells=self._context.n_ctx,
            n_prompt_tokens=self._n_prompt,
            n_cached_tokens=self._n_cached,
            n_generated_tokens=self._n_generated,
        )

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

    async def _do(self, work: Callable[[], ResultT]) -> ResultT:
        """Do something with the model on the thread, where nothing frees it meanwhile."""
        with self._lock:
            if self._is_closing:
                raise EngineError("the engine is closed")
            future = self._thread.submit(work)
        return await asyncio.wrap_future(future)

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
                self._has_failed = True
            job.say(error)
        except Exception as error:  # noqa: BLE001 - a bug ends one request, not the engine
            job.say(error)
        finally:
            with self._lock:
                self._current = None
            job.say(None)

    def _generate(self, job: _Job) -> None:
        queue_s = time.monotonic() - job.created
        prompt = self._tokenize(job.request)
        self._generator.check(prompt)
        job.say(Started(len(prompt)))
        if self._has_failed:
            self._generator.forget()
        options = GenerationOptions(
            max_tokens=job.request.max_tokens,
            stop=job.request.stop,
            sampling=job.request.sampling,
            ignore_end=job.request.ignore_end,
        )
        with contextlib.closing(self._generator.generate(prompt, options)) as pieces:
            for text in pieces:
                job.say(Delta(text))
                if job.is_cancelled.is_set():
                    return
        self._has_failed = False
        report = self._generator.report
        # What was cut off is no answer; whoever cut it off is not waiting for one.
        if report is None or report.finish_reason == "cancelled":
            return
        self._n_prompt += report.n_prompt
        self._n_cached += report.n_cached
        self._n_generated += report.n_generated
        job.say(
            Finished(
                GenerationReport(
                    n_prompt=report.n_prompt,
                    n_cached=report.n_cached,
                    n_generated=report.n_generated,
                    queue_s=queue_s,
                    prompt_s=report.prompt_s,
                    generation_s=report.generation_s,
                    finish_reason=report.finish_reason,
                )
            )
        )

    def _tokenize(self, request: Generation) -> list[int]:
        model, prompt = self._context.model, request.prompt
        if isinstance(prompt, TokenPrompt):
            wrong = next((t for t in prompt.tokens if not 0 <= t < model.vocab.n_tokens), None)
            if wrong is not None:
                raise UnsupportedError(f"the vocabulary has no token {wrong}")
            return prompt.tokens
        if isinstance(prompt, TextPrompt):
            self._refuse_hopeless(len(prompt.text))
            return model.vocab.tokenize(prompt.text, add_special=True, parse_special=True)
        self._refuse_hopeless(sum(len(str(m.get("content", ""))) for m in prompt.messages))
        tokens = model.vocab.tokenize(self._render(prompt), parse_special=True)
        vocab = model.vocab
        if vocab.adds_bos and vocab.bos is not None and not vocab.starts_with_bos(tokens):
            tokens.insert(0, vocab.bos)
        return tokens

    def _render(self, prompt: ChatPrompt) -> str:
        if prompt.continues:
            _refuse("the continuation of an answer")
        if self._template is None:
            self._template = ChatTemplate.of_model(self._context.model)
        variables = {**prompt.arguments, "tools": prompt.tools}
        return self._template.render(prompt.messages, variables=variables)

    def _refuse_hopeless(self, n_chars: int) -> None:
        """Refuse a prompt that no vocabulary makes short enough, before it is tokenized.

        Tokenizing megabytes takes seconds, and nothing can stop it.
        """
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
        self.created = time.monotonic()
        self.words: asyncio.Queue[_Word] = asyncio.Queue()
        self.is_cancelled = threading.Event()
        self._loop = loop

    def say(self, word: _Word) -> None:
        """Hand a word over to the event loop; a loop that has ended hears nothing."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.words.put_nowait, word)


def _describe(context: Context, model_id: str) -> ModelInfo:
    model = context.model
    return ModelInfo(
        id=model_id,
        created=int(model.path.stat().st_mtime),
        description=model.description,
        architecture=model.header.architecture,
        n_ctx=context.n_ctx,
        n_ctx_train=model.n_ctx_train,
        n_vocab=model.vocab.n_tokens,
        n_params=model.n_params,
        size_bytes=model.size_bytes,
        chat_template=model.header.text("tokenizer.chat_template") or "",
        bos=model.vocab.text(model.vocab.bos),
        eos=model.vocab.text(model.vocab.eos),
    )


def _refuse_unsupported(request: Generation) -> None:
    if request.constraint is not None:
        _refuse("constrained output")
    if request.n_logprobs is not None:
        _refuse("log probabilities")
    if request.stop_tokens:
        _refuse("stop tokens")
    if request.adapters:
        _refuse("adapters")


def _refuse(what: str) -> NoReturn:
    raise UnsupportedError(f"{what}: not supported by this engine")
