"""Cuts words that are so long that a pre-tokenizer of llama.cpp would end the process on them.

Many pre-tokenizers are expressions for std::regex, which goes some calls deeper with each character
that a match takes, until the stack ends and with it the process.
"""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Any

from llmedge.runtime.library import library

if TYPE_CHECKING:
    from collections.abc import Iterable

# No language writes words of so many characters. Those that write no spaces lose at most one merge
# of two tokens at each cut.
MAX_WORD = 800
_LONG = re.compile(rf"\S{{{MAX_WORD + 1},}}|\s{{{MAX_WORD + 1},}}")
_BPE = 2  # Source: include/llama.h `enum llama_vocab_type`; the others use no expressions
# Pre-tokenizers for which llama.cpp has code of its own, or expressions whose matches are short:
# each was given runs of 30,000 letters, digits, signs and spaces. The others end a process with a
# stack of 8 MiB between 16,000 and 30,000; one of 1 MiB would end after an eighth of that.
_STURDY = frozenset(
    {
        *("a.x-4.0", "chameleon", "chatglm-bpe", "codeshell", "command-r", "dbrx"),
        *("deepseek-r1-qwen", "exaone", "exaone4", "f2llmv2", "falcon-h1", "falcon3", "gemma4"),
        *("gigachat", "glm4", "glm5", "gpt-2", "granite-docling", "granite-embed-multi-311m"),
        *("grok-2", "hunyuan", "jais", "jina-de", "jina-es", "jina-v1-en", "jina-v2-code"),
        *("jina-v2-de", "jina-v2-es", "jina-v5-nano", "kimi-k2", "kormo", "laguna", "lfm2"),
        *("llama-bpe", "llama-v3", "llama3", "megrez", "mellum", "mellum2", "midm-2.0"),
        *("minerva-7b", "modern-bert", "mpt", "olmo", "phi-2", "pixtral", "qwen2", "qwen35"),
        *("refact", "roberta-bpe", "sarvam-moe", "smaug-bpe", "smollm", "solar-open"),
        *("stablelm2", "starcoder", "trillion"),
    }
)


def is_fragile(model: Any, vocab: Any) -> bool:
    """Whether a vocabulary's pre-tokenizer may end the process on a long word.

    Args:
        model: Pointer to the model.
        vocab: Pointer to its vocabulary.
    """
    lib = library()
    if lib.llama_vocab_type(vocab) != _BPE:
        return False
    buffer = ctypes.create_string_buffer(64)
    lib.llama_model_meta_val_str(model, b"tokenizer.ggml.pre", buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") not in _STURDY


class LongWords:
    """Cuts texts within their long words.

    Args:
        specials: Texts of tokens that are read as such wherever they stand; none is cut.
    """

    def __init__(self, specials: Iterable[str]) -> None:
        longest_first = sorted({text for text in specials if text}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def cut(self, text: str) -> list[str]:
        """Return the parts of a text; joined they are the text again."""
        cuts = [0]
        for long in _LONG.finditer(text):
            cuts += self._cuts(text, long.start(), long.end())
        return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]

    def _cuts(self, text: str, start: int, end: int) -> Iterable[int]:
        """Yield where to cut one word: every so many characters, or before a special token there.

        Special tokens count: whether one is read as such is the caller's choice.
        """
        at = start + MAX_WORD
        for special in self._special.finditer(text, start, end):
            while at <= special.start():
                yield at
                at += MAX_WORD
            if at < special.end():
                yield special.start()
                at = max(special.start() + MAX_WORD, special.end())
        yield from range(at, end, MAX_WORD)
