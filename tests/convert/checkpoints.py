"""Checkpoints with small tokenizers, trained on the spot; no weights."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from llmedge.measure.sentences import read_sentences

if TYPE_CHECKING:
    from pathlib import Path

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = CL100K.replace("{1,3}", "")
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_CASED_END = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = "|".join(
    (*(f"{part}(?i:'s|'t|'re|'ve|'m|'ll|'d)?" for part in _CASED), r"\p{N}{1,3}", _CASED_END)
)
CONFIG = {"bos_token": "<s>", "eos_token": "</s>"}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def texts(*kinds: str) -> list[str]:
    return [sentence.text for sentence in read_sentences(kinds or None)]


def save(folder: Path, tokenizer: Tokenizer | dict[str, Any], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, Tokenizer):
        tokenizer = json.loads(tokenizer.to_str())
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", CONFIG | config)
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def read_tokenizer(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def cut(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Cut by a pattern, then by bytes: Llama 3's way and that of most others."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def gpt2(*, digits: bool = False) -> pre_tokenizers.PreTokenizer:
    """Cut as GPT-2 does; with `digits` as StarCoder and SmolLM do."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if not digits:
        return byte_level
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


def byte_level(
    folder: Path,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    *,
    normalizer: normalizers.Normalizer | None = None,
    ignore_merges: bool = False,
    n_tokens: int = 2000,
    **config: Any,
) -> Path:
    """Train a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=["<s>", "</s>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return save(folder, tokenizer, **config)


def spm(folder: Path, *, prefix: bool = True, n_tokens: int = 2000) -> Path:
    """Train a BPE tokenizer with byte fallback: Llama 2's with `prefix`, Gemma's without."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        limit_alphabet=400,
        special_tokens=["<unk>", "<s>", "</s>", *BYTES],
        show_progress=False,
    )
    lines = [line for text in texts() for line in text.split("\n")]
    tokenizer.train_from_iterator(lines, trainer)
    space = normalizers.Replace(" ", "▁")
    before = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, space])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    value = json.loads(tokenizer.to_str())
    value["pre_tokenizer"] = None
    value["added_tokens"] = [
        token for token in value["added_tokens"] if token["content"] not in BYTES
    ]
    return save(folder, value)


def unigram(folder: Path, *, n_tokens: int = 4000) -> Path:
    """Train a unigram tokenizer in the shape of XLM-RoBERTa, with a small compiled normalizer."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=n_tokens,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    value = json.loads(tokenizer.to_str())
    spaces = dict.fromkeys(filter(str.isspace, map(chr, range(0x3001))), " ")
    charsmap = base64.b64encode(compile_charsmap(spaces)).decode()
    value["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    return save(folder, value, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")


def compile_charsmap(rules: dict[str, str]) -> bytes:
    """Compile rules as SentencePiece does: a double array over UTF-8, then the texts.

    Each node of the trie gets a block of 256 units for its children; unit 0 of it is its value.

    Source: darts-clone's unit layout: label in bits 0-7, leaf in bit 8, offset from bit 10 on.
    """
    replacements = b"".join(text.encode() + b"\0" for text in rules.values())
    blocks = {b"": 1}
    for key in rules:
        data = key.encode()
        for end in range(1, len(data) + 1):
            blocks.setdefault(data[:end], len(blocks) + 1)
    units = [0] * (256 * (len(blocks) + 1))
    units[0] = 256 << 10
    for prefix, block in blocks.items():
        if prefix:
            at = 256 * blocks[prefix[:-1]] + prefix[-1]
            units[at] = prefix[-1] | (at ^ 256 * block) << 10
    place = 0
    for key, text in rules.items():
        data = key.encode()
        units[256 * blocks[data[:-1]] + data[-1]] |= 1 << 8
        units[256 * blocks[data]] = 1 << 31 | place
        place += len(text.encode()) + 1
    array = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(array)) + array + replacements


def wordpiece(folder: Path, *, lowercase: bool, n_tokens: int = 6000) -> Path:
    """Train a WordPiece tokenizer in the shape of BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=n_tokens,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
    config = {f"{role}_token": text for role, text in names.items()}
    return save(folder, tokenizer, bos_token=None, eos_token=None, **config)


def sentencepiece(value: dict[str, Any], *, prefix: bool = True) -> bytes:
    """Write a BPE tokenizer.json as a tokenizer.model, scored by its merges."""
    vocab: dict[str, int] = value["model"]["vocab"]
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(value["model"]["merges"]):
        scores.setdefault(left + right, float(-rank))
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3} | dict.fromkeys(BYTES, 6)
    data = b""
    for text in sorted(vocab, key=vocab.__getitem__):
        score = struct.pack("<f", scores.get(text, -1e6))
        piece = field(1, text.encode()) + b"\x15" + score + field(3, kinds.get(text, 1))
        data += field(1, piece)
    data += field(2, field(3, 2) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2))
    return data + field(3, field(3, int(prefix)) + field(4, 0))


def field(number: int, value: int | bytes) -> bytes:
    """Encode one field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    parts = b""
    while value > 0x7F:
        parts += bytes([value & 0x7F | 0x80])
        value >>= 7
    return parts + bytes([value])
