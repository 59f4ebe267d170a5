"""Variants against each other in loss, size and speed: from records, or measured without one.

Several texts count as the worst of them: a variant must be good in every language asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmedge.bench.record import BenchResult
from llmedge.bench.run import bench
from llmedge.core.errors import UntrustworthyError, UsageError
from llmedge.evaluate.fingerprint import take_evaluation_fingerprint
from llmedge.evaluate.report import EvaluateOptions, evaluate
from llmedge.gguf.reader import read_header
from llmedge.measure.corpus import KINDS
from llmedge.recipe.pareto import Judged, Point, Rule, judge
from llmedge.recipe.past import PastEvaluation, find_bench, find_evaluation
from llmedge.store.catalog import model_id
from llmedge.store.records import read_records_as

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmedge.bench.suite import BenchOptions
    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.measure.corpus import Corpus
    from llmedge.measure.kl_divergence import Divergence


@dataclass(frozen=True, slots=True)
class ChooseOptions:
    """What to measure, and how to choose.

    Attributes:
        evaluate: What to measure the loss on, and how.
        bench: How to measure the speed.
        rule: How to choose.
        fresh: Measure everything again, whatever is recorded.
    """

    evaluate: EvaluateOptions
    bench: BenchOptions
    rule: Rule
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """What a variant lost on one text.

    Attributes:
        text: The text's name.
        mean_kld: Mean KL divergence from the reference, in nats.
        top1_agreement: Share of positions where both find the same token most likely.
    """

    text: str
    mean_kld: float
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant with all that the choice depends on.

    Attributes:
        model: Its id.
        file_bytes: Its size.
        bits_per_weight: Over all tensors.
        losses: What it lost, by text.
        bench: Its speed and memory on this machine.
        is_on_front: Whether no other variant is better in loss, size or speed and worse in none.
        is_recommended: Whether the rule takes it.
        reason: What decided, as a sentence, where it takes it.
        is_reference: Whether it is the reference itself, which is never recommended.
    """

    model: str
    file_bytes: int
    bits_per_weight: float
    losses: tuple[Loss, ...]
    bench: BenchResult
    is_on_front: bool
    is_recommended: bool
    reason: str = ""
    is_reference: bool = False

    @property
    def kld(self) -> float:
        """The mean KL divergence on the text where it is worst."""
        return max(loss.mean_kld for loss in self.losses)

    @property
    def top1(self) -> float:
        """The share of equal first choices on the text where it is least."""
        return min(loss.top1_agreement for loss in self.losses)


@dataclass(frozen=True, slots=True)
class Choice:
    """All candidates, and how one of them was chosen.

    Attributes:
        reference: The reference's id.
        texts: What the loss was measured on, for a person: languages, or files.
        rule: The rule, as a sentence.
        candidates: From small to large.
        is_within_limits: Whether the recommended one is as good as the rule wants.
        n_measured: Comparisons and speeds that were measured now.
        n_recorded: Comparisons and speeds that were measured before.
    """

    reference: str
    texts: tuple[str, ...]
    rule: str
    candidates: tuple[Candidate, ...]
    is_within_limits: bool
    n_measured: int
    n_recorded: int

    @property
    def recommended(self) -> Candidate:
        """The one that the rule takes."""
        return next(candidate for candidate in self.candidates if candidate.is_recommended)


def choose(
    variants: Sequence[Path],
    reference: Path,
    options: ChooseOptions,
    settings: Settings,
    progress: Progress,
) -> Choice:
    """Bring together what is known of variants, measure what is not, and choose one by the rule.

    Raises:
        UsageError: No variant, or one that cannot be compared with the reference.
        UntrustworthyError: A variant computes no numbers.
        IntegrityError: A file is damaged.
        ResourceError: Memory ran out, or the disk is full.
    """
    unique = list(dict.fromkeys(variants))
    if not unique:
        raise UsageError("there is nothing to choose from", "name variants: model:Q4_0 model:Q8_0")
    if all(path.samefile(reference) for path in unique):
        raise UsageError(
            f"{unique[0]} is the reference itself: there is nothing to choose from",
            "name variants that were made from it: model:Q4_0 model:Q8_0",
        )
    losses = _Losses(reference, options.evaluate, settings)
    speeds = _Speeds(options.bench, settings)
    if not options.fresh:
        losses.look_up(unique)
        speeds.look_up(unique)
    n_recorded = len(losses.found) + len(speeds.found)
    losses.measure(unique, progress)
    speeds.measure(unique, progress)
    found = [
        replace(_candidate(path, losses, speeds, settings), is_reference=path.samefile(reference))
        for path in unique
    ]
    found.sort(key=lambda candidate: (candidate.file_bytes, candidate.model))
    texts = tuple(KINDS.get(corpus.name, corpus.name) for corpus in losses.corpora)
    where = texts[0] if len(texts) == 1 else f"each of {', '.join(texts)}"
    candidates = _judged(found, options.rule, where)
    recommended = next(candidate for candidate in candidates if candidate.is_recommended)
    return Choice(
        reference=model_id(settings, reference),
        texts=texts,
        rule=options.rule.describe(where),
        candidates=candidates,
        is_within_limits=options.rule.admits(_point(recommended)),
        n_measured=len(losses.found) + len(speeds.found) - n_recorded,
        n_recorded=n_recorded,
    )


