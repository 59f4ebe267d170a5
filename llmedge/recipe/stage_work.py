"""What each stage of a run does, and what it finds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmedge.check.verdict import Demands, check
from llmedge.core.errors import IntegrityError
from llmedge.core.units import format_mb, format_mib, parse_bytes
from llmedge.device.profile import find_profile
from llmedge.gguf.memory import KvCacheOptions
from llmedge.gguf.reader import read_header
from llmedge.measure.calibration import PRESETS, CalibrationOptions, language_weights
from llmedge.measure.corpus import LANGUAGES, shipped_corpus
from llmedge.recipe.variants import VariantsOptions, make_variants
from llmedge.runtime.context import ContextOptions
from llmedge.store.manifest import Quality, Speed, file_sha256
from llmedge.store.run_records import DeviceRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.recipe.load import LoadedRecipe
    from llmedge.recipe.schema import Recipe, VariantTable

    Means = tuple[Settings, Progress, Callable[[str], None]]


@dataclass(frozen=True, slots=True)
class Pulled:
    """A checkpoint in the cache.

    Attributes:
        repo: Its repository.
        commit: At which commit.
        folder: Where it lies.
        oids: What each file hashes to, by its name.
    """

    repo: str
    commit: str
    folder: str
    oids: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit[:12]}"

    def is_there(self) -> bool:
        """Whether all its files are."""
        folder = Path(self.folder)
        return folder.is_dir() and all((folder / name).is_file() for name in self.oids)


@dataclass(frozen=True, slots=True)
class Converted:
    """The 16-bit file that variants are made of and compared with.

    Attributes:
        file: Its name.
        n_bytes: Its size.
        sha256: Its hash.
        can_requantize: Whether quantizing it again is known to be harmless.
    """

    file: str
    n_bytes: int
    sha256: str
    can_requantize: bool

    def __str__(self) -> str:
        return f"{self.file}, {format_mb(self.n_bytes)}"

    def is_in(self, folder: Path) -> bool:
        """Whether it lies there whole."""
        path = folder / self.file
        return path.is_file() and path.stat().st_size == self.n_bytes


@dataclass(frozen=True, slots=True)
class Made:
    """A variant.

    Attributes:
        variant: What it is called.
        n_bytes: Its size.
        sha256: Its hash.
        bits_per_weight: Over all tensors.
    """

    variant: str
    n_bytes: int
    sha256: str
    bits_per_weight: float

    def __str__(self) -> str:
        return f"{format_mb(self.n_bytes)}, {self.bits_per_weight:.2f} bits/weight"

    def is_at(self, path: Path) -> bool:
        """Whether it lies there, as its sidecar says."""
        return (
            path.is_file()
            and path.stat().st_size == self.n_bytes
            and file_sha256(path) == self.sha256
        )


def read_architecture(pulled: Pulled) -> str:
    """Return the architecture that a checkpoint says it has.

    Raises:
        IntegrityError: Its `config.json` is damaged.
    """
    path = Path(pulled.folder) / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise IntegrityError(f"{path} names no architecture: {error}") from None


def convert_checkpoint(
    pulled: Pulled, name: str, folder: Path, n_threads: int | None, means: Means
) -> Converted:
    """Convert a checkpoint to its own 16 bits, or to 8 where memory is short.

    Raises:
        LlmedgeError: Whatever converting raises.
    """
    from llmedge.quantize.job import QuantizeOptions
    from llmedge.recipe.intermediate import converted

    options = QuantizeOptions(name=name, output=folder, n_threads=n_threads, overwrite=True)
    source = Path(pulled.folder)
    with converted(source, options, *means, is_kept=True) as (path, can_requantize):
        return Converted(path.name, path.stat().st_size, file_sha256(path), can_requantize)


def make_variant(
    source: Path,
    table: VariantTable,
    loaded: LoadedRecipe,
    place: tuple[Pulled, Converted, Path, int | None],
    means: Means,
) -> Made:
    """Make a variant of the 16-bit file.

    Args:
        source: That file.
        table: What to make.
        loaded: The recipe.
        place: What it comes from, what the file is, where the variant goes, threads.
        means: Settings, progress and who is told.

    Raises:
        LlmedgeError: Whatever calibrating or quantizing raises.
    """
    from llmedge.quantize.job import QuantizeOptions

    pulled, converted, path, n_threads = place
    options = VariantsOptions(
        calibration=_calibration(loaded),
        mixes=() if table.mix is None else (table.mix,),
        target=table.target(),
        kernels=table.kernels or "generic",
        wants_imatrix=table.imatrix,
        tensor_types=tuple(f"{name}={kind}" for name, kind in table.tensor_types.items()),
        quantize=QuantizeOptions(
            name=loaded.recipe.name,
            output=path,
            n_threads=n_threads,
            allow_requantize=converted.can_requantize,
            overwrite=True,
            origin=(pulled.repo, pulled.commit),
            facts={"recipe": loaded.recipe.name},
        ),
    )
    report = make_variants(source, options, *means)
    variant = (*report.variants, *(search.variant for search in report.searches))[0]
    return Made(
        table.label, variant.file_bytes, variant.sha256 or "", round(variant.bits_per_weight, 4)
    )


def _calibration(loaded: LoadedRecipe) -> CalibrationOptions:
    table = loaded.recipe.calibration
    files = tuple(loaded.path.parent / text for text in table.texts)
    if table.preset is not None:
        weights = PRESETS[table.preset]
    elif table.weights or files:
        weights = table.weights
    else:
        spoken = [code for code in loaded.recipe.languages if code in LANGUAGES]
        weights = language_weights(spoken or ["en"])
    return CalibrationOptions(weights, files, table.tokens, seed=table.seed)


def evaluate_text(
    variant: Path,
    reference: Path,
    what: tuple[str, int | None, int | None],
    settings: Settings,
    progress: Progress,
) -> Quality:
    """Compare a variant with the 16-bit file on one text.

    Args:
        variant: Its file.
        reference: The 16-bit file.
        what: The text, how many chunks of it, threads.
        settings: Where the records are.
        progress: Shows how far it is.

    Raises:
        LlmedgeError: Whatever evaluating raises.
    """
    from llmedge.evaluate.report import EvaluateOptions, evaluate

    text, chunks, n_threads = what
    context = ContextOptions(n_ctx=512, n_threads=n_threads)
    options = EvaluateOptions((shipped_corpus(text),), chunks, context=context)
    found = evaluate([variant], reference, options, settings, progress)[0].divergence
    return Quality(
        text=text,
        mean_kld=found.mean_kld,
        mean_kld_error=found.mean_kld_error,
        top1_agreement=found.top1_agreement,
        perplexity=found.perplexity,
        perplexity_ratio=found.perplexity_ratio,
        n_tokens=found.n_tokens,
    )


def measure_speed(
    variant: Path, recipe: Recipe, n_threads: int | None, settings: Settings, progress: Progress
) -> Speed:
    """Measure a variant on this machine.

    Raises:
        UntrustworthyError: The machine is busy, and the recipe says to refuse then.
        LlmedgeError: Whatever measuring raises.
    """
    from llmedge.bench.run import bench
    from llmedge.bench.suite import BenchOptions
    from llmedge.core.errors import UntrustworthyError
    from llmedge.host.cpu import read_cpu
    from llmedge.measure.corpus import UDHR_LANGUAGES

    table = recipe.bench
    serve = recipe.serve
    options = BenchOptions(
        table.n_prompt,
        table.n_gen,
        table.repetitions,
        context=ContextOptions(
            n_ctx=0, n_threads=n_threads, type_k=serve.type_k, type_v=serve.type_v
        ),
        contended=table.contended,
        languages=tuple(code for code in recipe.languages if code in UDHR_LANGUAGES),
    )
    outcome = bench([variant], options, settings, progress)
    if not outcome.results:
        reasons = "; ".join(str(refusal) for refusal in outcome.refusals)
        raise UntrustworthyError(
            f"the speed of {variant.name} is not trustworthy: {reasons}",
            'close other programs, or say [bench] contended = "flag"',
        )
    found = outcome.results[0]
    return Speed(
        tg_per_s=found.generation.mean,
        tg_sd=found.generation.standard_deviation,
        pp_per_s=found.prompt.mean,
        resident_bytes=found.resident_bytes,
        words_per_s={words.language: words.words_per_s for words in found.words},
        processor=read_cpu().model,
        n_threads=n_threads or read_cpu().default_threads,
        flags=found.flags,
        created=found.created,
    )


def judge_devices(variant: Path, recipe: Recipe, settings: Settings) -> tuple[DeviceRecord, ...]:
    """Judge a variant for the recipe's devices, none of which is here.

    Raises:
        NotFoundError: Nobody knows a device.
        UnsupportedError: The architecture's memory is not modelled.
    """
    from llmedge.runtime.dry_run import compute_buffer_bytes

    header, found = read_header(variant), list[DeviceRecord]()
    for name, table in recipe.devices.items():
        profile = find_profile(name, settings.home / "devices")
        n_ctx = table.ctx or recipe.serve.ctx
        cache = KvCacheOptions(n_ctx, recipe.serve.type_k, recipe.serve.type_v)
        demands = Demands(
            cache,
            min_tg=table.min_tg or 0.0,
            compute_reserved_bytes=compute_buffer_bytes(header, cache),
        )
        verdict = check(header, variant.stem, profile, demands)
        room = parse_bytes(table.room) if table.room else verdict.budget_bytes
        fits_room = table.room is None or verdict.resident_bytes <= room
        reason = verdict.reason
        if not fits_room:
            needs = format_mib(verdict.resident_bytes)
            reason = f"it needs {needs}, the recipe leaves it {table.room}"
        speed = verdict.tg_per_s
        found.append(
            DeviceRecord(
                device=name,
                verdict=verdict.verdict if fits_room else "too large",
                reason=reason,
                evidence=verdict.evidence,
                resident_bytes=verdict.resident_bytes,
                room_bytes=room,
                tg_per_s=(speed.value, speed.low, speed.high) if speed else None,
                passes=verdict.passes and fits_room,
            )
        )
    return tuple(found)
