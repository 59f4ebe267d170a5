from __future__ import annotations

import shutil
from array import array
from typing import TYPE_CHECKING

import gguf
import pytest

from llmedge.core.errors import IntegrityError, JudgementError
from llmedge.core.progress import SilentProgress
from llmedge.measure.corpus import Corpus
from llmedge.quantize.trim_proof import Proof, ProofOptions, prove
from tests.gguf_files import replace_value
from tests.quantize.test_trim_vocabulary import edit
from tests.quantize.trim_models import alphabet, write_byte_level

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

# A model beside itself: every token is kept, in its place.
EVERYTHING = array("i", range(636))
TEXT = "the milk, the phone\n\nदूध किताब 2014\n\nкнига книга"


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write_byte_level(tmp_path / "original.gguf")


@pytest.fixture
def run(original: Path, tmp_path: Path):
    def run(trimmed: Path, text: str = TEXT, *, is_exact: bool = True, max_chunks=4) -> Proof:
        (tmp_path / "text.txt").write_text(text, encoding="utf-8")
        corpus = Corpus("text", tmp_path / "text.txt")
        scripts = frozenset(["Latin", "Devanagari"])
        options = ProofOptions(EVERYTHING, (corpus,), scripts, is_exact, max_chunks, n_threads=1)
        with SilentProgress().task("", total=1, unit="texts") as task:
            return prove(original, trimmed, options, task)

    return run


def spell(text: str) -> str:
    return "".join(alphabet()[byte] for byte in text.encode())


def lose_merge(line: str):
    def lose(merges: list) -> list:
        assert line in merges
        return [merge for merge in merges if merge != line]

    return edit("tokenizer.ggml.merges", lose)


def change_tensor(path: Path, name: str, change) -> None:
    """Change a tensor's bytes in a file."""
    (tensor,) = [t for t in gguf.GGUFReader(path, "r+").tensors if t.name == name]
    change(tensor.data)
    tensor.data.flush()


def test_a_model_is_equal_to_itself(run, original: Path):
    proof = run(original)
    (text,) = proof.texts
    assert text.n_paragraphs == text.n_cut_alike == 3
    assert text.n_tokens == text.n_tokens_before == text.loss.n_compared
    assert text.loss.max_difference == 0.0
    assert text.loss.mean_dropped == 0.0
    assert proof.n_cut_alike == proof.n_sentences > 400
    assert proof.mass == {}


def test_a_long_text_is_cut_whole_but_read_in_part(run, original: Path):
    (text,) = run(original, "the milk " * 1000, max_chunks=2).texts
    assert text.n_tokens > 2 * 512
    assert text.loss.n_compared == 2 * 512


def test_paragraphs_keep_the_lines_between_them(run, original: Path):
    (text,) = run(original, "a\n\n\n\nb\n\nc").texts
    assert (text.n_paragraphs, text.n_tokens) == (3, 9)


def test_one_row_in_another_place_shows_in_the_logits(run, original: Path, tmp_path: Path):
    trimmed = tmp_path / "trimmed.gguf"
    shutil.copy(original, trimmed)

    def swap(rows: np.ndarray) -> None:
        rows[[400, 401]] = rows[[401, 400]]

    change_tensor(trimmed, "output.weight", swap)
    assert run(trimmed).texts[0].loss.max_difference > 0.1


def test_tokens_in_other_places_are_noticed(run, tmp_path: Path):
    def swap(tokens: list) -> list:
        return [*tokens[:400], tokens[401], tokens[400], *tokens[402:]]

    trimmed = tmp_path / "trimmed.gguf"
    write_byte_level(trimmed, change=edit("tokenizer.ggml.tokens", swap))
    with pytest.raises(JudgementError, match=r"token 400 .* reads otherwise"):
        run(trimmed)


def test_a_vocabulary_of_another_size_is_noticed(run, tmp_path: Path):
    trimmed = write_byte_level(tmp_path / "trimmed.gguf", words=("the", "milk"))
    with pytest.raises(JudgementError, match="not 636"):
        run(trimmed)


def test_another_end_is_noticed(run, tmp_path: Path):
    def end_elsewhere(writer: gguf.GGUFWriter) -> None:
        replace_value(writer, "tokenizer.ggml.eos_token_id", 300)

    with pytest.raises(JudgementError, match=r"reads otherwise|special tokens"):
        run(write_byte_level(tmp_path / "trimmed.gguf", change=end_elsewhere))


def test_a_missing_merge_is_noticed_where_texts_must_be_cut_alike(run, tmp_path: Path):
    trimmed = write_byte_level(tmp_path / "trimmed.gguf", change=lose_merge("mil k"))
    with pytest.raises(JudgementError, match=r"it cuts .*milk.* otherwise"):
        run(trimmed)
    proof = run(trimmed, is_exact=False)
    (text,) = proof.texts
    assert (text.n_paragraphs, text.n_cut_alike) == (3, 2)
    assert text.n_tokens == text.n_tokens_before + 1
    # Both have read what the second cuts otherwise, too.
    assert text.loss.n_compared == text.n_tokens
    assert text.loss.max_difference == 0.0


def test_a_paragraph_in_another_script_may_be_cut_otherwise_but_must_come_back(run, tmp_path: Path):
    last = spell("а")
    trimmed = write_byte_level(
        tmp_path / "trimmed.gguf", change=lose_merge(f"{spell('книг')} {last}")
    )
    assert run(trimmed).texts[0].n_cut_alike == 2
    # A merge that makes no token: llama.cpp leaves out what it cannot spell.
    made = f"{spell('книга')} {last}"
    trimmed = write_byte_level(
        tmp_path / "lost.gguf", change=edit("tokenizer.ggml.merges", lambda old: [*old, made])
    )
    with pytest.raises(JudgementError, match=r"does not come back"):
        run(trimmed, "книгаа")


def test_a_file_that_does_not_load_is_an_error(run, original: Path, tmp_path: Path):
    trimmed = tmp_path / "trimmed.gguf"
    trimmed.write_bytes(original.read_bytes()[:-1000])
    with pytest.raises(IntegrityError, match="truncated"):
        run(trimmed)
