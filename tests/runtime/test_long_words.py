from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.host.child import Child, Talk
from llmedge.runtime.long_words import MAX_WORD, LongWords
from llmedge.runtime.model import Model, ModelOptions
from tests.gguf_files import replace_value, write_tiny_model

RUNS = ["a", " ", "1", "!", "\n", "क", "aB", "中", "्", "😀", " \n", "a!1", "<|end|>"]
END = "<|end|>"


def write_bpe(path: Path, pre: str) -> Path:
    """A BPE vocabulary of the 256 bytes, and a control token that ends a text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    tokens = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokens += [END, "<|begin|>", "ab", "क्"]

    def change(writer: gguf.GGUFWriter) -> None:
        replace_value(writer, "tokenizer.ggml.model", "gpt2")
        replace_value(writer, "tokenizer.ggml.tokens", [token.encode() for token in tokens])
        replace_value(writer, "tokenizer.ggml.token_type", [1] * 256 + [3, 3, 1, 4])
        replace_value(writer, "tokenizer.ggml.bos_token_id", 257)
        replace_value(writer, "tokenizer.ggml.eos_token_id", 256)
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges(["a b"])
        writer.add_add_eos_token(True)

    return write_tiny_model(path, change=change)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bpe(tmp_path_factory.mktemp("bpe") / "fragile.gguf", "deepseek-llm")


def tokenize_runs(talk: Talk, path: Path) -> list[bool]:
    """Runs in a child: without cuts it would end the process."""
    del talk
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        vocab = model.vocab
        texts = [(run * 30_000)[:30_000] for run in RUNS]
        return [vocab.detokenize(vocab.tokenize(text)) == text for text in texts]


@pytest.mark.parametrize("pre", ["deepseek-llm", "tekken", "gpt-4o", "bloom", "gpt-2", "unheard"])
def test_a_run_of_thirty_thousand_characters_ends_no_process(tmp_path: Path, pre: str):
    path = write_bpe(tmp_path / "bpe.gguf", pre if pre != "unheard" else "default")
    with Child(tokenize_runs, path) as child:
        assert child.wait(60.0) == [True] * len(RUNS)


def test_a_long_word_has_the_tokens_of_its_parts_in_one_frame(fragile: Path):
    with Model.load(fragile, ModelOptions(vocab_only=True)) as model:
        vocab = model.vocab
        half = "ab" * (MAX_WORD // 2)
        tokens = vocab.tokenize(half + half + " end", add_special=True)
        assert tokens == [
            257,
            *vocab.tokenize(half),
            *vocab.tokenize(half),
            *vocab.tokenize(" end"),
            256,
        ]
        assert vocab.tokenize("ab end", add_special=True)[0] == 257


def test_a_control_token_within_a_long_word_is_not_cut(fragile: Path):
    with Model.load(fragile, ModelOptions(vocab_only=True)) as model:
        for n_before in range(MAX_WORD - len(END), MAX_WORD + 2):
            text = "a" * n_before + END + "b" * MAX_WORD
            tokens = model.vocab.tokenize(text, parse_special=True)
            assert tokens.count(256) == 1
            assert model.vocab.detokenize(tokens, special=True) == text


def test_a_sturdy_vocabulary_is_given_the_text_as_it_is(smollm2: Path):
    with Model.load(smollm2, ModelOptions(vocab_only=True)) as model:
        assert model.vocab._long_words is None


@given(st.text(st.sampled_from("ab \n<|end>"), max_size=60), st.integers(1, 30))
def test_the_parts_join_to_the_text_and_no_word_is_long(text: str, n: int):
    whole = text * n + "x" * (n * 100) + END * n
    parts = LongWords([END, "", "<"]).cut(whole)
    assert "".join(parts) == whole
    assert not any(len(word) > MAX_WORD for part in parts for word in part.split())
    assert all(parts)
    assert sum(part.count(END) for part in parts) == whole.count(END)
