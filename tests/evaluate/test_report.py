from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError, UsageError
from llmedge.core.settings import Settings
from llmedge.evaluate import report as module
from llmedge.evaluate.report import EvaluateOptions, evaluate
from llmedge.gguf.mixes import find_mix
from llmedge.measure.corpus import file_corpus, shipped_corpus
from llmedge.quantize.execute import QuantizeOptions, quantize
from llmedge.runtime.context import ContextOptions
from llmedge.store.records import read_records
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


def test_models_that_do_not_fit_together_are_measured_one_by_one_with_the_same_result(
    tiny_model: Path, variants: list[Path], settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    together = evaluate(variants, tiny_model, ENGLISH, settings, RecordingProgress())
    monkeypatch.setattr(module, "_MEMORY_SHARE", 0.0)
    progress = RecordingProgress()
    alone = evaluate(variants, tiny_model, ENGLISH, settings, progress)
    assert len(progress.totals) == 2
    for one, other in zip(together, alone, strict=True):
        assert one.divergence.mean_kld == pytest.approx(other.divergence.mean_kld, rel=1e-6)


def test_results_are_recorded(smollm2: Path, settings: Settings):
    evaluate([smollm2], smollm2, ENGLISH, settings, RecordingProgress())
    (record,) = read_records(settings, "evaluate")
    assert record["schema"] == "llmedge.evaluate/1"
    assert record["text"] == "en"
    assert isinstance(record["divergence"], dict)


def test_other_vocabularies_cannot_be_compared(smollm2: Path, tiny_model: Path, settings: Settings):
    with pytest.raises(UsageError, match="their vocabularies differ"):
        evaluate([tiny_model], smollm2, ENGLISH, settings, RecordingProgress())


def test_chunks_that_are_too_short_are_refused(smollm2: Path, settings: Settings):
    options = EvaluateOptions((shipped_corpus("en"),), context=ContextOptions(n_ctx=32))
    with pytest.raises(UsageError, match="too short"):
        evaluate([smollm2], smollm2, options, settings, RecordingProgress())


def test_a_text_that_is_too_short_is_refused(smollm2: Path, settings: Settings, tmp_path: Path):
    text = tmp_path / "short.txt"
    text.write_text("too short", encoding="utf-8")
    options = EvaluateOptions((file_corpus(text),))
    with pytest.raises(UsageError, match="has only"):
        evaluate([smollm2], smollm2, options, settings, RecordingProgress())


def test_a_damaged_variant_is_refused_before_anything_runs(
    smollm2: Path, tiny_copy: Path, settings: Settings
):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        evaluate([tiny_copy], smollm2, ENGLISH, settings, RecordingProgress())


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
