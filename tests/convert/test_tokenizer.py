from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers

from llmedge.convert import tokenizer as module
from llmedge.convert.tokenizer import TokenizerOptions, TokenizerReport, convert_tokenizer
from llmedge.convert.tokenizer_reader import draft_tokenizer
from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.gguf.reader import Header, read_header
from llmedge.gguf.writer import encode_header, encode_metadata
from llmedge.runtime.model import Model, ModelOptions
from tests.convert import checkpoints
from tests.fakes import RecordingProgress

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.writer import Metadata

N_ROWS = 2100


def mismatches(report: TokenizerReport) -> dict[str, int]:
    return {result.kind: result.n_mismatches for result in report.results if result.n_mismatches}


def write(path: Path, metadata: Metadata) -> Path:
    head = encode_metadata({"general.architecture": "llama"})
    path.write_bytes(encode_header(head + metadata, ()))
    return path


def header_of(path: Path, metadata: Metadata) -> Header:
    return read_header(write(path, metadata))


@pytest.mark.parametrize(
    ("pattern", "ignore_merges", "pre"),
    [
        (checkpoints.CL100K, True, "llama-bpe"),
        (checkpoints.CL100K, False, "dbrx"),
        (checkpoints.QWEN2, False, "qwen2"),
        (checkpoints.O200K, False, "granite-embed-multi-97m"),
    ],
)
def test_byte_level_bpe_is_told_by_its_pattern_and_encodes_alike(
    tmp_path: Path, pattern: str, ignore_merges: bool, pre: str
):
    folder = checkpoints.byte_level(tmp_path, checkpoints.cut(pattern), ignore_merges=ignore_merges)
    metadata, report = convert_tokenizer(folder, N_ROWS, "llama")
    assert (report.model, report.pre, report.pre_from) == ("gpt2", pre, "content")
    assert mismatches(report) == {}
    assert sum(result.n_texts for result in report.results) > 1000
    assert report.n_tokens == N_ROWS
    assert report.n_padding == N_ROWS - 2001
    header = header_of(tmp_path / "v.gguf", metadata)
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False


@pytest.mark.parametrize(("digits", "pre"), [(False, "gpt-2"), (True, "smollm")])
def test_gpt2s_way_with_and_without_single_digits(tmp_path: Path, digits: bool, pre: str):
    folder = checkpoints.byte_level(tmp_path, checkpoints.gpt2(digits=digits))
    _, report = convert_tokenizer(folder, N_ROWS, "gpt2")
    assert (report.pre, mismatches(report)) == (pre, {})


def test_text_that_is_not_composed_is_reported_but_not_held_against_an_nfc_tokenizer(
    tmp_path: Path,
):
    folder = checkpoints.byte_level(
        tmp_path, checkpoints.cut(checkpoints.QWEN2), normalizer=normalizers.NFC()
    )
    _, report = convert_tokenizer(folder, N_ROWS, "qwen2")
    assert list(mismatches(report)) == ["combining"]
    assert any("combining marks" in note for note in report.notes)


def test_a_normalizer_that_changes_common_text_is_refused_and_may_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = checkpoints.byte_level(
        tmp_path, checkpoints.gpt2(), normalizer=normalizers.Lowercase()
    )
    draft = dataclasses.replace(draft_tokenizer(folder, N_ROWS, "gpt2"), pre_types=())
    monkeypatch.setattr(module, "read_draft", lambda *_: draft)
    with pytest.raises(UnsupportedError, match=r"encodes .*% of .* texts differently.*English"):
        convert_tokenizer(folder, N_ROWS, "gpt2")
    _, report = convert_tokenizer(folder, N_ROWS, "gpt2", TokenizerOptions(allow_mismatch=True))
    assert "en" in mismatches(report)
    assert "llama.cpp does not normalize a text by Lowercase" in report.notes


def test_an_unknown_spelling_of_a_pattern_is_found_by_trying(tmp_path: Path):
    spelt = checkpoints.CL100K.replace("|\\s+(?!\\S)|\\s+", "|(?:\\s+(?!\\S)|\\s+)")
    folder = checkpoints.byte_level(tmp_path, checkpoints.cut(spelt))
    progress = RecordingProgress()
    _, report = convert_tokenizer(folder, N_ROWS, "llama", progress=progress)
    assert (report.pre, report.pre_from, mismatches(report)) == ("llama-bpe", "search", {})
    assert progress.updates


