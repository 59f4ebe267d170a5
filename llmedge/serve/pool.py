"""Several models under one address: loaded when they are asked for, unloaded when they are not.

A name is either one of the models or an error: no request is ever answered by another model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llmedge.core.errors import LlmedgeError, NotFoundError, ResourceError, UsageError
from llmedge.core.units import format_mb
from llmedge.serve.answer import ServedModel
from llmedge.serve.served import Defaults, ServedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmedge.engine.engine import Engine, ModelInfo
    from llmedge.serve.limits import Drain, Limits
    from llmedge.serve.metrics import Meters

_log = logging.getLogger("llmedge.serve")

_SWEEP_S = 1.0
# A model that was asked for this recently is about to be used.
_FRESH_S = 2.0
# How often names that nobody knows make us look into the folder again.
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that can be loaded.

    Attributes:
        info: What is known of it before it is loaded; its id is the model's name.
        open: Loads it, which takes a while; called on a thread.
        needs_bytes: Memory that it takes, estimated.
        aliases: Further names that it is asked for by.
    """

    info: ModelInfo
    open: Callable[[], Engine]
    needs_bytes: int = 0
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder offers.

    Attributes:
        sources: The models by name. A file that did not change keeps its source.
        refused: Files that are no model to be served, by the name that they would have.
    """

    sources: Mapping[str, ModelSource] = field(default_factory=dict[str, ModelSource])
    refused: Mapping[str, LlmedgeError] = field(default_factory=dict[str, LlmedgeError])


class Folder(Protocol):
    """Where models may lie, and come and go."""

    def look(self) -> Found:
        """Return what lies there now; called on one thread at a time.

        Raises:
            OSError: It cannot be read.
        """
        ...


@dataclass(slots=True)
class _Place:
    """A model's place in the pool."""

    source: ModelSource
    engine: ServedEngine | None = None
    loading: asyncio.Task[ServedEngine] | None = None
    last_asked: float = field(default_factory=time.monotonic)
    stays: bool = False  # its source cannot open it again

    @property
    def state(self) -> str:
        """The engine's, or `unloaded`."""
        if self.engine is not None:
            return self.engine.state
        return "loading" if self.loading is not None else "unloaded"

    @property
    def idle_s(self) -> float:
        """Seconds since anybody wanted it; 0 while somebody uses it."""
        if self.engine is None or not self.engine.is_idle:
            return 0.0
        return time.monotonic() - max(self.last_asked, self.engine.last_used)


