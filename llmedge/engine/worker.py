"""What runs in an engine's child: three threads around one model.

The reader takes frames off the pipe and does nothing else, so that a cancellation and the parent's
end are met inside a decode, too. The clerk renders templates, tokenizes and compiles constraints,
however long that takes, while streams go on. The main thread steps.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeAlias, TypeVar

from llmedge.core.errors import LlmedgeError, ResourceError, UsageError
from llmedge.engine.core import open_core
from llmedge.engine.generation import Delta, Progress, Started
from llmedge.engine.messages import (
    MAX_FRAME_BYTES,
    Answer,
    Cancel,
    Embed,
    Failed,
    GaveUp,
    Limit,
    Load,
    Loaded,
    Loading,
    Question,
    Reply,
    Rerank,
    Stepped,
    Stop,
    Submit,
    ToChild,
    ToParent,
    decode_for_child,
    encode,
)
from llmedge.host.interpreter import read_frame, take_streams, write_frame
from llmedge.host.process import offer_to_memory_killer

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.engine.clerk import Clerk
    from llmedge.engine.engine import EngineStats, ModelInfo
    from llmedge.engine.messages import Entry, Paper

ValueT = TypeVar("ValueT")

_STATS_S = 0.25
# The clerk's Python must not keep the stepping thread from its interpreter lock: the default is 5.
_SWITCH_S = 0.0005
_PARENT_GONE = 130

_Task: TypeAlias = "tuple[int, Entry | Failed] | Cancel | Limit | Stop"


class Core(Protocol):
    """A loaded model that answers requests step by step: an `EngineCore`, an `EmbeddingCore`."""

    clerk: Clerk
    info: ModelInfo

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        ...

    @property
    def stats(self) -> EngineStats:
        """The counters of this moment."""
        ...

    def prepare(self, paper: Paper) -> Entry:
        """Do what needs no decode, on the clerk's thread; what is returned puts it in line."""
        ...

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        """Compute so many sequences at once from now on; see `Engine.limit`."""
        ...

    def cancel(self, id_: int) -> None:
        """End a request of which nobody wants to hear more."""
        ...

    def abort(self, id_: int) -> None:
        """End the decode call that runs if it is for cancelled requests only; from any thread."""
        ...

    def step(self) -> list[tuple[int, Answer]]:
        """Compute one batch and return what came of it."""
        ...

    def keep(self) -> None:
        """Write down what the next process can use."""
        ...


def enter() -> None:
    """Run in the child, until the parent closes the pipe or llama.cpp fails."""
    stream, output = take_streams()
    # A service manager sends SIGTERM to all processes: the parent drains, and ends this one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    offer_to_memory_killer()
    sys.setswitchinterval(_SWITCH_S)
    _guarded(Worker(stream, output).run)
    # The interpreter's own end would wait for the reader, and abort.
    os._exit(0)


