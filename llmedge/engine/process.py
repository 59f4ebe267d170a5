"""The parent's side of an engine: requests to its child and back, whatever becomes of the child."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from llmedge.core.closable import Closable
from llmedge.core.errors import EngineError, LlmedgeError
from llmedge.engine.engine import Embedding, EngineStats, ModelInfo, Score
from llmedge.engine.generation import (
    ChatPrompt,
    Delta,
    Event,
    Finished,
    Generation,
    Progress,
    Started,
)
from llmedge.engine.mailbox import Mailbox, Word
from llmedge.engine.messages import (
    Answer,
    Cancel,
    Embed,
    Embeddings,
    Failed,
    Limit,
    Load,
    LoadLora,
    PieceList,
    Pieces,
    Question,
    Render,
    Reply,
    ReplyValue,
    Rerank,
    Scores,
    Stepped,
    Submit,
    Text,
    Tokenize,
    Tokens,
    ToParent,
    encode,
)
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.engine.supervisor import Supervisor, WatchOptions
from llmedge.host.memory import read_process_memory
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from llmedge.engine.engine import EngineState
    from llmedge.engine.messages import Paper
    from llmedge.runtime.lora import LoraOptions

_Batches: TypeAlias = dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Word]]]
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run an engine.

    Attributes:
        model: How to load the model.
        context: How to run it; `n_seq_max` is chosen by the engine where it is too small for the
            slots.
        scheduler: How to share it out.
        n_draft: Most tokens to guess ahead; 0 guesses none.
        draft_path: The GGUF file of a model that guesses them; `None` guesses by prompt lookup.
        loras: LoRA adapters to load with the model.
        cache_dir: Where computed prefixes lie between two processes; `None` keeps none.
        max_cache_bytes: Most bytes of the files there.
        n_remembered: Ended requests whose cached prefixes are kept beside them, at most.
        patience_s: How long a request waits for an engine that is being started again.
        watch: When the process is given up.
    """

    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions()
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    n_draft: int = 0
    draft_path: Path | None = None
    loras: tuple[LoraOptions, ...] = ()
    cache_dir: Path | None = None
    max_cache_bytes: int = 1 << 30
    n_remembered: int = 16
    patience_s: float = 30.0
    watch: WatchOptions = field(default_factory=WatchOptions)


