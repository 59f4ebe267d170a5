from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import UsageError
from llmedge.core.settings import Settings
from llmedge.evaluate.report import EvaluateOptions, evaluate, evaluate_with_base
from llmedge.gguf.mixes import find_mix
from llmedge.measure.comparison import CompareOptions
from llmedge.measure.corpus import file_corpus, shipped_corpus
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from llmedge.runtime.context import ContextOptions
from llmedge.store.records import append_record, read_records
from tests.fakes import RecordingProgress

ENGLISH = EvaluateOptions((shipped_corpus("en"),), context=ContextOptions(n_ctx=128), max_chunks=2)


@pytest.fixture
def variants(tiny_model: Path, tmp_path: Path, settings: Settings) -> list[Path]:
    options = QuantizeOptions(output=tmp_path / "out")
    return [
        quantize(tiny_model, find_mix(mix), options, settings, RecordingProgress()).path
        for mix in ("Q4_0", "Q8_0")
    ]


def test_a_model_loses_nothing_against_itself(smollm2: Path, settings: Settings):
    (result,) = evaluate([smollm2], smollm2, ENGLISH, settings, RecordingProgress())
    assert result.divergence.mean_kld == 0.0
    assert result.divergence.top1_agreement == 1.0
    assert result.divergence.n_tokens == 2 * 63
    assert 5 < result.divergence.perplexity < 200
    assert result.model == result.reference == "SmolLM2-135M-Instruct.Q4_1"


def test_fewer_bits_lose_more(tiny_model: Path, variants: list[Path], settings: Settings):
    results = evaluate(variants, tiny_model, ENGLISH, settings, RecordingProgress())
    four, eight = (result.divergence for result in results)
    assert four.mean_kld > 10 * eight.mean_kld > 0
    assert four.top1_agreement < eight.top1_agreement
    assert four.reference_perplexity == eight.reference_perplexity


def test_a_real_variant_is_compared_language_by_language(
    smollm2: Path, smollm2_q4_0: Path, settings: Settings
):
    corpora = (shipped_corpus("en"), shipped_corpus("hi"))
    options = EvaluateOptions(corpora, context=ContextOptions(n_ctx=128), max_chunks=3)
    progress = RecordingProgress()
    results = evaluate([smollm2_q4_0], smollm2, options, settings, progress)
    assert [result.text for result in results] == ["en", "hi"]
    assert all(0.1 < result.divergence.mean_kld < 0.6 for result in results)
    assert results[0].bits_per_weight < results[0].reference_bits_per_weight
    assert len(progress.totals) == 2


def test_results_are_recorded(smollm2: Path, settings: Settings):
    evaluate([smollm2], smollm2, ENGLISH, settings, RecordingProgress())
    (record,) = read_records(settings, "evaluate")
    assert record["schema"] == "llmedge.evaluate/1"
    assert record["text"] == "en"
    assert isinstance(record["divergence"], dict)
    assert isinstance(record["fertility"], dict)


def test_a_base_file_stands_for_the_reference(
    tiny_model: Path, variants: list[Path], settings: Settings, tmp_path: Path
):
    base = tmp_path / "english.kld"
    live = evaluate(
        variants, tiny_model, replace(ENGLISH, save_base=base), settings, RecordingProgress()
    )
    stored = evaluate_with_base(variants, base, CompareOptions(), settings, RecordingProgress())
    for one, other in zip(live, stored, strict=True):
        assert other.model == one.model
        assert (other.text, other.reference) == ("english", "english.kld")
        assert other.reference_bits_per_weight is None
        assert other.fertility is None
        assert other.divergence.mean_kld == pytest.approx(one.divergence.mean_kld, rel=0.05)
    assert len(read_records(settings, "evaluate")) == 4


def test_words_per_second_come_from_the_variants_own_bench_record(
    tiny_model: Path, settings: Settings
):
    (result,) = evaluate([tiny_model], tiny_model, ENGLISH, settings, RecordingProgress())
    assert result.fertility is not None
    assert result.tg_tokens_per_s is None
    assert result.words_per_s is None
    record = {
        "schema": "llmedge.bench/2",
        "model": result.model,
        "facts": {"file_bytes": result.file_bytes},
        "fingerprint": {"place": "host"},
        "n_depth": 0,
        "flags": [],
        "generation": {"samples": [20.0, 40.0]},
    }
    append_record(settings, "bench", record)
    (result,) = evaluate([tiny_model], tiny_model, ENGLISH, settings, RecordingProgress())
    assert result.fertility is not None
    # A token a byte: some six a word.
    assert 5.5 < result.fertility.tokens_per_word < 7
    assert result.words_per_s == pytest.approx(30.0 / result.fertility.tokens_per_word)


def test_a_text_that_is_too_short_is_refused(smollm2: Path, settings: Settings, tmp_path: Path):
    text = tmp_path / "short.txt"
    text.write_text("too short", encoding="utf-8")
    options = EvaluateOptions((file_corpus(text),))
    with pytest.raises(UsageError, match="has only"):
        evaluate([smollm2], smollm2, options, settings, RecordingProgress())


def test_two_texts_with_the_same_name_are_told_apart(
    smollm2: Path, smollm2_q4_0: Path, settings: Settings, tmp_path: Path
):
    corpora = []
    for folder, words in (("a", "one two three four five "), ("b", "the cat sat on the mat. ")):
        path = tmp_path / folder / "t.txt"
        path.parent.mkdir()
        path.write_text(words * 60, encoding="utf-8")
        corpora.append(file_corpus(path))
    options = EvaluateOptions(tuple(corpora), context=ContextOptions(n_ctx=128), max_chunks=1)
    together = evaluate([smollm2_q4_0], smollm2, options, settings, RecordingProgress())
    assert len(together) == 2
    assert together[0].divergence.perplexity != together[1].divergence.perplexity


def test_a_variant_given_twice_is_measured_once(smollm2: Path, settings: Settings):
    assert len(evaluate([smollm2, smollm2], smollm2, ENGLISH, settings, RecordingProgress())) == 1
