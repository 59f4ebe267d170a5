"""One GGUF file into one with a smaller vocabulary: planned, written aside, proven, renamed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import JudgementError, UnsupportedError
from llmedge.gguf.entries import Entries
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import Header, read_header
from llmedge.host.cpu import choose_threads
from llmedge.host.memory import require_free_disk
from llmedge.measure.corpus import shipped_corpus
from llmedge.measure.scripts import scripts_of
from llmedge.quantize.trim_file import Layout, plan_file, require_known_tensors, write_file
from llmedge.quantize.trim_keep import (
    ScriptCount,
    Selection,
    Wishes,
    find_tokens,
    select_tokens,
)
from llmedge.quantize.trim_metadata import named_ids, require_known_metadata, trimmed_metadata
from llmedge.quantize.trim_proof import Proof, ProofOptions, prove
from llmedge.quantize.trim_speed import N_GEN, N_ROUNDS, Speed, measure_speeds
from llmedge.quantize.trim_survey import survey_vocabulary
from llmedge.quantize.trim_vocabulary import read_vocabulary
from llmedge.runtime.first_load import ensure_loads, remember, require_text
from llmedge.runtime.library import library_info
from llmedge.runtime.model import require_whole_model
from llmedge.store.atomic import make_folder, replacing, require_new
from llmedge.store.catalog import variant_path
from llmedge.store.hashes import remembered_hash
from llmedge.store.manifest import (
    SIDECAR_BYTES,
    Manifest,
    Source,
    hash_file,
    require_own_sidecar,
    sidecar_path,
    write_manifest,
)
from llmedge.store.reference import model_name, variant_name

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.writer import Value
    from llmedge.measure.corpus import Corpus
    from llmedge.quantize.trim_survey import Survey
    from llmedge.quantize.trim_vocabulary import Vocabulary

MAX_DROPPED = 0.001
# On x86 the logits are equal to the bit. A CPU that multiplies two rows at once may round the last
# bits otherwise; a row that is not the token's own differs by whole numbers.
MAX_DIFFERENCE = 0.01
_N_CTX = 4096
_N_NAMED = 5
_DESCRIPTION = "general.description"


@dataclass(frozen=True, slots=True)
class TrimOptions:
    """What to keep, and how.

    Attributes:
        languages: Languages to keep, as `measure.scripts` knows them.
        keep_tokens: A list of tokens to keep besides, one id or text a line.
        texts: UTF-8 texts; what none of them uses is dropped, too. None keeps whole scripts.
        max_dropped: Share of the original's probability, mean over a text, that dropped tokens may
            have had.
        max_chunks: Chunks of 512 tokens of each held-out text that both models read.
        folder: Where the variant goes; `None` is the store.
        n_threads: Threads; `None` takes the performance cores within the limits.
        overwrite: Replace a variant that is there already.
        dry_run: Plan only, write nothing.
        has_bench: Whether speed and memory are measured.
    """

    languages: tuple[str, ...]
    keep_tokens: Path | None = None
    texts: tuple[Path, ...] = ()
    max_dropped: float = MAX_DROPPED
    max_chunks: int = 4
    folder: Path | None = None
    n_threads: int | None = None
    overwrite: bool = False
    dry_run: bool = False
    has_bench: bool = True


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes.

    Attributes:
        n_vocab: Tokens of its vocabulary.
        file_bytes: Its size.
        weights_bytes: Its tensors in memory.
        kv_cache_bytes: Keys and values for 4096 tokens; `None` where the architecture's cache is
            not modelled.
        speed: Measured on this machine, in turns with the other; `None` when it was not.
    """

    n_vocab: int
    file_bytes: int
    weights_bytes: int
    kv_cache_bytes: int | None
    speed: Speed | None = None


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What became of a model.

    Attributes:
        name: The model's name.
        variant: The variant's name.
        path: Its file; where it would be, after a dry run.
        scripts: Scripts that were kept.
        counts: What stays and goes, by script.
        row_bytes: Bytes of all rows of one token.
        before: The original.
        after: The trimmed model.
        proof: What the comparison found; `None` after a dry run.
        sha256: Its hash; `None` after a dry run.
    """

    name: str
    variant: str
    path: Path
    scripts: tuple[str, ...]
    counts: tuple[ScriptCount, ...]
    row_bytes: int
    before: Footprint
    after: Footprint
    proof: Proof | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A trimmed model before it is written."""

    header: Header
    vocabulary: Vocabulary
    selection: Selection
    scripts: frozenset[str]
    layout: Layout
    source_sha256: str