class Worker:
    """One model's child.

    Args:
        stream: Frames of the parent.
        output: Frames for the parent.
        load: Opens a model's core; takes the request and a function to report progress to.
    """

    def __init__(
        self,
        stream: BinaryIO,
        output: BinaryIO,
        load: Callable[[Load, Callable[[float], bool]], Core] = open_core,
    ) -> None:
        self._stream, self._output, self._load = stream, output, load
        self._say_lock = threading.Lock()
        self._first: queue.SimpleQueue[Load] = queue.SimpleQueue()
        self._papers: queue.SimpleQueue[Paper | Question] = queue.SimpleQueue()
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._live: set[int] = set()
        self._core: Core | None = None
        self._stats_due = 0.0

    def run(self) -> None:
        """Load, then step while there is work, and sleep while there is none."""
        self._start(self._read, "reader")
        try:
            self._core = core = self._load(self._first.get(), self._report_loading)
            self._say(Stepped(stats=core.stats))
            self._say(Loaded(core.info))
            self._start(self._prepare, "clerk")
            self._work(core)
        except LlmedgeError as error:
            self._say(GaveUp(Failed.of(error)))

    def _work(self, core: Core) -> None:
        while True:
            if core.is_idle:
                self._handle(core, self._tasks.get())
            with contextlib.suppress(queue.Empty):
                while True:
                    self._handle(core, self._tasks.get_nowait())
            if not core.is_idle:
                self._tell(core, core.step())

    def _handle(self, core: Core, task: _Task) -> None:
        if isinstance(task, Cancel):
            core.cancel(task.id)
            self._tell(core, [])
        elif isinstance(task, Limit):
            core.limit(task.n_slots, forgets=task.forgets)
            self._tell(core, [])
        elif isinstance(task, Stop):
            core.keep()
            os._exit(0)
        else:
            id_, entry = task
            if id_ in self._live:
                answer = entry if isinstance(entry, Failed) else _attempt(entry)
                self._tell(core, [] if answer is None else [(id_, answer)])

    def _tell(self, core: Core, answers: list[tuple[int, Answer]]) -> None:
        """Send what came of a step, with the counters where they are due: after each end, too."""
        ended = [
            id_ for id_, answer in answers if not isinstance(answer, Started | Progress | Delta)
        ]
        self._live.difference_update(ended)
        now = time.monotonic()
        is_due = bool(ended) or core.is_idle or now >= self._stats_due
        if is_due:
            self._stats_due = now + _STATS_S
        if is_due or answers:
            self._say(Stepped(answers, core.stats if is_due else None))

    def _read(self) -> None:
        """Take frames off the pipe until it closes: then the parent is gone, and so are we."""
        while True:
            try:
                message = decode_for_child(read_frame(self._stream, MAX_FRAME_BYTES))
            except (EOFError, OSError):
                os._exit(_PARENT_GONE)
            self._sort(message)

    def _sort(self, message: ToChild) -> None:
        match message:
            case Load():
                self._first.put(message)
            case Cancel():
                self._live.discard(message.id)
                self._tasks.put(message)
                if self._core is not None:
                    self._core.abort(message.id)
            case Limit() | Stop():
                self._tasks.put(message)
            case Submit() | Embed() | Rerank():
                self._live.add(message.id)
                self._papers.put(message)
            case _:
                self._papers.put(message)

    def _prepare(self) -> None:
        """Do what needs no decode, one after the other."""
        core = self._core
        if core is None:
            raise RuntimeError("the clerk works for a model that is loaded")
        while True:
            paper = self._papers.get()
            if not isinstance(paper, Submit | Embed | Rerank):
                self._reply(paper, core)
            elif paper.id in self._live:
                self._tasks.put((paper.id, _attempt(lambda p=paper: core.prepare(p))))

    def _reply(self, question: Question, core: Core) -> None:
        reply = Reply(question.id, _attempt(lambda: core.clerk.answer(question)))
        try:
            self._say(reply)
        except UsageError as error:  # a template can write what is no text
            self._say(Reply(question.id, Failed.of(error)))

    def _report_loading(self, share: float) -> bool:
        now = time.monotonic()
        if now >= self._stats_due:
            self._stats_due = now + _STATS_S
            self._say(Loading(share))
        return True

    def _say(self, message: ToParent) -> None:
        data = encode(message)
        try:
            with self._say_lock:
                write_frame(self._output, data)
        except BrokenPipeError:
            os._exit(_PARENT_GONE)

    def _start(self, target: Callable[[], None], name: str) -> None:
        threading.Thread(target=_guarded, args=(target,), name=name, daemon=True).start()


def _guarded(target: Callable[[], None]) -> None:
    """Run a thread of which the child cannot live without."""
    try:
        target()
    except BaseException:  # noqa: BLE001 - the parent reads it from stderr
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _attempt(work: Callable[[], ValueT]) -> ValueT | Failed:
    """Do something for one request; whatever goes wrong is this request's trouble alone."""
    try:
        return work()
    except LlmedgeError as error:
        return Failed.of(error)
    except MemoryError:
        return Failed.of(
            ResourceError("the engine's memory is used up", "try a shorter request, or again later")
        )
    except Exception:  # noqa: BLE001 - a bug: it crosses the process border as text
        return Failed("RuntimeError", f"in the engine's process:\n{traceback.format_exc()}")
