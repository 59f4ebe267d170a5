"""A recipe from its first stage to its last, none of them twice.

What a stage finds is kept with the hash of all that it depends on: a run that was killed goes on
behind the last stage that ended, and a change in the recipe repeats what depends on it. Variants
are made beside the store and move into it when they have reached what the recipe asks for.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import llmedge
from llmedge.core.errors import NotFoundError, ResourceError, UsageError
from llmedge.host.cpu import read_cpu
from llmedge.host.files import LockFile
from llmedge.host.memory import read_memory
from llmedge.recipe.gates import describe_gates, missed_gates
from llmedge.recipe.register import register, require_own
from llmedge.recipe.stage_work import (
    Converted,
    Made,
    Pulled,
    convert_checkpoint,
    evaluate_text,
    judge_devices,
    make_variant,
    measure_speed,
    read_architecture,
)
from llmedge.runtime.library import library_info
from llmedge.store.atomic import make_folder
from llmedge.store.catalog import variant_path
from llmedge.store.manifest import Quality, Speed, utc_now
from llmedge.store.reference import HubReference
from llmedge.store.run_records import (
    RunRecord,
    StageRecord,
    Status,
    VariantRecord,
    runs_folder,
    write_run,
)
from llmedge.store.stages import Stages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.recipe.load import LoadedRecipe
    from llmedge.recipe.schema import VariantTable
    from llmedge.recipe.up import Snapshot
    from llmedge.store.run_records import DeviceRecord

ResultT = TypeVar("ResultT")
_NEEDS = ("pull", "convert", "quantize")  # stages that all later ones need


class Checkpoints(Protocol):
    """The Hub, or what is kept of it."""

    def fetch(self, reference: HubReference) -> Snapshot:
        """Fetch what a reference stands for, as far as it is not here."""
        ...


class View(Protocol):
    """Who shows a run while it goes on."""

    def stage(self, record: StageRecord, found: str) -> None:
        """Say that a stage has ended, and what it found."""
        ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a recipe.

    Attributes:
        only: The last stage to run, without the measurements before it; `None` runs all.
        resume: Go on with the commit of the run before, without asking the Hub.
        keep_failed: Keep variants that miss a gate.
        overwrite: Replace variants in the store that another recipe or command made.
        n_threads: Threads; `None` takes the performance cores.
    """

    only: str | None = None
    resume: bool = False
    keep_failed: bool = False
    overwrite: bool = False
    n_threads: int | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run works with.

    Attributes:
        source: Where repositories come from.
        settings: Where the store is.
        progress: Shows each step.
        view: Shows each stage.
        tell: Takes what a user should know.
    """

    source: Checkpoints
    settings: Settings
    progress: Progress
    view: View
    tell: Callable[[str], None]


def run(loaded: LoadedRecipe, options: RunOptions, tools: Tools) -> tuple[RunRecord, Path]:
    """Run a recipe; return the record and its file.

    Raises:
        UsageError: Another process runs it, or it would replace variants that it did not make.
        LlmedgeError: Whatever a stage raises.
    """
    folder = runs_folder(tools.settings, loaded.recipe.name)
    make_folder(folder)
    with LockFile(folder / ".lock") as lock:
        if not lock.is_ours:
            raise UsageError(
                f"another process runs the recipe {loaded.recipe.name}", "wait for its end"
            )
        found = _Run(loaded, options, tools, folder).run()
    return found, write_run(tools.settings, found)


class _Run:
    def __init__(
        self, loaded: LoadedRecipe, options: RunOptions, tools: Tools, folder: Path
    ) -> None:
        self._loaded, self._recipe = loaded, loaded.recipe
        self._options, self._tools = options, tools
        self._settings, self._progress = tools.settings, tools.progress
        self._work = folder / "work"
        self._stages = Stages(folder / "stages")
        self._done: list[StageRecord] = []
        self._versions = {"llmedge": llmedge.__version__, "llama_cpp": library_info().label}

    def run(self) -> RunRecord:
        started = utc_now()
        if not self._options.overwrite:
            require_own(self._recipe, self._settings)
        pulled = self._pull()
        made: list[Made] = []
        if self._wants("convert"):
            converted = self._convert(pulled)
            if self._wants("quantize"):
                made = [self._quantize(table, pulled, converted) for table in self._recipe.variant]
            quality = self._evaluate(made, pulled, converted) if self._wants("evaluate") else {}
        else:
            quality = {}
        speeds = self._bench(made) if self._wants("bench") else {}
        devices = self._check(made) if self._wants("check") else {}
        found = [
            self._judged(item, quality.get(item.variant, ()), speeds, devices) for item in made
        ]
        status = self._status(found)
        if status == "passed":
            found = [
                register(item, self._loaded, self._work / "variants", self._settings)
                for item in found
            ]
        if status == "passed" or (status == "failed" and not self._options.keep_failed):
            shutil.rmtree(self._work, ignore_errors=True)
        return self._record(pulled, found, status, started)

    def _wants(self, stage: str) -> bool:
        only = self._options.only
        if only is None or only == stage:
            return True
        # What a later stage works on is made; what only measures is left out.
        return stage in _NEEDS and (only not in _NEEDS or _NEEDS.index(stage) < _NEEDS.index(only))

    def _stage(
        self,
        key: tuple[str, str],
        inputs: object,
        kind: type[ResultT],
        work: Callable[[], ResultT],
        is_there: Callable[[ResultT], bool] = lambda _: True,
    ) -> ResultT:
        stage, what = key
        name = f"{stage}-{what}".replace("/", "_")
        kept = self._stages.find(name, inputs, kind)
        if kept is not None and is_there(kept.result):
            self._ended(StageRecord(stage, what, kept.seconds, is_kept=True), kept.result)
            return kept.result
        start = time.monotonic()
        result = work()
        seconds = time.monotonic() - start
        self._stages.keep(name, inputs, result, seconds)
        self._ended(StageRecord(stage, what, round(seconds, 3), is_kept=False), result)
        return result

    def _ended(self, record: StageRecord, result: object) -> None:
        self._done.append(record)
        self._tools.view.stage(record, str(result))

    def _pull(self) -> Pulled:
        source = self._recipe.source
        inputs = [source.repo, source.revision, source.include, source.exclude]
        is_fixed = source.revision is not None or self._options.resume
        pulled = self._stage(
            ("pull", source.repo),
            inputs,
            Pulled,
            self._fetch,
            # A branch moves: the Hub is asked where it stands now.
            lambda found: is_fixed and found.is_there(),
        )
        for name, oid in source.files.items():
            if pulled.oids.get(name) != oid:
                raise UsageError(
                    f"{source.repo}@{pulled.commit}: {name} is {pulled.oids.get(name, 'not there')}"
                    f", the recipe says {oid}",
                    "llmedge recipe lock writes what is there now",
                )
        if source.architecture is not None:
            found = read_architecture(pulled)
            if found != source.architecture:
                raise UsageError(
                    f"{source.repo} has the architecture {found}, the recipe says "
                    f"{source.architecture}"
                )
        return pulled

    def _fetch(self) -> Pulled:
        source = self._recipe.source
        snapshot = self._tools.source.fetch(HubReference(source.repo, source.revision))
        if not snapshot.has_weights:
            raise NotFoundError(
                f"{source.repo} has no safetensors among what was chosen",
                "a recipe needs a checkpoint; see source.include",
            )
        return Pulled(source.repo, snapshot.commit, str(snapshot.folder), dict(snapshot.oids))

    def _convert(self, pulled: Pulled) -> Converted:
        return self._stage(
            ("convert", "16 bits"),
            [pulled.repo, pulled.commit, pulled.oids, self._versions],
            Converted,
            # Its file goes when a run has ended, and is made again where a stage wants it.
            lambda: self._converted(pulled),
        )

    def _converted(self, pulled: Pulled) -> Converted:
        name, threads = self._recipe.name, self._options.n_threads
        tools = (self._settings, self._progress, self._tools.tell)
        return convert_checkpoint(pulled, name, self._work, threads, tools)

    def _reference(self, pulled: Pulled, converted: Converted) -> Path:
        """Return the 16-bit file, made again where it is gone."""
        if not converted.is_in(self._work):
            again = self._converted(pulled)
            if again.sha256 != converted.sha256:
                raise ResourceError(
                    f"{self._recipe.name} became another file than before",
                    f"remove {self._work.parent / 'stages'}, and run it again",
                )
        return self._work / converted.file

    def _quantize(self, table: VariantTable, pulled: Pulled, converted: Converted) -> Made:
        recipe = self._recipe
        label, said = table.label, table.model_dump()
        calibration = [recipe.calibration.model_dump(), recipe.languages]
        places = (
            self._work / "variants" / f"{recipe.name}-{label}.gguf",
            variant_path(self._settings, recipe.name, label),
        )
        return self._stage(
            ("quantize", label),
            [converted.sha256, said, calibration, self._versions],
            Made,
            lambda: make_variant(
                self._reference(pulled, converted),
                table,
                self._loaded,
                (pulled, converted, places[0], self._options.n_threads),
                (self._settings, self._progress, self._tools.tell),
            ),
            lambda found: any(found.is_at(place) for place in places),
        )

    def _path(self, made: Made) -> Path:
        """Return where a variant lies: in the store, or in the making."""
        path = variant_path(self._settings, self._recipe.name, made.variant)
        return path if made.is_at(path) else self._work / "variants" / path.name

    def _evaluate(
        self, made: Sequence[Made], pulled: Pulled, converted: Converted
    ) -> dict[str, tuple[Quality, ...]]:
        chunks = self._recipe.evaluate.chunks
        found: dict[str, list[Quality]] = {item.variant: [] for item in made}
        for text in self._recipe.texts:
            for item in made:
                quality = self._stage(
                    ("evaluate", f"{item.variant} {text}"),
                    [item.sha256, converted.sha256, text, chunks, self._versions],
                    Quality,
                    lambda item=item, text=text: evaluate_text(
                        self._path(item),
                        self._reference(pulled, converted),
                        (text, chunks, self._options.n_threads),
                        self._settings,
                        self._progress,
                    ),
                )
                found[item.variant].append(quality)
        return {variant: tuple(items) for variant, items in found.items()}

    def _bench(self, made: Sequence[Made]) -> dict[str, Speed]:
        said, processor = self._recipe.bench.model_dump(), read_cpu().model
        threads, languages = self._options.n_threads, self._recipe.languages
        return {
            item.variant: self._stage(
                ("bench", item.variant),
                [item.sha256, said, languages, processor, threads, self._versions],
                Speed,
                lambda item=item: measure_speed(
                    self._path(item), self._recipe, threads, self._settings, self._progress
                ),
            )
            for item in made
        }

    def _check(self, made: Sequence[Made]) -> dict[str, tuple[DeviceRecord, ...]]:
        found: dict[str, tuple[DeviceRecord, ...]] = {}
        for item in made:
            start = time.monotonic()
            found[item.variant] = judge_devices(self._path(item), self._recipe, self._settings)
            for device in found[item.variant]:
                what, seconds = f"{item.variant} {device.device}", time.monotonic() - start
                record = StageRecord("check", what, round(seconds, 3), is_kept=False)
                self._ended(record, f"{device.verdict}: {device.reason}")
        return found

    def _judged(
        self,
        made: Made,
        quality: tuple[Quality, ...],
        speeds: dict[str, Speed],
        devices: dict[str, tuple[DeviceRecord, ...]],
    ) -> VariantRecord:
        speed, judged = speeds.get(made.variant), devices.get(made.variant, ())
        return VariantRecord(
            variant=made.variant,
            file=f"{self._recipe.name}-{made.variant}.gguf",
            file_bytes=made.n_bytes,
            bits_per_weight=made.bits_per_weight,
            sha256=made.sha256,
            quality=quality,
            speed=speed,
            devices=judged,
            missed=missed_gates(self._recipe, quality, speed, judged),
        )

    def _status(self, found: Sequence[VariantRecord]) -> Status:
        if self._options.only is not None:
            return "partial"
        return "failed" if any(item.missed for item in found) else "passed"

    def _record(
        self, pulled: Pulled, found: Sequence[VariantRecord], status: Status, started: str
    ) -> RunRecord:
        recipe, cpu, memory = self._recipe, read_cpu(), read_memory()
        return RunRecord(
            recipe=recipe.name,
            title=recipe.title,
            license=recipe.license,
            recipe_sha256=self._loaded.sha256,
            repo=pulled.repo,
            commit=pulled.commit,
            served=recipe.served,
            status=status,
            gates=describe_gates(recipe),
            variants=tuple(found),
            stages=tuple(self._done),
            machine={"processor": cpu.model, "memory_bytes": memory.total_bytes},
            tools=self._versions,
            started=started,
            finished=utc_now(),
        )