def test_a_tokenizer_that_no_pre_type_matches_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps = [
        pre_tokenizers.Split(Regex("[aeiou]"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    folder = checkpoints.byte_level(tmp_path, pre_tokenizers.Sequence(steps))
    draft = draft_tokenizer(folder, N_ROWS, "llama")
    assert draft.choices == ()
    assert len(draft.pre_types) > 25
    monkeypatch.setattr(
        module, "read_draft", lambda *_: dataclasses.replace(draft, pre_types=draft.pre_types[:2])
    )
    with pytest.raises(UnsupportedError, match="English") as caught:
        convert_tokenizer(folder, N_ROWS, "llama")
    assert "--allow-tokenizer-mismatch" in caught.value.hint


def test_compat_writes_the_usual_type_and_says_what_it_costs(tmp_path: Path):
    folder = checkpoints.byte_level(tmp_path, checkpoints.cut(checkpoints.O200K))
    _, report = convert_tokenizer(folder, N_ROWS, "llama", TokenizerOptions(compat=True))
    assert (report.pre, report.pre_from) == ("gpt-4o", "compat")
    lost = mismatches(report)
    assert all(lost[kind] > 20 for kind in ("hi", "mr", "bn", "ta", "te", "kn", "ml", "gu", "pa"))
    assert "en" not in lost
    assert any("Tamil" in note for note in report.notes)


@pytest.mark.parametrize("prefix", [True, False])
def test_spm_is_rebuilt_from_merges_and_encodes_alike(tmp_path: Path, prefix: bool):
    folder = checkpoints.spm(tmp_path, prefix=prefix)
    metadata, report = convert_tokenizer(folder, N_ROWS, "llama")
    assert (report.model, report.adds_bos, mismatches(report)) == ("llama", True, {})
    assert any("tokenizer.model is missing" in note for note in report.notes)
    header = header_of(tmp_path / "v.gguf", metadata)
    assert header.metadata["tokenizer.ggml.add_space_prefix"] is prefix


def test_a_space_before_a_text_that_transformers_does_not_double_is_explained(tmp_path: Path):
    folder = checkpoints.spm(tmp_path)
    value = checkpoints.read_tokenizer(folder)
    value["normalizer"] = None
    value["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    checkpoints.save(folder, value)
    _, report = convert_tokenizer(folder, N_ROWS, "llama")
    assert list(mismatches(report)) == ["whitespace"]


def test_spm_from_tokenizer_model_alone(tmp_path: Path):
    trained = checkpoints.spm(tmp_path / "trained")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    data = checkpoints.sentencepiece(checkpoints.read_tokenizer(trained))
    (folder / "tokenizer.model").write_bytes(data)
    _, report = convert_tokenizer(folder, N_ROWS, "llama")
    assert (report.model, report.adds_bos, mismatches(report)) == ("llama", True, {})


def test_gemma_4_and_sarvam_get_their_own_tokenizers(tmp_path: Path):
    folder = checkpoints.spm(tmp_path, prefix=False)
    _, gemma = convert_tokenizer(folder, N_ROWS, "gemma4")
    assert (gemma.model, mismatches(gemma)) == ("gemma4", {})
    _, sarvam = convert_tokenizer(folder, N_ROWS, "bailingmoe2")
    assert (sarvam.model, sarvam.pre, mismatches(sarvam)) == ("gpt2", "sarvam-moe", {})


def test_unigram_with_a_compiled_normalizer(tmp_path: Path):
    metadata, report = convert_tokenizer(checkpoints.unigram(tmp_path), 4000, "bert")
    assert (report.model, report.adds_bos, report.adds_eos) == ("t5", True, True)
    assert sum(mismatches(report).values()) <= 0.005 * 1200
    header = header_of(tmp_path / "v.gguf", metadata)
    assert header.metadata["tokenizer.ggml.unknown_token_id"] == 3
    assert header.metadata["tokenizer.ggml.remove_extra_whitespaces"] is True


def test_wordpiece_that_keeps_accents(tmp_path: Path):
    metadata, report = convert_tokenizer(
        checkpoints.wordpiece(tmp_path, lowercase=False), 6000, "bert"
    )
    assert (report.model, report.pre) == ("bert", None)
    assert sum(mismatches(report).values()) <= 2
    header = header_of(tmp_path / "v.gguf", metadata)
    assert header.metadata["tokenizer.ggml.bos_token_id"] == 2
    assert header.metadata["tokenizer.ggml.normalizer.lowercase"] is False


def test_wordpiece_that_strips_accents_loses_vowel_signs_in_llama_cpp(tmp_path: Path):
    folder = checkpoints.wordpiece(tmp_path, lowercase=True)
    with pytest.raises(UnsupportedError, match="Tamil 100%"):
        convert_tokenizer(folder, 6000, "bert")
    _, report = convert_tokenizer(folder, 6000, "bert", TokenizerOptions(allow_mismatch=True))
    assert not {"en", "ru", "ur"} & set(mismatches(report))


def test_what_is_written_loads_with_its_special_tokens(tmp_path: Path):
    folder = checkpoints.byte_level(
        tmp_path, checkpoints.gpt2(), add_bos_token=True, eos_token="<|im_end|>"
    )
    checkpoints.write_json(folder / "generation_config.json", {"eos_token_id": [2, 1]})
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    metadata, report = convert_tokenizer(folder, N_ROWS, "gpt2")
    assert report.chat_template
    path = write(tmp_path / "v.gguf", metadata)
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        vocab = model.vocab
        assert (vocab.n_tokens, vocab.bos, vocab.eos) == (N_ROWS, 0, 2)
        assert vocab.adds_bos
        assert vocab.is_end(1)
        assert vocab.text(2050) == "[PAD2050]"
        ids = vocab.tokenize("<think>नमस्ते<|im_end|>", parse_special=True)
        assert (ids[0], ids[-1]) == (2000, 2)
        assert vocab.detokenize(ids, special=True) == "<think>नमस्ते<|im_end|>"


def test_a_broken_chat_template_is_an_error_and_a_failing_one_a_note(tmp_path: Path):
    folder = checkpoints.byte_level(tmp_path, checkpoints.gpt2())
    template = folder / "chat_template.jinja"
    template.write_text("{% for message in %}")
    with pytest.raises(IntegrityError, match="chat template"):
        convert_tokenizer(folder, N_ROWS, "gpt2")
    template.write_text("{{ tools[0].name.first }}")
    _, report = convert_tokenizer(folder, N_ROWS, "gpt2")
    assert any("cannot be rendered" in note for note in report.notes)
