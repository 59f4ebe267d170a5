"""What llmedge's own llama.cpp makes of a vocabulary: special tokens, the template's, a text's."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import LlmedgeError
from llmedge.measure.corpus import file_corpus, read_chunks
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.vocab_file import ask_vocab

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmedge.runtime.model import Model

_SILENCE_S = 300.0
_SLOWEST_BYTES_PER_S = 1e5
_N_CHUNK = 4096
_USER = {"role": "user", "content": "1"}
CONVERSATIONS = (
    [_USER],
    [{"role": "system", "content": "1"}, _USER, {"role": "assistant", "content": "1"}, _USER],
)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found.

    Attributes:
        roles: The special tokens in force, by their keys in the metadata.
        special: Tokens that do not show in a text, or end a generation.
        template: Tokens of the chat template and of what it renders.
        used: Tokens of the given texts; `None` without any.
    """

    roles: dict[str, int]
    special: array[int]
    template: array[int]
    used: array[int] | None


def survey_vocabulary(path: Path, texts: Sequence[Path]) -> Survey:
    """Look at a model's vocabulary, in a child process.

    Args:
        path: The model.
        texts: UTF-8 texts whose tokens are wanted.

    Raises:
        NotFoundError: A text is not there.
        UsageError: A text is not UTF-8, or too short.
        UnsupportedError: llama.cpp refuses the vocabulary, crashes on it or hangs.
    """
    n_bytes = sum(file_corpus(text).path.stat().st_size for text in texts)
    silence_s = _SILENCE_S + n_bytes / _SLOWEST_BYTES_PER_S
    return ask_vocab(path, _survey, list(texts), silence_s=silence_s)


def _survey(model: Model, texts: list[Path]) -> Survey:
    """Run in the child."""
    vocab = model.vocab
    special = (
        token
        for token in range(vocab.n_tokens)
        if vocab.is_end(token) or (not vocab.piece(token) and vocab.piece(token, special=True))
    )
    return Survey(
        vocab.roles,
        array("i", special),
        array("i", _template_tokens(model)),
        _used_tokens(model, texts) if texts else None,
    )


def _template_tokens(model: Model) -> set[int]:
    source = model.header.text("tokenizer.chat_template") or ""
    tokens = set(model.vocab.tokenize(source, parse_special=True))
    for prompt in render_conversations(model):
        tokens.update(model.vocab.tokenize(prompt, parse_special=True))
    return tokens


def render_conversations(model: Model) -> list[str]:
    """Return short conversations as the chat template renders them; those it refuses are left out.

    Run in a child: the template comes with the model.
    """
    prompts: list[str] = []
    for messages in CONVERSATIONS:
        try:
            prompts.append(ChatTemplate.of_model(model).render(messages))
        except LlmedgeError:  # there is none, it is broken, or it knows no such role
            continue
    return prompts


def _used_tokens(model: Model, texts: list[Path]) -> array[int]:
    used: set[int] = set()
    for text in texts:
        corpus = file_corpus(text)
        for chunk in read_chunks(corpus, model.vocab.tokenize, n_ctx=_N_CHUNK, bos=None):
            used.update(chunk)
    return array("i", sorted(used))