def trim(source: Path, options: TrimOptions, settings: Settings, progress: Progress) -> TrimReport:
    """Make a variant without the vocabulary that the chosen languages never use.

    It appears under its name only when both models were compared on held-out texts; what fails
    the comparison leaves nothing behind.

    Raises:
        NotFoundError: The source, a text or a list is not there.
        IntegrityError: The source is damaged, or changes meanwhile.
        UnsupportedError: The model has something that depends on its vocabulary and is not known.
        UsageError: A language or token is not known, the target exists, or nothing would go.
        JudgementError: The dropped tokens had more of the probability than they may, or the
            comparison found another difference.
        ResourceError: The disk or the memory has too little room.
    """
    header = read_header(source)
    require_whole_model(header)
    require_text(header)
    corpora = tuple(shipped_corpus(language) for language in options.languages)
    name, variant, target = _target(source, options, settings)
    require_new(target, overwrite=options.overwrite or options.dry_run, others=[source])
    require_own_sidecar(target)
    plan = _plan(header, options, settings.state_dir, progress)
    report = _report(plan, name, variant, target)
    if options.dry_run:
        return report
    ensure_loads(source, settings.state_dir)
    make_folder(target.parent)
    require_free_disk(target.parent, plan.layout.file_bytes + SIDECAR_BYTES)
    n_threads = choose_threads(options.n_threads, settings.threads)
    with replacing(target) as partial:
        _write(plan, partial, variant, progress)
        proof = _prove(plan, partial, corpora, options, n_threads, progress)
        _judge(plan, proof, options)
        header.require_unchanged()
        sha256 = hash_file(partial)
        # An older variant's sidecar must not stand beside the new one, not for a moment.
        sidecar_path(target).unlink(missing_ok=True)
    report = replace(report, proof=proof, sha256=sha256)
    write_manifest(target, _manifest(report, plan, options))
    remember(target, settings.state_dir)
    return _with_speeds(report, plan, n_threads, progress) if options.has_bench else report


def _target(source: Path, options: TrimOptions, settings: Settings) -> tuple[str, str, Path]:
    """Return the model's name, the variant's, and where it goes."""
    parts = (variant_name(source), "trim", *options.languages, "text" if options.texts else "")
    name, variant = model_name(source), "-".join(part for part in parts if part)
    if options.folder is None:
        return name, variant, variant_path(settings, name, variant)
    return name, variant, options.folder / f"{name}-{variant}.gguf"


def _plan(header: Header, options: TrimOptions, state_dir: Path, progress: Progress) -> _Plan:
    scripts = scripts_of(options.languages)
    entries = Entries(header)
    vocabulary = read_vocabulary(header, entries)
    require_known_tensors(header, len(vocabulary))
    require_known_metadata(header, len(vocabulary))
    listed: frozenset[int] = frozenset()
    if options.keep_tokens is not None:
        listed = find_tokens(vocabulary, options.keep_tokens)
    survey = survey_vocabulary(header.path, options.texts)
    named = named_ids(header, entries) | set(survey.roles.values())
    pinned = listed.union(survey.special, survey.template, named)
    used = None if survey.used is None else frozenset(survey.used)
    selection = select_tokens(vocabulary, Wishes(scripts, pinned, used))
    source_sha256 = (
        "0" * 64 if options.dry_run else remembered_hash(header.path, state_dir, progress)
    )
    added = _added(header, survey, selection, options, source_sha256)
    metadata = trimmed_metadata(header, entries, vocabulary, selection, added)
    layout = plan_file(header, metadata, selection.kept)
    return _Plan(header, vocabulary, selection, scripts, layout, source_sha256)


def _added(
    header: Header,
    survey: Survey,
    selection: Selection,
    options: TrimOptions,
    source_sha256: str,
) -> dict[str, Value]:
    """Return the metadata that is new: where the model comes from, and the roles in force.

    Roles are written out because llama.cpp's defaults are ids, and because it finds others by their
    texts in an order that depends on the whole vocabulary.
    """
    new_ids = selection.new_ids()
    n_vocab, n_kept = len(new_ids), len(selection.kept)
    languages = ", ".join(options.languages)
    sentence = f"Vocabulary trimmed by llmedge from {n_vocab} to {n_kept} tokens for {languages}."
    values: dict[str, Value] = {key: new_ids[token] for key, token in survey.roles.items()}
    values[_DESCRIPTION] = " ".join(filter(None, (header.text(_DESCRIPTION), sentence)))
    values["llmedge.trim.languages"] = list(options.languages)
    values["llmedge.trim.source.file"] = header.path.name
    values["llmedge.trim.source.sha256"] = source_sha256
    values["llmedge.trim.source.n_tokens"] = n_vocab
    return values


def _write(plan: _Plan, partial: Path, variant: str, progress: Progress) -> None:
    with progress.task(variant, total=plan.layout.file_bytes, unit="bytes") as task:
        write_file(plan.header, plan.layout, partial, task.update)


