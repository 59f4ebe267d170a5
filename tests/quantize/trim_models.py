"""Small real models with vocabularies of several scripts, to trim."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from llmedge.gguf.entries import Entries
from llmedge.gguf.reader import read_header
from llmedge.quantize.trim_vocabulary import Vocabulary, read_vocabulary
from tests.gguf_files import CHAT_TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

N_EMBD, N_FF = 64, 96
LATIN = ("the", "milk", "phone", "water", "question", "answer", "morning", "user", "assistant")
DEVANAGARI = ("सुबह", "दूध", "किताब", "सवाल", "जवाब", "पानी", "मोबाइल", "क्षत्रिय")
CYRILLIC = ("молоко", "телефон", "вопрос", "ответ", "утро", "книга", "вода", "деревня", "погода")
HAN = ("牛奶", "电话", "问题", "回答", "早上", "书", "水", "村庄", "天气")
WORDS = (*LATIN, *DEVANAGARI, *CYRILLIC, *HAN, "дж2", "2014", "₹500", "xпривет")
UNLIKELY = -60.0


@dataclass
class Tokens:
    """A vocabulary as it goes into a file."""

    texts: list[str] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)

    def add(self, text: str, kind: int = gguf.TokenType.NORMAL) -> None:
        if text not in self.texts:
            self.texts.append(text)
            self.kinds.append(kind)

    def merge(self, left: str, right: str) -> str:
        if f"{left} {right}" not in self.merges:
            self.merges.append(f"{left} {right}")
        self.add(left + right)
        return left + right


def alphabet() -> list[str]:
    """Return the character of each byte, as byte-level BPE writes it."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b if b in printable else 0x100 + others.index(b)) for b in range(256)]


def byte_level_tokens(words: Iterable[str] = WORDS) -> Tokens:
    """Merge the bytes of every character, and the characters of every word from the left."""
    tokens, letters = Tokens(), alphabet()
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        tokens.add(name, gguf.TokenType.CONTROL)
    for letter in letters:
        tokens.add(letter)
    for word in (form for plain in words for form in (plain, f" {plain}")):
        characters: list[str] = []
        for char in word:
            spelt = [letters[byte] for byte in char.encode()]
            whole = spelt[0]
            for letter in spelt[1:]:
                whole = tokens.merge(whole, letter)
            characters.append(whole)
        whole = characters[0]
        for char in characters[1:]:
            whole = tokens.merge(whole, char)
    return tokens


def write_byte_level(
    path: Path,
    *,
    words: Iterable[str] = WORDS,
    unlikely: Iterable[str] = (*CYRILLIC, *HAN, "жи"),
    change: Callable[[gguf.GGUFWriter], None] | None = None,
    pre: str = "qwen2",
) -> Path:
    """Write a qwen2 with random weights, where characters of `unlikely` have no probability."""
    tokens = byte_level_tokens(words)
    writer = _writer(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    _add_tokens(writer, tokens)
    writer.add_token_merges(tokens.merges)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    n_vocab, rare = len(tokens.texts), set("".join(unlikely))
    random = np.random.default_rng(0)
    _add_layer(writer, n_vocab, random)
    for name in ("attn_q", "attn_k", "attn_v"):
        writer.add_tensor(f"blk.0.{name}.bias", np.zeros(N_EMBD, dtype=np.float32))
    _add_quantized(writer, "output.weight", _matrix(random, n_vocab, N_EMBD))
    byte_of = {letter: byte for byte, letter in enumerate(alphabet())}
    bias = np.zeros(n_vocab, dtype=np.float32)
    for token, text in enumerate(tokens.texts):
        if all(char in byte_of for char in text):
            shown = bytes(byte_of[char] for char in text).decode("utf-8", "ignore")
            bias[token] = UNLIKELY if rare & set(shown) else 0.0
    writer.add_tensor("output.bias", bias)
    return _finish(writer, path, change)


def write_by_score(path: Path, *, change: Callable[[gguf.GGUFWriter], None] | None = None) -> Path:
    """Write a llama with random weights and tied embeddings that cuts texts by score."""
    tokens = Tokens()
    tokens.add("<unk>", gguf.TokenType.UNKNOWN)
    for name in ("<s>", "</s>"):
        tokens.add(name, gguf.TokenType.CONTROL)
    for byte in range(256):
        tokens.add(f"<0x{byte:02X}>", gguf.TokenType.BYTE)
    tokens.add("\n", gguf.TokenType.USER_DEFINED)
    for word in WORDS:
        for end in range(2, len(word) + 2):
            tokens.add(f"▁{word}"[:end])
    for char in dict.fromkeys("▁" + "".join(WORDS) + "abcdefghijklmnopqrstuvwxyz"):
        tokens.add(char)
    writer = _writer(path, "llama")
    writer.add_tokenizer_model("llama")
    _add_tokens(writer, tokens)
    writer.add_token_scores([-float(place) for place in range(len(tokens.texts))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    _add_layer(writer, len(tokens.texts), np.random.default_rng(1))
    return _finish(writer, path, change)


def vocabulary_of(path: Path) -> Vocabulary:
    """Read the vocabulary of a file."""
    header = read_header(path)
    return read_vocabulary(header, Entries(header))


def _writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Babel")
    writer.add_context_length(1024)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(1)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // 2)
    writer.add_chat_template(CHAT_TEMPLATE)
    return writer


def _add_tokens(writer: gguf.GGUFWriter, tokens: Tokens) -> None:
    writer.add_vocab_size(len(tokens.texts))
    writer.add_token_list(tokens.texts)
    writer.add_token_types(tokens.kinds)


def _add_layer(writer: gguf.GGUFWriter, n_vocab: int, random: np.random.Generator) -> None:
    _add_quantized(writer, "token_embd.weight", _matrix(random, n_vocab, N_EMBD))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", _matrix(random, N_EMBD, N_EMBD))
    for name, n_out, n_in in (
        ("ffn_gate", N_FF, N_EMBD),
        ("ffn_up", N_FF, N_EMBD),
        ("ffn_down", N_EMBD, N_FF),
    ):
        writer.add_tensor(f"blk.0.{name}.weight", _matrix(random, n_out, n_in))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(N_EMBD, dtype=np.float32))


def _matrix(random: np.random.Generator, n_out: int, n_in: int) -> Any:
    return (random.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32)


def _add_quantized(writer: gguf.GGUFWriter, name: str, weights: Any) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)


def _finish(
    writer: gguf.GGUFWriter, path: Path, change: Callable[[gguf.GGUFWriter], None] | None
) -> Path:
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