def judged_points(choice: Choice) -> tuple[Judged, ...]:
    """Return the candidates as a drawing needs them."""
    return tuple(
        Judged(_point(candidate), candidate.is_on_front, candidate.is_recommended)
        for candidate in choice.candidates
    )


class _Losses:
    """What variants lost, by variant and text."""

    def __init__(self, reference: Path, options: EvaluateOptions, settings: Settings) -> None:
        self.corpora = tuple(dict.fromkeys(options.corpora))
        self.found: dict[tuple[Path, Corpus], Divergence] = {}
        self._reference = reference
        self._options = options
        self._settings = settings

    def look_up(self, paths: Sequence[Path]) -> None:
        records = read_records_as(self._settings, "evaluate", PastEvaluation)
        options = self._options
        for path in paths if records else ():
            for corpus in self.corpora:
                wanted = take_evaluation_fingerprint(
                    path, self._reference, corpus, options.context, options.max_chunks
                )
                if (divergence := find_evaluation(records, wanted)) is not None:
                    self.found[path, corpus] = divergence

    def measure(self, paths: Sequence[Path], progress: Progress) -> None:
        # Variants that lack the same texts are measured together: the reference runs once for all.
        groups: dict[tuple[Corpus, ...], list[Path]] = {}
        for path in paths:
            missing = tuple(text for text in self.corpora if (path, text) not in self.found)
            if missing:
                groups.setdefault(missing, []).append(path)
        for corpora, group in groups.items():
            options = replace(self._options, corpora=corpora)
            evaluations = evaluate(group, self._reference, options, self._settings, progress)
            pairs = [(path, corpus) for path in group for corpus in corpora]
            for pair, evaluation in zip(pairs, evaluations, strict=True):
                self.found[pair] = evaluation.divergence

    def of(self, path: Path) -> tuple[Loss, ...]:
        divergences = [(text.name, self.found[path, text]) for text in self.corpora]
        return tuple(Loss(name, d.mean_kld, d.top1_agreement) for name, d in divergences)


class _Speeds:
    """How fast variants are."""

    def __init__(self, options: BenchOptions, settings: Settings) -> None:
        self.found: dict[Path, BenchResult] = {}
        self._options = options
        self._settings = settings

    def look_up(self, paths: Sequence[Path]) -> None:
        records = read_records_as(self._settings, "bench", BenchResult)
        for path in paths:
            name = model_id(self._settings, path)
            found = find_bench(records, read_header(path), name, self._options)
            if found is not None:
                self.found[path] = found

    def measure(self, paths: Sequence[Path], progress: Progress) -> None:
        missing = [path for path in paths if path not in self.found]
        outcome = bench(missing, self._options, self._settings, progress)
        self.found.update(zip(missing, outcome.results, strict=True))


def _candidate(path: Path, losses: _Losses, speeds: _Speeds, settings: Settings) -> Candidate:
    header = read_header(path)
    candidate = Candidate(
        model=model_id(settings, path),
        file_bytes=header.file_bytes,
        bits_per_weight=round(header.bits_per_weight, 4),
        losses=losses.of(path),
        bench=speeds.found[path],
        is_on_front=False,
        is_recommended=False,
    )
    if not all(math.isfinite(loss.mean_kld) for loss in candidate.losses):
        raise UntrustworthyError(
            f"{candidate.model} computes no numbers on one of the texts",
            f"leave it out, or quantize it again; `llmedge show {path}` shows its types",
        )
    return candidate


def _judged(candidates: Sequence[Candidate], rule: Rule, texts: str) -> tuple[Candidate, ...]:
    verdicts = judge([_point(candidate) for candidate in candidates], rule)
    return tuple(
        replace(
            candidate,
            is_on_front=verdict.is_on_front,
            is_recommended=verdict.is_recommended,
            reason=rule.reason(texts, is_within=rule.admits(verdict.point))
            if verdict.is_recommended
            else "",
        )
        for candidate, verdict in zip(candidates, verdicts, strict=True)
    )


def _point(candidate: Candidate) -> Point:
    return Point(
        candidate.model,
        candidate.file_bytes,
        candidate.kld,
        candidate.top1,
        candidate.bench.generation.mean,
        candidate.is_reference,
    )
