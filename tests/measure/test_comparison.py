import math
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError, UsageError
from llmedge.core.settings import Settings
from llmedge.measure import comparison as module
from llmedge.measure.comparison import (
    CompareOptions,
    compare,
    compare_with_base,
    paired_difference,
)
from llmedge.measure.corpus import Corpus, file_corpus, shipped_corpus
from llmedge.runtime.context import ContextOptions
from tests.fakes import RecordingProgress
from tests.gguf_files import write_tiny_model

OPTIONS = CompareOptions(max_chunks=3, context=ContextOptions(n_ctx=64, n_batch=64))
ENGLISH = shipped_corpus("en")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models with other weights than the tiny model and its vocabulary."""
    folder = tmp_path_factory.mktemp("variants")
    return [write_tiny_model(folder / f"v{seed}-F32.gguf", seed=seed) for seed in (1, 2)]


@pytest.fixture
def progress() -> RecordingProgress:
    return RecordingProgress()


def test_a_model_loses_nothing_against_itself(
    tiny_model: Path, settings: Settings, progress: RecordingProgress
):
    found = compare(tiny_model, [tiny_model], [ENGLISH], OPTIONS, settings, progress)
    result = found[tiny_model, ENGLISH]
    assert result.chunk_klds == (0.0, 0.0, 0.0)
    assert result.divergence.max_kld == 0.0
    assert result.divergence.n_tokens == 3 * 31


def test_there_is_one_comparison_a_variant_and_text(
    tiny_model: Path, variants: list[Path], settings: Settings, progress: RecordingProgress
):
    hindi = shipped_corpus("hi")
    arguments = ([*variants, variants[0]], [ENGLISH, hindi, ENGLISH], OPTIONS, settings, progress)
    found = compare(tiny_model, *arguments)
    assert list(found) == [(path, corpus) for path in variants for corpus in (ENGLISH, hindi)]
    for result in found.values():
        assert result.divergence.mean_kld == pytest.approx(sum(result.chunk_klds) / 3)
        assert len(set(result.chunk_klds)) == 3
    assert list(progress.totals) == ["en: v1-F32, v2-F32", "hi: v1-F32, v2-F32"]
    done = [done for label, done, _ in progress.updates if label.startswith("hi")]
    assert done == [1, 2, 3]
    assert progress.totals["hi: v1-F32, v2-F32"] == 3


def test_chunks_in_one_batch_give_the_same_figures(
    tiny_model: Path, variants: list[Path], settings: Settings, progress: RecordingProgress
):
    options = replace(OPTIONS, max_chunks=6)
    together = replace(options, context=replace(options.context, n_batch=256))
    one, other = (
        compare(tiny_model, variants[:1], [ENGLISH], how, settings, progress)[variants[0], ENGLISH]
        for how in (options, together)
    )
    assert other.chunk_klds == pytest.approx(one.chunk_klds, rel=1e-3)
    assert other.divergence.n_tokens == one.divergence.n_tokens == 6 * 31


def test_models_that_do_not_fit_together_are_measured_one_by_one_with_the_same_result(
    tiny_model: Path,
    variants: list[Path],
    settings: Settings,
    progress: RecordingProgress,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    together = compare(tiny_model, variants, [ENGLISH], OPTIONS, settings, progress)
    monkeypatch.setattr(module, "_MEMORY_SHARE", 0.0)
    one_by_one = RecordingProgress()
    base = tmp_path / "base.kld"
    arguments = (variants, [ENGLISH], OPTIONS, settings, one_by_one)
    alone = compare(tiny_model, *arguments, save_base=base)
    assert list(one_by_one.totals) == ["en: v1-F32", "en: v2-F32"]
    assert alone == together
    stored = compare_with_base(base, variants, OPTIONS, settings, progress)
    assert list(stored) == variants
    assert "base.kld: v2-F32" in progress.totals


def test_a_base_file_stands_for_the_reference(
    tiny_model: Path,
    variants: list[Path],
    settings: Settings,
    progress: RecordingProgress,
    tmp_path: Path,
):
    base = tmp_path / "new" / "base.kld"
    options = replace(OPTIONS, max_chunks=5)
    live = compare(tiny_model, variants, [ENGLISH], options, settings, progress, save_base=base)
    # The length of the chunks is the file's, whatever the options say.
    options = CompareOptions(context=ContextOptions(n_ctx=512))
    stored = compare_with_base(base, [tiny_model, *variants], options, settings, progress)
    assert progress.totals["base.kld: tiny-F32, v1-F32, v2-F32"] == 5
    assert stored[tiny_model].divergence.mean_kld == pytest.approx(0, abs=1e-4)
    for path in variants:
        exact, coded = live[path, ENGLISH], stored[path]
        assert coded.chunk_klds == pytest.approx(exact.chunk_klds, rel=1e-2)
        assert coded.divergence.perplexity == pytest.approx(exact.divergence.perplexity, rel=1e-5)
        assert coded.divergence.reference_perplexity == pytest.approx(
            exact.divergence.reference_perplexity, rel=1e-3
        )
        assert coded.divergence.top1_agreement == exact.divergence.top1_agreement
    few = compare_with_base(base, variants[:1], replace(options, max_chunks=2), settings, progress)
    assert few[variants[0]].chunk_klds == stored[variants[0]].chunk_klds[:2]


def test_the_first_token_of_a_stored_chunk_is_what_the_model_begins_with(
    tiny_model: Path, settings: Settings, progress: RecordingProgress, tmp_path: Path
):
    base = tmp_path / "base.kld"
    arguments = ([tiny_model], [ENGLISH], OPTIONS, settings, progress)
    compare(tiny_model, *arguments, save_base=base)
    data = bytearray(base.read_bytes())
    assert data[20:24] == b"\x01\0\0\0"  # the tiny model's bos
    data[20:24] = b"\x50\0\0\0"  # llama.cpp's tool stores the token that bos takes the place of
    base.write_bytes(data)
    (result,) = compare_with_base(base, [tiny_model], OPTIONS, settings, progress).values()
    assert result.divergence.max_kld < 1e-3


def test_only_whole_chunks_go_into_a_base_file(
    tiny_model: Path, settings: Settings, progress: RecordingProgress, tmp_path: Path
):
    text = tmp_path / "text.txt"
    text.write_bytes(b"x" * 220)  # 63 a chunk beside bos: three and 31 more
    corpora = [file_corpus(text)]
    options = replace(OPTIONS, max_chunks=None)
    found = compare(tiny_model, [tiny_model], corpora, options, settings, progress)
    assert len(found[tiny_model, corpora[0]].chunk_klds) == 4
    arguments = ([tiny_model], corpora, options, settings, progress)
    found = compare(tiny_model, *arguments, save_base=tmp_path / "base.kld")
    assert len(found[tiny_model, corpora[0]].chunk_klds) == 3


def test_a_base_file_holds_one_text(
    tiny_model: Path, settings: Settings, progress: RecordingProgress, tmp_path: Path
):
    corpora = [ENGLISH, shipped_corpus("hi")]
    arguments = ([tiny_model], corpora, OPTIONS, settings, progress)
    with pytest.raises(UsageError, match="one text, not 2"):
        compare(tiny_model, *arguments, save_base=tmp_path / "base.kld")


def test_a_base_file_of_another_vocabulary_is_refused(
    tiny_model: Path, smollm2: Path, settings: Settings, progress: RecordingProgress, tmp_path: Path
):
    base = tmp_path / "base.kld"
    arguments = ([tiny_model], [ENGLISH], OPTIONS, settings, progress)
    compare(tiny_model, *arguments, save_base=base)
    with pytest.raises(UsageError, match=r"49152 tokens, the reference of base\.kld had 260"):
        compare_with_base(base, [smollm2], OPTIONS, settings, progress)


def test_other_vocabularies_cannot_be_compared(
    smollm2: Path, tiny_model: Path, settings: Settings, progress: RecordingProgress
):
    with pytest.raises(UsageError, match="their vocabularies differ"):
        compare(smollm2, [tiny_model], [ENGLISH], OPTIONS, settings, progress)


def test_a_trimmed_model_was_compared_by_trim_already(
    smollm2: Path, settings: Settings, progress: RecordingProgress, tmp_path: Path
):
    trimmed = write_tiny_model(
        tmp_path / "trimmed.gguf",
        change=lambda writer: writer.add_string("llmedge.trim.source.sha256", "0" * 64),
    )
    with pytest.raises(UsageError, match="one of them was trimmed") as caught:
        compare(smollm2, [trimmed], [ENGLISH], OPTIONS, settings, progress)
    assert "llmedge trim compared both" in caught.value.hint


def test_chunks_that_are_too_short_are_refused(
    tiny_model: Path, settings: Settings, progress: RecordingProgress
):
    options = CompareOptions(context=ContextOptions(n_ctx=32))
    with pytest.raises(UsageError, match="too short"):
        compare(tiny_model, [tiny_model], [ENGLISH], options, settings, progress)


def test_a_damaged_variant_is_refused_before_anything_runs(
    tiny_model: Path, tiny_copy: Path, settings: Settings, progress: RecordingProgress
):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        compare(tiny_model, [tiny_copy], [ENGLISH], OPTIONS, settings, progress)
    assert progress.totals == {}


def test_conversations_go_through_the_models_template(
    tiny_model: Path, settings: Settings, progress: RecordingProgress
):
    chat = shipped_corpus("chat")
    found = compare(tiny_model, [tiny_model], [chat], OPTIONS, settings, progress)
    assert found[tiny_model, chat].divergence.n_tokens == 3 * 31
    assert progress.updates[-1][1] > 0


def test_a_model_without_a_template_is_refused_before_anything_runs(
    tmp_path: Path, settings: Settings, progress: RecordingProgress
):
    path = write_tiny_model(
        tmp_path / "plain.gguf",
        change=lambda writer: writer.kv_data[0].pop("tokenizer.chat_template"),
    )
    corpora: list[Corpus] = [ENGLISH, shipped_corpus("chat")]
    with pytest.raises(UsageError, match=r"plain\.gguf has no chat template"):
        compare(path, [path], corpora, OPTIONS, settings, progress)
    assert progress.updates == []


def test_a_paired_difference_by_hand():
    mean, low, high = paired_difference([1.0, 2.0, 3.0], [0.0, 1.0, 1.0])
    half = 4.303 * math.sqrt(1 / 3) / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((4 / 3, 4 / 3 - half, 4 / 3 + half))


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (11, 2.228), (12, 2.201), (31, 2.042)])
def test_the_interval_is_students(n: int, t: float):
    differences = [0.0, 1.0] * n
    _, low, high = paired_difference(differences[:n], [0.0] * n)
    mean = sum(differences[:n]) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in differences[:n]) / (n - 1))
    assert (high - low) / 2 == pytest.approx(t * deviation / math.sqrt(n), rel=2e-3)


def test_what_makes_chunks_hard_for_both_drops_out():
    hard = [0.1, 5.0, 0.3, 9.0, 2.0, 0.2]
    mean, low, high = paired_difference(
        [kld * 1.1 for kld in hard], [kld * 1.1 - 0.01 for kld in hard]
    )
    assert 0.0099 < low <= mean <= high < 0.0101


def test_one_chunk_says_nothing():
    assert paired_difference([2.0], [1.0]) == (1.0, -math.inf, math.inf)


def test_chunks_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no chunk"):
        paired_difference([], [])