class ModelPool:
    """Names and the engines behind them.

    Args:
        sources: The models, by distinct names; or where they lie, whatever that is at the time.
        limits: For each of them.
        drain: For all of them.
        meters: For all of them.
        ttl_s: Seconds after which a model that nobody uses is unloaded; `None` keeps it.
        free_bytes: Returns the memory that is free now; `None` loads without looking.
        defaults: What requests get that do not name it.

    Attributes:
        defaults: What requests get that do not name it.

    Raises:
        UsageError: Two models have the same name.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource] | Folder,
        limits: Limits,
        drain: Drain,
        meters: Meters,
        *,
        ttl_s: float | None = None,
        free_bytes: Callable[[], int] | None = None,
        defaults: Defaults | None = None,
    ) -> None:
        folder = None
        if not isinstance(sources, Sequence):
            folder, sources = sources, ()
        self._places = {source.info.id: _Place(source) for source in sources}
        self._aliases = {alias: source.info.id for source in sources for alias in source.aliases}
        self.defaults = defaults or Defaults()
        if len(self._places) < len(sources):
            raise UsageError("two models have the same name", "rename a file")
        self._limits = limits
        self._drain = drain
        self._meters = meters
        self._ttl_s = ttl_s
        self._free_bytes = free_bytes
        # Loading is one at a time: what one takes is not yet seen when another is estimated.
        self._load_lock = asyncio.Lock()
        self._is_closed = False
        self._folder = folder
        self._own = frozenset(self._places)  # names that are not the folder's
        self._refused: Mapping[str, LlmedgeError] = {}
        # Engines whose file was replaced or removed: they end what they were asked.
        self._leaving: list[_Place] = []
        self._look_lock = asyncio.Lock()
        self._looked_at = time.monotonic()
        if folder is not None:
            self._take(folder.look())

    def adopt(self, engine: Engine) -> None:
        """Take an engine that is loaded already; it is one of the sources'."""
        place = self._places[engine.info.id]
        place.engine, place.stays = self._serve(engine), True

    @property
    def engines(self) -> Mapping[str, ServedEngine]:
        """The engines that are loaded, by name."""
        return {
            name: place.engine for name, place in self._places.items() if place.engine is not None
        }

    def aliases(self, name: str) -> tuple[str, ...]:
        """Return the further names of a model."""
        return self._places[name].source.aliases

    @property
    def is_healthy(self) -> bool:
        """Whether no engine is in trouble."""
        return set(self.states.values()) <= {"ready", "unloaded", "loading"}

    @property
    def is_ready(self) -> bool:
        """Whether a request that comes now can be expected to work."""
        return not self._drain.is_draining and set(self.states.values()) <= {"ready", "unloaded"}

    @property
    def states(self) -> dict[str, str]:
        """What each model's next request can expect."""
        return {name: place.state for name, place in self._places.items()}

    def models(self) -> list[ServedModel]:
        """Return all models, with what is known of them."""
        return [
            ServedModel(
                place.engine.info if place.engine else place.source.info, bool(place.engine)
            )
            for place in self._places.values()
        ]

    def require(self, name: str) -> ServedModel:
        """Return one model.

        Raises:
            NotFoundError: There is none of that name.
        """
        place = self._find(name)
        info = place.engine.info if place.engine else place.source.info
        return ServedModel(info, place.engine is not None)

    async def engine(self, name: str | None) -> ServedEngine:
        """Return the engine of a model, loaded if need be.

        Args:
            name: Its name; none is enough where there is one model.

        Raises:
            NotFoundError: There is none of that name.
            UsageError: None is named, and there are several.
            ResourceError: There is not enough memory now.
        """
        if name and name not in self._places:
            await self._look(min_age_s=_LOOK_S)
        place = self._find(name)
        place.last_asked = time.monotonic()
        if place.engine is not None:
            return place.engine
        self._drain.check()
        if place.loading is None:
            place.loading = asyncio.create_task(self._load(place))
        # Whoever waits may leave; the others still want it.
        return await asyncio.shield(place.loading)

    async def sweep(self) -> None:
        """Unload what nobody used for the time to live, and see what is new, again and again."""
        while self._ttl_s is not None or self._folder is not None:
            await asyncio.sleep(min(_SWEEP_S, (self._ttl_s or 2 * _SWEEP_S) / 2))
            await self._look()
            for place in list(self._places.values()):
                if self._ttl_s is not None and place.idle_s > self._ttl_s:
                    await self._unload(place, "nobody used it")
            for place in list(self._leaving):
                if place.idle_s > _FRESH_S:
                    await self._unload(place, "its file was replaced or removed")
                if place.state == "unloaded":
                    self._leaving.remove(place)

    def loaded(self) -> Sequence[Engine]:
        """Return the engines that are loaded, those on their way out, too."""
        places = [*self._places.values(), *self._leaving]
        return [place.engine for place in places if place.engine is not None]

    async def relieve(self) -> None:
        """Unload what nobody uses and what comes back when it is asked for."""
        for place in [*self._places.values(), *self._leaving]:
            if place.idle_s > _FRESH_S and not place.stays:
                await self._unload(place, "memory is short")

    def close(self) -> None:
        """End all engines; what they were asked gets an error. May be called on any thread."""
        self._is_closed = True
        for place in [*self._places.values(), *self._leaving]:
            if place.engine is not None:
                place.engine.close()

    async def _look(self, min_age_s: float = 0.0) -> None:
        """See what is in the folder, unless somebody did a moment ago."""
        async with self._look_lock:
            if self._folder is None or time.monotonic() - self._looked_at < min_age_s:
                return
            try:
                found = await asyncio.to_thread(self._folder.look)
            except OSError as error:  # unmounted, for instance: what is loaded stays
                _log.warning("the models' folder cannot be read: %s", error.strerror)
            else:
                self._take(found)
            self._looked_at = time.monotonic()

    def _take(self, found: Found) -> None:
        """Offer what was found, and nothing else."""
        self._refused = found.refused
        for name in [*self._places]:
            place = self._places[name]
            if name not in self._own and found.sources.get(name) is not place.source:
                del self._places[name]
                if place.state != "unloaded":
                    self._leaving.append(place)
        for name, source in found.sources.items():
            if name not in self._places:
                _log.info("offering %s", name)
                self._places[name] = _Place(source)

    def _find(self, name: str | None) -> _Place:
        if not name:
            if len(self._places) == 1:
                return next(iter(self._places.values()))
            raise UsageError(f"say which model: {self._names()}")
        place = self._places.get(self._aliases.get(name, name))
        if place is not None:
            return place
        if name in self._refused:
            raise self._refused[name]
        raise NotFoundError(f"the model {name[:80]!r} is not served here; {self._names()}")

    def _names(self) -> str:
        names = [repr(name) for name in self._places]
        if not names:
            return "none is"
        return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:16])} are"

    async def _load(self, place: _Place) -> ServedEngine:
        try:
            async with self._load_lock:
                await self._make_room(place.source)
                start = time.monotonic()
                engine = await asyncio.to_thread(place.source.open)
                if self._is_closed:
                    engine.close()
                    self._drain.check()
                _log.info("loaded %s in %.1f s", engine.info.id, time.monotonic() - start)
                place.engine = self._serve(_named(engine, place.source.info.id))
                place.last_asked = time.monotonic()
                return place.engine
        finally:
            place.loading = None

    async def _make_room(self, source: ModelSource) -> None:
        """Unload models, the longest unused first, until another fits.

        Raises:
            ResourceError: It does not, or only when those that are in use are unloaded.
        """
        while self._free_bytes is not None and (free := self._free_bytes()) < source.needs_bytes:
            places = [*self._places.values(), *self._leaving]
            idle = [place for place in places if place.idle_s > _FRESH_S]
            if not idle:
                raise ResourceError(
                    f"{source.info.id} needs about {format_mb(source.needs_bytes)}, "
                    f"{format_mb(free)} are free",
                    "wait for the other models' answers, or choose a smaller one",
                )
            await self._unload(max(idle, key=lambda place: place.idle_s), "memory is short")

    async def _unload(self, place: _Place, reason: str) -> None:
        engine, place.engine = place.engine, None
        if engine is not None:
            _log.info("unloading %s: %s", engine.info.id, reason)
            await asyncio.to_thread(engine.close)

    def _serve(self, engine: Engine) -> ServedEngine:
        return ServedEngine(engine, self._limits, self._drain, self._meters, self.defaults)


def pool_of(
    engine: Engine,
    limits: Limits,
    drain: Drain,
    meters: Meters,
    *,
    aliases: Sequence[str] = (),
    defaults: Defaults | None = None,
) -> ModelPool:
    """Return a pool of one model that is loaded and stays so."""
    source = ModelSource(engine.info, lambda: engine, aliases=tuple(aliases))
    pool = ModelPool([source], limits, drain, meters, defaults=defaults)
    pool.adopt(engine)
    return pool


def _named(engine: Engine, name: str) -> Engine:
    if engine.info.id != name:
        engine.close()
        raise AssertionError(f"{name} was opened as {engine.info.id}")
    return engine
