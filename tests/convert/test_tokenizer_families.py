"""What each family's draft holds before anything is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.token_table import TokenKind
from llmedge.convert.tokenizer_bpe import MERGES, compat_choice, encode_merges
from llmedge.convert.tokenizer_check import Comparison, KindResult, Verdict
from llmedge.convert.tokenizer_draft import Choice, Difference
from llmedge.convert.tokenizer_reader import draft_tokenizer, read_draft
from llmedge.convert.tokenizer_spm import RANKS, SCORES, byte_value, spm_choices
from llmedge.convert.tokenizer_unigram import CHARSMAP
from llmedge.convert.tokenizer_wordpiece import draft_wordpiece
from llmedge.core.errors import IntegrityError
from llmedge.gguf.writer import encode_header, encode_metadata
from llmedge.measure.sentences import Sentence
from tests.convert import checkpoints

if TYPE_CHECKING:
    from pathlib import Path


def test_a_space_inside_a_merge_does_not_end_its_first_half():
    assert encode_merges([("a", " b")]) == encode_merges([("a", "Ġb")])
    assert compat_choice(None) is None


def test_spm_scores_are_the_ranks_and_those_of_tokenizer_model_where_there_is_one(tmp_path: Path):
    folder = checkpoints.spm(tmp_path)
    rebuilt = draft_tokenizer(folder, 2100, "llama")
    data = checkpoints.sentencepiece(checkpoints.read_tokenizer(folder))
    (folder / "tokenizer.model").write_bytes(data)
    scored = draft_tokenizer(folder, 2100, "llama")
    assert scored.parts[SCORES] == rebuilt.parts[RANKS]
    assert rebuilt.notes
    assert scored.notes == ()


def test_byte_tokens_are_known_by_their_text():
    assert byte_value("<0x0A>") == 10
    assert byte_value("<0xZZ>") is None
    assert byte_value("<0x0A") is None


def test_what_llama_cpp_is_told_of_spm_depends_on_the_architecture():
    def told(architecture: str, *, prefix: bool, has_scores: bool = False) -> list[tuple[str, ...]]:
        choices = spm_choices(architecture, prefix=prefix, has_scores=has_scores)
        return [(choice.model, *choice.parts) for choice in choices]

    assert told("llama", prefix=True) == [("llama", RANKS)]
    assert told("llama", prefix=True, has_scores=True) == [("llama", SCORES), ("llama", RANKS)]
    assert told("gemma3", prefix=False) == [("llama", RANKS), ("gpt2", MERGES)]
    assert told("bailingmoe2", prefix=False)[0] == ("gpt2", MERGES)
    assert told("gemma4", prefix=False) == [("gemma4", RANKS, MERGES)]


def test_gemma_4_writes_its_channel_tokens_out(tmp_path: Path):
    folder = checkpoints.spm(tmp_path, prefix=False)
    value = checkpoints.read_tokenizer(folder)
    value["added_tokens"].append({"id": 2000, "content": "<|channel>", "special": True})
    checkpoints.save(folder, value)
    kinds = {}
    for architecture in ("gemma4", "llama"):
        base = draft_tokenizer(folder, 2001, architecture).base.data
        kinds[architecture] = base[-4]
    assert kinds == {"gemma4": TokenKind.USER_DEFINED, "llama": TokenKind.CONTROL}


def test_a_unigram_draft_carries_its_charsmap_and_says_what_the_library_does_otherwise(
    tmp_path: Path,
):
    folder = checkpoints.unigram(tmp_path)
    draft = draft_tokenizer(folder, 4000, "bert")
    assert draft.parts[CHARSMAP].n_keys == 1
    assert draft.differences == {Difference.CLUSTERS}
    value = checkpoints.read_tokenizer(folder)
    value["normalizer"]["precompiled_charsmap"] = "no base64!"
    checkpoints.save(folder, value)
    with pytest.raises(IntegrityError, match="base64"):
        draft_tokenizer(folder, 4000, "bert")


def test_a_wordpiece_draft_marks_the_starts_of_words(tmp_path: Path):
    assert draft_wordpiece.__doc__
    draft = draft_tokenizer(checkpoints.wordpiece(tmp_path, lowercase=True), 6000, "bert")
    assert "▁the".encode() in draft.base.data
    assert b"##" not in draft.base.data.replace(b"\xe2\x96\x81##", b"")
    assert b"[CLS]" in draft.base.data


def test_a_draft_comes_whole_out_of_its_process(tmp_path: Path):
    folder = checkpoints.byte_level(tmp_path, checkpoints.gpt2(), n_tokens=600)
    assert read_draft(folder, 601, "gpt2") == draft_tokenizer(folder, 601, "gpt2")


def test_a_comparison_counts_by_kind_and_a_wrong_pre_tokenizer_shows(tmp_path: Path):
    folder = checkpoints.byte_level(tmp_path, checkpoints.cut(checkpoints.O200K))
    draft = draft_tokenizer(folder, 2001, "llama")
    sentences = [Sentence("hi", "नमस्ते दुनिया, कैसे हो?"), Sentence("en", "Hello world")]
    comparison = Comparison(folder, "llama", sentences)
    assert comparison.judge(draft, draft.choices[0]).n_mismatches == 0
    wrong = comparison.judge(draft, Choice("gpt2", "gpt-4o", "search", (MERGES,)))
    assert wrong.results == (KindResult("hi", 1, 1), KindResult("en", 1, 0))
    assert not wrong.passes


def test_a_choice_that_llama_cpp_refuses_says_why(tmp_path: Path):
    folder = checkpoints.byte_level(tmp_path, checkpoints.gpt2(), n_tokens=600)
    draft = draft_tokenizer(folder, 601, "gpt2")
    comparison = Comparison(folder, "gpt2", [Sentence("en", "Hello")])
    verdict = comparison.judge(draft, Choice("gpt2", "no-such-type", "search", (MERGES,)))
    assert "no-such-type" in verdict.why
    assert not verdict.passes


def test_half_a_percent_may_differ():
    choice = Choice("gpt2", "gpt-2", "content")
    results = (KindResult("en", 1000, 5),)
    assert Verdict(choice, results, 5).passes
    assert not Verdict(choice, results, 6).passes


def test_keys_of_a_draft_are_counted(tmp_path: Path):
    folder = checkpoints.byte_level(tmp_path, checkpoints.gpt2(), n_tokens=600)
    draft = draft_tokenizer(folder, 601, "gpt2")
    pieces = draft.pieces(draft.choices[0])
    assert encode_header(encode_metadata({}), ())
    assert sum(piece.n_keys for piece in pieces) == 9