def _prove(
    plan: _Plan,
    partial: Path,
    corpora: tuple[Corpus, ...],
    options: TrimOptions,
    n_threads: int,
    progress: Progress,
) -> Proof:
    wanted = ProofOptions(
        kept=plan.selection.kept,
        corpora=corpora,
        scripts=plan.scripts,
        is_exact=not options.texts,
        max_chunks=options.max_chunks,
        n_threads=n_threads,
    )
    label = f"comparing on {', '.join(corpus.name for corpus in corpora)}"
    with progress.task(label, total=len(corpora), unit="texts") as task:
        return prove(plan.header.path, partial, wanted, task)


def _judge(plan: _Plan, proof: Proof, options: TrimOptions) -> None:
    """Refuse what loses more than it may."""
    worst = max(proof.texts, key=lambda text: text.loss.mean_dropped)
    difference = max(text.loss.max_difference for text in proof.texts)
    if difference > MAX_DIFFERENCE:
        raise JudgementError(
            f"a kept token's logit differs by {difference:.3g}: the rows do not fit the tokens",
            "report this with the model's name; leave its vocabulary whole",
        )
    if worst.loss.mean_dropped <= options.max_dropped:
        return
    by_script: dict[str, float] = {}
    for token, share in proof.mass.items():
        label = plan.selection.labels[token]
        by_script[label] = by_script.get(label, 0.0) + share
    scripts = sorted(by_script, key=lambda label: -by_script[label])[:3]
    tokens = sorted(proof.mass, key=lambda token: -proof.mass[token])[:_N_NAMED]
    pieces = (plan.vocabulary.piece(token).decode("utf-8", "replace") for token in tokens)
    wider = "give more text" if options.texts else "keep more with --lang or --keep-tokens"
    accepted = math.ceil(1000 * worst.loss.mean_dropped) / 1000
    raise JudgementError(
        f"on the text {worst.text}, {worst.loss.mean_dropped:.2%} of the model's probability is "
        f"on tokens that would go (up to {options.max_dropped:.1%} is accepted): mostly "
        f"{', '.join(scripts)}, such as {', '.join(map(repr, pieces))}",
        f"{wider}, or accept the loss with --max-dropped {accepted}",
    )


def _report(plan: _Plan, name: str, variant: str, target: Path) -> TrimReport:
    header, layout = plan.header, plan.layout
    new_bytes = sum(new.n_bytes for _, new in layout.tensors)
    n_vocab, n_kept = len(plan.vocabulary), len(layout.kept)
    kv_cache_bytes = _kv_cache_bytes(header)
    return TrimReport(
        name=name,
        variant=variant,
        path=target,
        scripts=tuple(sorted(plan.scripts)),
        counts=plan.selection.counts(),
        row_bytes=(header.tensor_bytes - new_bytes) // (n_vocab - n_kept),
        before=Footprint(n_vocab, header.file_bytes, header.tensor_bytes, kv_cache_bytes),
        after=Footprint(n_kept, layout.file_bytes, new_bytes, kv_cache_bytes),
    )


def _kv_cache_bytes(header: Header) -> int | None:
    n_ctx = min(_N_CTX, header.hyperparameter("context_length") or _N_CTX)
    try:
        return estimate_memory(header, KvCacheOptions(n_ctx)).kv_cache_bytes
    except UnsupportedError:
        return None


def _with_speeds(report: TrimReport, plan: _Plan, n_threads: int, progress: Progress) -> TrimReport:
    """Measure both models on the same tokens, spread over those that stayed."""
    n_kept = len(plan.selection.kept)
    new = list(range(0, n_kept, max(1, n_kept // N_GEN)))[:N_GEN]
    old = [plan.selection.kept[token] for token in new]
    with progress.task("measuring in turns", total=N_ROUNDS, unit="rounds") as task:
        before, after = measure_speeds(
            ((plan.header.path, old), (report.path, new)), n_threads, task
        )
    return replace(
        report,
        before=replace(report.before, speed=before),
        after=replace(report.after, speed=after),
    )


def _manifest(report: TrimReport, plan: _Plan, options: TrimOptions) -> Manifest:
    removed = (f"{row.script} {row.n_dropped}" for row in report.counts if row.n_dropped)
    arguments: dict[str, str | int | float | bool] = {
        "languages": ",".join(options.languages),
        "keep_tokens": options.keep_tokens.name if options.keep_tokens else "",
        "texts": ",".join(text.name for text in options.texts),
        "n_vocab_before": report.before.n_vocab,
        "n_vocab": report.after.n_vocab,
        "removed": ", ".join(removed),
    }
    header = read_header(report.path)
    return Manifest(
        name=report.name,
        variant=report.variant,
        file_bytes=report.after.file_bytes,
        sha256=report.sha256 or "",
        bits_per_weight=round(header.bits_per_weight, 4),
        n_fallbacks=0,
        architecture=header.architecture,
        license=header.text("general.license"),
        source=Source(plan.header.path.name, plan.source_sha256),
        arguments=arguments,
        tools={"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
    )
