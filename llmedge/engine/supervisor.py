"""Keeps one engine's child alive: starts it, watches it, and starts it again when it dies.

Knows the process and its states, and hands every message on; it knows nothing of requests.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from llmedge.core.errors import EngineError, LlmedgeError, ResourceError
from llmedge.core.settings import environment_without_secrets
from llmedge.engine.messages import (
    MAX_FRAME_BYTES,
    GaveUp,
    Load,
    Loaded,
    Loading,
    Stepped,
    Stop,
    ToParent,
    decode_for_parent,
    encode,
)
from llmedge.engine.patience import HangOptions, Patience
from llmedge.host.interpreter import ChildDied, Interpreter, read_frame, write_frame
from llmedge.host.process import read_cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.engine.engine import EngineState, EngineStats, ModelInfo


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """When a child is given up, and when it is started again.

    Attributes:
        hang: How long it may be silent while there is work; it is then killed.
        first_delay_s: Wait before the first restart; each further one waits twice as long.
        max_delay_s: Longest wait.
        healthy_s: A child that lived so long begins the waits anew.
        max_load_deaths: Deaths in a row while loading after which it is not tried again.
        stop_s: How long it may take at its end to write down what the next one can use.
    """

    hang: HangOptions = field(default_factory=HangOptions)
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    healthy_s: float = 60.0
    max_load_deaths: int = 3
    stop_s: float = 20.0


class Supervisor:
    """Runs a child on a thread of its own until `close`.

    Args:
        load: The first word to each child.
        watch: When to give it up.
        on_message: Takes each message but those of the load; called on the supervisor's thread.
        on_change: Called there when the state changed; with the error that ended all work, if one
            did.

    Attributes:
        state: What the next request can expect.
        n_restarts: Times that the child was started again.
        info: The model, once it was loaded.
        reason: What ended the last child, or kept the model from being loaded.
        stats: The counters that were heard last.
    """

    def __init__(
        self,
        load: Load,
        watch: WatchOptions,
        on_message: Callable[[ToParent], None],
        on_change: Callable[[LlmedgeError | None], None],
    ) -> None:
        self._load, self._watch = load, watch
        self._on_message, self._on_change = on_message, on_change
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._has_ended_load = threading.Event()
        self._link: _Link | None = None
        self._n_pending = 0
        self.state: EngineState = "loading"
        self.n_restarts = 0
        self.info: ModelInfo | None = None
        self.reason: LlmedgeError | None = None
        self.stats: EngineStats | None = None
        self._thread = threading.Thread(target=self._run, name="engine-supervisor", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The child's process id, while one runs."""
        link = self._link
        return None if link is None else link.pid

    def wait_loaded(self) -> ModelInfo:
        """Wait for the first load and return the model.

        Raises:
            LlmedgeError: What kept it from being loaded.
        """
        self._has_ended_load.wait()
        if self.info is None:
            raise self.reason or EngineError("the engine was closed")
        return self.info

    def send(self, data: bytes) -> None:
        """Hand a frame over to the child, without waiting for it; it may be gone."""
        with self._lock:
            if self._link is not None:
                self._link.send(data)

    def add_work(self, n: int) -> None:
        """Count requests that wait for an answer; silence is death only while there are any."""
        with self._lock:
            self._n_pending += n
            if self._link is not None and n > 0 and self._n_pending == n:
                self._link.heard()

    def close(self) -> None:
        """End the child, wait for its end and for the thread's; twice is harmless."""
        self._is_closing.set()
        if self._load.cache_dir and self.state == "ready":
            self.send(encode(Stop()))
            self._thread.join(self._watch.stop_s)
        with self._lock:
            if self._link is not None:
                self._link.kill()
        self._thread.join()
        self.state = "closed"

    def _run(self) -> None:
        """Start children until closed or until there is no hope."""
        delay, n_load_deaths = self._watch.first_delay_s, 0
        while not self._is_closing.is_set():
            self.reason, healthy_s = self._live()
            if self._is_closing.is_set():
                break
            n_load_deaths = n_load_deaths + 1 if healthy_s is None else 0
            # A file that is wrong stays wrong; memory that is not there may come back.
            is_hopeless = not isinstance(self.reason, ResourceError) or (
                self.info is None and not isinstance(self.reason, EngineError)
            )
            if is_hopeless or n_load_deaths >= self._watch.max_load_deaths:
                self._change("failed", self.reason)
                return
            if (healthy_s or 0.0) >= self._watch.healthy_s:
                delay = self._watch.first_delay_s
            self._change("restarting", self.reason)
            self._is_closing.wait(delay)
            delay = min(2 * delay, self._watch.max_delay_s)
            if not self._is_closing.is_set():
                self.n_restarts += 1
        self.reason = EngineError("the engine was closed")
        self._change("closed", self.reason)

    def _live(self) -> tuple[LlmedgeError, float | None]:
        """Run one child to its end; return what ended it, and how long the model was loaded."""
        try:
            link = _Link(Patience(self._watch.hang, self._load.context.n_batch), self._pace)
        except OSError as error:
            return EngineError(f"the engine's process cannot be started: {error}"), None
        with self._lock:
            self._link = link
        if self._is_closing.is_set():
            link.kill()
        try:
            link.send(encode(self._load))
            loaded_at, refusal = self._listen(link)
        finally:
            with self._lock:
                self._link = None
            link.close()
            self.stats = None
        healthy_s = None if loaded_at is None else time.monotonic() - loaded_at
        if refusal is None:
            return link.cause(), healthy_s
        if isinstance(refusal, LlmedgeError) and healthy_s is None:
            return refusal, None
        return EngineError(str(refusal)), healthy_s

    def _listen(self, link: _Link) -> tuple[float | None, Exception | None]:
        """Hand on what a child says until it ends: when it was loaded, and why it gave up."""
        loaded_at: float | None = None
        while (message := link.receive()) is not None:
            match message:
                case Loading():
                    pass
                case Loaded():
                    self.info, loaded_at = message.info, time.monotonic()
                    self._change("ready", None)
                case GaveUp():
                    return loaded_at, message.reason.error()
                case _:
                    if isinstance(message, Stepped) and message.stats is not None:
                        self.stats = message.stats
                    self._on_message(message)
        return loaded_at, None

    def _pace(self) -> tuple[bool, float | None]:
        """Return whether the child has work, and what it took for a token so far."""
        stats = self.stats
        is_busy = self._n_pending > 0 or self.state != "ready"
        if stats is None or not stats.n_computed_tokens:
            return is_busy, None
        return is_busy, stats.step_s / stats.n_computed_tokens

    def _change(self, state: EngineState, error: LlmedgeError | None) -> None:
        self.state = "loading" if state == "restarting" and self.info is None else state
        self._on_change(error)
        if state in ("ready", "failed", "closed"):
            self._has_ended_load.set()


