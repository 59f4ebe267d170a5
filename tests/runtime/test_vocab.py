from itertools import pairwise
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.core.errors import UsageError
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.vocab import Detokenizer, Vocab
from tests.gguf_files import write_tiny_model

TEXTS = {
    "Hindi": "नमस्ते दुनिया! क्षत्रिय ज्ञान श्रम, प्रश्न और उत्तर।",
    "Tamil": "வணக்கம் உலகம், ஸ்ரீரங்கம் க்ஷேத்திரம்.",
    "Bengali": "আমি ভাত খাই; ক্ষমা করবেন।",
    "emoji": "👩🏽‍🌾🇮🇳 🙂 ❤️‍🔥 x",
    "mixed": "₹500 में 5 kg आलू 🥔 மற்றும் tea",
}


@pytest.fixture(scope="module", params=["smollm2", "gemma3", "tiny_model"])
def vocab(request: pytest.FixtureRequest):
    path: Path = request.getfixturevalue(request.param)
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        yield model.vocab


@pytest.fixture(scope="module")
def smol(smollm2: Path):
    with Model.load(smollm2, ModelOptions(vocab_only=True)) as model:
        yield model.vocab


@pytest.fixture(scope="module")
def every_byte(tiny_model: Path):
    with Model.load(tiny_model, ModelOptions(vocab_only=True)) as model:
        yield model.vocab


@pytest.mark.parametrize("name", TEXTS)
def test_text_comes_back_from_its_tokens(vocab: Vocab, name: str):
    tokens = vocab.tokenize(TEXTS[name])
    assert vocab.detokenize(tokens).removeprefix(" ") == TEXTS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_text_streamed_token_by_token_is_whole_characters_that_join_to_the_text(
    vocab: Vocab, name: str
):
    detokenizer = Detokenizer()
    parts = [detokenizer.feed(vocab.piece(token)) for token in vocab.tokenize(TEXTS[name])]
    parts.append(detokenizer.finish())
    assert "".join(parts).removeprefix(" ") == TEXTS[name]
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)


@given(st.data())
@settings(deadline=None)
def test_any_split_of_the_bytes_gives_the_same_text(data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(TEXTS)))
    text = data.draw(st.text(max_size=20)) + TEXTS[name]
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=40)))
    detokenizer = Detokenizer()
    edges = [0, *cuts, len(raw)]
    parts = [detokenizer.feed(raw[a:b]) for a, b in pairwise(edges)]
    assert "".join(parts) + detokenizer.finish() == text
    for part in parts:
        part.encode()  # no half of a surrogate pair, no half character


@given(st.lists(st.binary(max_size=6), max_size=20))
def test_bytes_that_are_no_text_become_replacement_characters(pieces: list[bytes]):
    detokenizer = Detokenizer()
    streamed = "".join(detokenizer.feed(piece) for piece in pieces) + detokenizer.finish()
    assert streamed == b"".join(pieces).decode("utf-8", "replace")


def test_a_character_that_never_becomes_complete_is_replaced_at_the_end():
    detokenizer = Detokenizer()
    assert detokenizer.feed("न".encode()[:2]) == ""
    assert detokenizer.finish() == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_are_text_unless_they_are_asked_for(smol: Vocab):
    plain = smol.tokenize("<|im_start|>user")
    special = smol.tokenize("<|im_start|>user", parse_special=True)
    assert len(plain) > len(special)
    assert smol.text(special[0]) == "<|im_start|>"
    assert smol.piece(special[0]) == b""
    assert smol.piece(special[0], special=True) == b"<|im_start|>"
    assert smol.detokenize(special, special=True) == "<|im_start|>user"


def test_the_vocabulary_knows_its_ends(smol: Vocab):
    assert smol.eos is not None
    assert smol.is_end(smol.eos)
    assert not smol.is_end(smol.tokenize("a")[0])
    assert smol.text(None) == ""
    assert not smol.adds_bos


def test_bos_is_added_where_the_model_wants_it(gemma3: Path):
    with Model.load(gemma3, ModelOptions(vocab_only=True)) as model:
        tokens = model.vocab.tokenize("hi", add_special=True)
        assert model.vocab.starts_with_bos(tokens)
        assert not model.vocab.starts_with_bos(model.vocab.tokenize("hi"))
        assert not model.vocab.starts_with_bos([])


def test_text_with_lone_surrogates_is_tokenized(smol: Vocab):
    assert smol.detokenize(smol.tokenize("a\ud800b")) == "a?b"


def test_a_text_may_need_more_tokens_than_it_has_bytes(tmp_path: Path):
    def forget_the_space(writer: gguf.GGUFWriter) -> None:
        for key in ("tokens", "scores", "token_type"):
            writer.kv_data[0][f"tokenizer.ggml.{key}"].value.pop()

    path = write_tiny_model(tmp_path / "no-space.gguf", change=forget_the_space)
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        assert len(model.vocab.tokenize(" " * 100)) == 300


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60))
@settings(deadline=None)
def test_any_text_survives_a_vocabulary_that_has_every_byte(every_byte: Vocab, text: str):
    assert every_byte.detokenize(every_byte.tokenize(text)) == text


def test_the_special_tokens_in_force_are_known_by_their_keys(smol: Vocab, every_byte: Vocab):
    assert every_byte.roles == {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    assert smol.roles["tokenizer.ggml.padding_token_id"] == 2
    # Not written in the file: llama.cpp knows it by its text.
    assert smol.text(smol.roles["tokenizer.ggml.fim_rep_token_id"]) == "<reponame>"


def test_the_pieces_of_all_tokens_are_the_pieces_of_each(vocab: Vocab):
    table = vocab.pieces_of_all
    assert len(table) == vocab.n_tokens
    for token in (0, 1, 5, 200, len(table) - 1):
        assert table[token] == vocab.piece(token)
    tokens = vocab.tokenize(TEXTS["Tamil"])
    assert table.join(tokens) == b"".join(vocab.piece(token) for token in tokens)
    with pytest.raises(IndexError):
        table[-1]


def test_control_tokens_are_pieces_as_they_are_written(smol: Vocab):
    tokens = smol.tokenize("<|im_start|>नमस्ते", parse_special=True)
    assert b"".join(smol.pieces(tokens)) == "<|im_start|>नमस्ते".encode()
    for wrong in (-1, smol.n_tokens):
        with pytest.raises(UsageError):
            smol.pieces([wrong])
