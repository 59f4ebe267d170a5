"""Which of llama.cpp's pre-tokenizers cuts a text as a tokenizer.json does, by its content.

A byte-level BPE tokenizer cuts a text into words before it merges. llama.cpp knows some thirty
ways by name. The name follows from the steps of the pre-tokenizer; that the two cut alike is then
verified with texts, and where no name is known every one is tried.

Source: src/llama-vocab.cpp for the names, tokenizer.json of the families for the patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmedge.convert.tokenizer_files import Step, TokenizerJson

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_CASED_END = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_END}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_END}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_CASED_END}"
TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_CASED_END}"
_HAN_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_SEED = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_EXAONE_MOE = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_MINICPM5 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_END}"
_AYA_DIGITS = r"\d{1,3}(?=(?:\d{3})*\b)"
_BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"

_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")


@dataclass(frozen=True, slots=True)
class PreType:
    """A pre-tokenizer of llama.cpp.

    Attributes:
        name: `tokenizer.ggml.pre`.
        compat: The name that older runtimes know, with what it costs; `None` when it is the same.
    """

    name: str
    compat: str | None = None


@dataclass(frozen=True, slots=True)
class _Rule:
    steps: tuple[str, ...]
    name: str
    ignore_merges: str | None = None
    compat: str | None = None


def _cut(*patterns: str) -> tuple[str, ...]:
    return tuple(f"split {pattern}" for pattern in patterns)


# Llama's marks and vowel signs are letters for llama.cpp's `tekken` and `gpt-4o` nowhere: they cut
# Indic words apart. `granite-embed-multi-97m` has the same pattern with the marks.
_MARKS = "granite-embed-multi-97m"
_RULES = (
    _Rule(_cut(_CL100K), "dbrx", ignore_merges="llama-bpe"),
    _Rule(_cut(_QWEN2), "qwen2"),
    _Rule(_cut(_QWEN35), "qwen35"),
    _Rule(_cut(_GPT2), "gpt-2"),
    _Rule(("digits", *_cut(_GPT2)), "smollm"),
    _Rule(_cut(r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK), "deepseek-v3"),
    _Rule(_cut(TEKKEN), _MARKS, compat="tekken"),
    _Rule(_cut(_O200K), _MARKS, compat="gpt-4o"),
    _Rule(_cut(_AYA_DIGITS, _O200K), "tiny_aya"),
    _Rule(("punctuation Contiguous", *_cut(_GPT2), "numbers", *_cut("[0-9][0-9][0-9]")), "falcon"),
    _Rule(_cut(_BAILING), "bailingmoe"),
    _Rule(_cut(_SEED), "seed-coder"),
    _Rule(_cut(_EXAONE_MOE), "exaone-moe"),
    _Rule(_cut(r"\p{N}{1,3}", _MINICPM5), "minicpm5"),
    _Rule(_cut(_BLOOM), "bloom"),
    _Rule((*_cut(_BLOOM), "digits"), "viking"),
    _Rule(
        (*_cut(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"), "digits"),
        "deepseek-coder",
    ),
)

# One name for each behaviour, the most frequent first.
SEARCH_ORDER = (
    "llama-bpe", "qwen2", "gpt-2", "smollm", "qwen35", _MARKS, "deepseek-v3", "dbrx", "gpt-4o",
    "tekken", "falcon", "tiny_aya", "bloom", "deepseek-llm", "deepseek-coder", "bailingmoe",
    "seed-coder", "exaone-moe", "minicpm5", "viking", "youtu", "jais-2", "ufakzeka", "laguna",
    "afmoe", "spark2_5", "superbpe", "chameleon", "kimi-k2", "default",
)  # fmt: skip


def find_pre_type(tokenizer: TokenizerJson, *, ignore_merges: bool) -> PreType | None:
    """Find the pre-tokenizer of a byte-level BPE tokenizer; `None` when its steps are not known.

    Args:
        tokenizer: The tokenizer.
        ignore_merges: Whether a word that is a token is not merged from its parts.
    """
    return match_steps(canonical_steps(tokenizer.pre_tokenizers()), ignore_merges=ignore_merges)


def match_steps(steps: tuple[str, ...], *, ignore_merges: bool = False) -> PreType | None:
    """Find the pre-tokenizer with these canonical steps."""
    for rule in _RULES:
        if rule.steps == steps:
            name = rule.ignore_merges if ignore_merges and rule.ignore_merges else rule.name
            return PreType(name, rule.compat)
    return None


def canonical_steps(steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Write steps so that two that cut alike are equal, however they are spelt.

    Flags without effect on where a text is cut (offsets, the space before it, which is checked
    with texts) are left out.
    """
    return tuple(text for step in steps for text in _canonical(step))


def canonical_pattern(pattern: str) -> str:
    """Write a regular expression in one of its spellings."""
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
    spelt_out = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    pattern = pattern.replace(f"(?:{spelt_out})", _CONTRACTIONS).replace(spelt_out, _CONTRACTIONS)
    return re.sub(r"\(\?i:('[a-z|']+)\)", _sorted_contractions, pattern)


def _sorted_contractions(match: re.Match[str]) -> str:
    same = sorted(match[1].split("|")) == sorted(_CONTRACTIONS[4:-1].split("|"))
    return _CONTRACTIONS if same else match[0]


def _canonical(step: Step) -> tuple[str, ...]:
    if step.type == "ByteLevel":
        return _cut(_GPT2) if step.use_regex else ()
    if step.type == "Digits":
        return ("digits",) if step.individual_digits else ("numbers",)
    if step.type == "Punctuation":
        return (f"punctuation {step.behavior or 'Isolated'}",)
    if step.type == "Split" and step.pattern is not None:
        return (_canonical_split(step),)
    return (step.type,)


def _canonical_split(step: Step) -> str:
    pattern = step.pattern
    text = canonical_pattern((pattern.regex if pattern else None) or "")
    if pattern is not None and pattern.regex is None:
        text = re.escape(pattern.string or "")
    # What a pattern matches, and what lies between, are words of their own either way.
    if step.behavior == "Isolated" or (step.behavior == "Removed" and step.invert):
        return f"split {text}"
    return f"split {step.behavior} {step.invert} {text}"