class _Link:
    """One child with the threads that write to it and watch it; read by who made it."""

    def __init__(self, patience: Patience, pace: Callable[[], tuple[bool, float | None]]) -> None:
        self._child = Interpreter("llmedge.engine.worker", "enter", environment_without_secrets())
        self._patience, self._pace = patience, pace
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._has_ended = threading.Event()
        self._cause: LlmedgeError | None = None
        self._threads = [
            threading.Thread(target=target, name=f"engine-{name}", daemon=True)
            for name, target in (("writer", self._write), ("watch", self._watch))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, data: bytes) -> None:
        self._outbox.put(data)

    def receive(self) -> ToParent | None:
        """Wait for the next message; `None` when there will be none."""
        try:
            data = read_frame(self._child.output, MAX_FRAME_BYTES)
            message = decode_for_parent(data)
        except (EOFError, OSError, ValueError):
            return None
        except msgspec.DecodeError as error:
            self._give_up(f"the engine's process wrote what cannot be read: {error}")
            return None
        self.heard()
        return message

    def heard(self) -> None:
        self._patience.heard()

    def kill(self) -> None:
        self._child.kill()

    def cause(self) -> LlmedgeError:
        """Say what ended it."""
        return self._cause or EngineError("the engine's process ended")

    def close(self) -> None:
        """End it, and what runs for it."""
        self._child.wait(0 if self._cause else 2.0)
        self._child.kill()
        if self._cause is None:
            self._cause = _translate(self._child.obituary())
        self._has_ended.set()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join()
        self._child.close()

    def _write(self) -> None:
        while (data := self._outbox.get()) is not None:
            with contextlib.suppress(OSError):  # it died; who reads will know
                write_frame(self._child.input, data)

    def _watch(self) -> None:
        """Kill the child when it is silent for too long with work to do."""
        last = time.monotonic()
        while not self._has_ended.wait(self._patience.interval_s):
            is_busy, token_s = self._pace()
            if not is_busy:
                self.heard()
            now = time.monotonic()
            cause = self._patience.look(now - last, read_cpu_seconds(self.pid), token_s)
            last = now
            if cause:
                self._give_up(f"the engine's process hangs: {cause}")
                return

    def _give_up(self, cause: str) -> None:
        self._cause = EngineError(cause)
        self._child.kill()


def _translate(end: ChildDied | RuntimeError) -> EngineError:
    if not isinstance(end, ChildDied):
        return EngineError(f"the engine's process ended: {end}")
    hint = ""
    if end.cause == "SIGKILL":
        hint = "memory may have run out: try a smaller --ctx, fewer --slots, or a smaller quant"
    last_words = f": {end.stderr.splitlines()[-1]}" if end.stderr else ""
    return EngineError(f"the engine's process was ended by {end.cause}{last_words}", hint)