class EngineProcess(Closable):
    """Runs one model in a process of its own; implements `Engine`.

    May be used from several event loops. What the process says is read on a thread and handed to
    the loops, one call a step.

    Args:
        path: The GGUF file.
        model_id: The model's id on the endpoint.
        options: How to run it.
    """

    def __init__(self, path: Path, model_id: str, options: EngineOptions | None = None) -> None:
        chosen = options or EngineOptions()
        self._options = chosen
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._boxes: dict[int, Mailbox] = {}
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        n_seq_max = max(chosen.context.n_seq_max, chosen.scheduler.n_slots + chosen.n_remembered)
        load = Load(
            path=os.fsencode(path.absolute()),
            model_id=model_id,
            model=chosen.model,
            context=replace(chosen.context, n_seq_max=n_seq_max),
            scheduler=chosen.scheduler,
            n_draft=chosen.n_draft,
            draft_path=os.fsencode(chosen.draft_path.absolute()) if chosen.draft_path else b"",
            loras=tuple(
                LoadLora(os.fsencode(lora.path.absolute()), lora.scale) for lora in chosen.loras
            ),
            cache_dir=os.fsencode(chosen.cache_dir.absolute()) if chosen.cache_dir else b"",
            max_cache_bytes=chosen.max_cache_bytes,
        )
        self._supervisor = Supervisor(load, chosen.watch, self._deliver, self._notice)

    @classmethod
    def open(cls, path: Path, model_id: str, options: EngineOptions | None = None) -> EngineProcess:
        """Start the process and wait until the model is loaded.

        Raises:
            LlmedgeError: What kept it from being loaded.
        """
        engine = cls(path, model_id, options)
        try:
            engine.wait_loaded()
        except BaseException:
            engine.close()
            raise
        return engine

    def wait_loaded(self) -> ModelInfo:
        """Wait for the first load.

        Raises:
            LlmedgeError: What kept the model from being loaded.
        """
        return self._supervisor.wait_loaded()

    @property
    def info(self) -> ModelInfo:
        """The model; before it is loaded, this waits."""
        return self.wait_loaded()

    @property
    def state(self) -> EngineState:
        """What the next request can expect."""
        return self._supervisor.state

    @property
    def n_restarts(self) -> int:
        """Times that the process was started again."""
        return self._supervisor.n_restarts

    @property
    def reason(self) -> LlmedgeError | None:
        """Why the last process ended, or the model cannot be loaded."""
        return self._supervisor.reason

    @property
    def pid(self) -> int | None:
        """The process's id, while there is one."""
        return self._supervisor.pid

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Run a request; see `Engine.generate`."""
        id_ = next(self._ids)
        box = await self._send(id_, Submit(id_, request))
        try:
            while True:
                word = await box.take()
                if not isinstance(word, Started | Progress | Delta | Finished):
                    raise EngineError("the engine's process says what was not asked")
                yield word
                if isinstance(word, Finished):
                    return
        finally:
            # Nothing may be awaited here: who waits may be cancelled.
            if self._forget(id_):
                self._supervisor.send(encode(Cancel(id_)))

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turn text into tokens."""
        id_ = next(self._ids)
        question = Tokenize(id_, text, add_special=add_special, parse_special=parse_special)
        return (await self._ask(question, Tokens)).value

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of tokens; control tokens as they are written."""
        return (await self._ask(Pieces(next(self._ids), list(tokens)), PieceList)).value

    async def render(self, prompt: ChatPrompt) -> str:
        """Return what the model's chat template makes of messages."""
        return (await self._ask(Render(next(self._ids), prompt), Text)).value

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> list[Embedding]:
        """Turn texts, or their tokens, into vectors."""
        given = [text if isinstance(text, str) else list(text) for text in texts]
        return (await self._ask(Embed(next(self._ids), given), Embeddings)).value

    async def rerank(self, query: str, documents: Sequence[str]) -> list[Score]:
        """Score documents against a query."""
        question = Rerank(next(self._ids), query, list(documents))
        return (await self._ask(question, Scores)).value

    async def stats(self) -> EngineStats:
        """Return the counters as the process last told them: at most a quarter second ago.

        Never waits for the process.
        """
        stats = self._supervisor.stats or EngineStats()
        pid = self.pid
        memory = None if pid is None else read_process_memory(pid)
        n_bytes = 0 if memory is None else memory.resident_bytes
        return msgspec.structs.replace(stats, resident_bytes=n_bytes)

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        """Change how many requests run at once; see `Engine.limit`."""
        most = self._options.scheduler.n_slots
        self._supervisor.send(encode(Limit(max(1, min(n_slots, most)), forgets)))

    def close(self) -> None:
        """Stop what runs, end the process and give all memory back; twice is harmless."""
        self._supervisor.close()

    async def _ask(self, question: Question | Paper, kind: type[ValueT]) -> ValueT:
        box = await self._send(question.id, question)
        try:
            word = await box.take()
        finally:
            if self._forget(question.id):
                self._supervisor.send(encode(Cancel(question.id)))
        if not isinstance(word, kind):
            raise EngineError("the engine's process says what was not asked")
        return word

    async def _send(self, id_: int, message: Paper | Question) -> Mailbox:
        """Wait until the process can be asked, ask it, and return where the answer will be."""
        data = encode(message)
        box = Mailbox()
        while True:
            if not self._is_ready():
                await self._until_ready()
            # A process that dies now is noticed under the lock, and its requests are failed there.
            with self._lock:
                if self._supervisor.state == "ready":
                    self._boxes[id_] = box
                    self._supervisor.add_work(1)
                    self._supervisor.send(data)
                    return box

    async def _until_ready(self) -> None:
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.add(waiter)
        try:
            async with asyncio.timeout(self._options.patience_s):
                while not self._is_ready():
                    await waiter[1].wait()
                    waiter[1].clear()
        except TimeoutError:
            raise EngineError(
                f"the engine is being started again: {self.reason or 'the model is being loaded'}",
                "try again in a moment",
            ) from None
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def _is_ready(self) -> bool:
        state = self.state
        if state == "closed":
            raise EngineError("the engine is closed")
        if state == "failed":
            raise EngineError(f"the engine cannot be started: {self.reason}")
        return state == "ready"

    def _forget(self, id_: int) -> bool:
        """Take a request off the list; whether it was still there."""
        if self._boxes.pop(id_, None) is None:
            return False
        self._supervisor.add_work(-1)
        return True

    def _deliver(self, message: ToParent) -> None:
        """Hand a message's words to who waits for them; on the supervisor's thread."""
        words: list[tuple[int, Answer | ReplyValue]] = []
        if isinstance(message, Stepped):
            words += message.answers
        elif isinstance(message, Reply):
            words.append((message.id, message.value))
        batches: _Batches = {}
        for id_, word in words:
            box = self._boxes.get(id_)
            if box is None:
                continue
            if not isinstance(word, Started | Progress | Delta):
                self._forget(id_)
            said = word.error() if isinstance(word, Failed) else word
            batches.setdefault(box.loop, []).append((box, said))
        _put(batches)

    def _notice(self, error: LlmedgeError | None) -> None:
        """Fail all requests of a process that ended, and wake who waits for its state."""
        batches: _Batches = {}
        with self._lock:
            if error is not None:
                for id_, box in list(self._boxes.items()):
                    if self._forget(id_):
                        copy = EngineError(error.message, error.hint)
                        batches.setdefault(box.loop, []).append((box, copy))
            waiters = list(self._waiters)
        _put(batches)
        for loop, event in waiters:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)


def _put(batches: _Batches) -> None:
    for loop, words in batches.items():
        with contextlib.suppress(RuntimeError):  # a loop that has ended hears nothing
            loop.call_soon_threadsafe(_put_all, words)


def _put_all(words: list[tuple[Mailbox, Word]]) -> None:
    for box, word in words:
        box.put(word)
