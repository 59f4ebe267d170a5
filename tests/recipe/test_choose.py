import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.bench.record import BenchResult
from llmedge.bench.suite import BenchOptions
from llmedge.core.errors import UsageError
from llmedge.core.settings import Settings
from llmedge.evaluate.report import EvaluateOptions
from llmedge.gguf.mixes import find_mix
from llmedge.measure.corpus import shipped_corpus
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from llmedge.recipe.choose import Choice, ChooseOptions, choose, judged_points
from llmedge.recipe.pareto import Rule
from llmedge.runtime.context import ContextOptions
from llmedge.store.records import append_record, read_records, read_records_as
from tests.fakes import RecordingProgress

OPTIONS = ChooseOptions(
    EvaluateOptions((shipped_corpus("en"),), max_chunks=1, context=ContextOptions(n_ctx=128)),
    BenchOptions(
        contended="flag",
        n_prompt=16,
        n_gen=8,
        repetitions=2,
        context=ContextOptions(n_ctx=256, n_threads=1),
    ),
    Rule(),
)


@pytest.fixture
def variants(tiny_model: Path, settings: Settings) -> list[Path]:
    return [
        quantize(tiny_model, find_mix(mix), QuantizeOptions(), settings, RecordingProgress()).path
        for mix in ("Q8_0", "Q4_0", "Q4_K_M")
    ]


@pytest.fixture
def run(tiny_model: Path, settings: Settings):
    def run(paths: list[Path], options: ChooseOptions = OPTIONS) -> Choice:
        return choose(paths, tiny_model, options, settings, RecordingProgress())

    return run


def calm_records(settings: Settings) -> None:
    """Record the speeds once more, as on a machine that does nothing else."""
    for result in read_records_as(settings, "bench", BenchResult):
        append_record(settings, "bench", replace(result, flags=()))


def test_what_is_missing_is_measured_and_one_is_recommended(run, variants: list[Path]):
    choice = run(variants)
    assert [row.model for row in choice.candidates] == ["tiny:Q4_0", "tiny:Q4_K_M", "tiny:Q8_0"]
    assert (choice.n_measured, choice.n_recorded) == (6, 0)
    assert choice.texts == ("English",)
    klds = [row.kld for row in choice.candidates]
    assert klds[0] > klds[2] > 0
    assert all(row.bench.generation.mean > 0 for row in choice.candidates)
    assert [row.is_recommended for row in choice.candidates].count(True) == 1
    assert choice.rule.startswith(f"{choice.recommended.reason}; if none is that good")
    assert choice.recommended.is_on_front
    assert len(judged_points(choice)) == 3


def test_what_is_on_record_is_not_measured_again(run, variants: list[Path], settings: Settings):
    first = run(variants)
    calm_records(settings)
    n_lines = len(read_records(settings, "bench")), len(read_records(settings, "evaluate"))
    again = run(variants)
    assert (again.n_measured, again.n_recorded) == (0, 6)
    assert [row.losses for row in again.candidates] == [row.losses for row in first.candidates]
    assert n_lines == (
        len(read_records(settings, "bench")),
        len(read_records(settings, "evaluate")),
    )
    fresh = run(variants, replace(OPTIONS, fresh=True))
    assert (fresh.n_measured, fresh.n_recorded) == (6, 0)


def test_only_what_is_missing_is_measured(run, variants: list[Path], settings: Settings):
    run(variants[:1])
    calm_records(settings)
    both = run(variants[:2])
    assert (both.n_measured, both.n_recorded) == (2, 2)
    calm_records(settings)
    corpora = (shipped_corpus("en"), shipped_corpus("hi"))
    two_texts = replace(OPTIONS, evaluate=replace(OPTIONS.evaluate, corpora=corpora))
    third = run(variants[:2], two_texts)
    assert (third.n_measured, third.n_recorded) == (2, 4)


def test_the_worst_text_counts(run, variants: list[Path]):
    corpora = (shipped_corpus("en"), shipped_corpus("hi"))
    options = replace(OPTIONS, evaluate=replace(OPTIONS.evaluate, corpora=corpora))
    choice = run(variants[1:2], options)
    (row,) = choice.candidates
    assert [loss.text for loss in row.losses] == ["en", "hi"]
    assert row.kld == max(loss.mean_kld for loss in row.losses)
    assert row.top1 == min(loss.top1_agreement for loss in row.losses)
    assert "each of English, Hindi" in choice.rule


def test_a_variant_that_was_made_again_is_compared_again(
    run, variants: list[Path], settings: Settings, tiny_model: Path
):
    run(variants[:1])
    calm_records(settings)
    options = QuantizeOptions(overwrite=True, allow_requantize=True)
    # The same name and size, other weights.
    other = quantize(variants[1], find_mix("Q8_0"), options, settings, RecordingProgress()).path
    assert other.stat().st_size == variants[0].stat().st_size
    variants[0].write_bytes(other.read_bytes())
    assert run(variants[:1]).n_measured >= 1


def test_limits_that_nobody_keeps_are_told(run, variants: list[Path]):
    choice = run(variants, replace(OPTIONS, rule=Rule(max_kld=0.0, min_top1=1.0)))
    assert not choice.is_within_limits
    assert choice.recommended.kld == min(row.kld for row in choice.candidates)
    assert choice.recommended.reason == "the one with the least KL divergence"


def test_the_reference_is_shown_and_never_recommended(
    run, variants: list[Path], tiny_model: Path, tmp_path: Path
):
    other_name = tmp_path / "link.gguf"
    other_name.symlink_to(tiny_model)
    choice = run([variants[0], other_name], replace(OPTIONS, rule=Rule(max_kld=0.0)))
    assert [row.is_reference for row in choice.candidates] == [False, True]
    assert [row.is_recommended for row in choice.candidates] == [True, False]
    assert not choice.is_within_limits
    with pytest.raises(UsageError, match="is the reference itself"):
        run([tiny_model])


def test_a_variant_named_twice_is_there_once(run, variants: list[Path]):
    assert len(run([variants[0], variants[0]]).candidates) == 1


def test_nothing_to_choose_from_is_refused(run):
    with pytest.raises(UsageError, match="nothing to choose"):
        run([])


def test_records_of_another_shape_are_passed_over(run, variants: list[Path], settings: Settings):
    append_record(settings, "bench", {"schema": "llmedge.bench/1", "model": "tiny:Q8_0"})
    append_record(settings, "evaluate", {"fingerprint": "old"})
    assert run(variants[:1]).n_measured == 2
    assert json.dumps(read_records(settings, "bench"))
