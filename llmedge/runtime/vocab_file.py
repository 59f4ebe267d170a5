"""A GGUF file's vocabulary without its weights: texts to ids, in a process of its own."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, TypeVar

from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from llmedge.host.child import Child, ChildDied, ChildTimedOut
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmedge.host.child import Talk

AnswerT = TypeVar("AnswerT")

_SILENCE_S = 300.0


def encode_texts(path: Path, texts: Sequence[str]) -> list[array[int]]:
    """Encode texts, without special tokens around them; `<|im_start|>` and the like are one token.

    Args:
        path: A GGUF file, with or without tensors.
        texts: Any texts.

    Raises:
        UnsupportedError: llama.cpp refuses the vocabulary, crashes on it or hangs.
    """
    return ask_vocab(path, _encode, list(texts))


def ask_vocab(
    path: Path,
    question: Callable[..., AnswerT],
    *arguments: object,
    silence_s: float = _SILENCE_S,
) -> AnswerT:
    """Load a file's vocabulary in a process of its own and ask it something.

    Args:
        path: A GGUF file, with or without tensors.
        question: A module-level function; it is given the model, without weights, and `arguments`.
        arguments: Picklable.
        silence_s: How long the answer may take.

    Raises:
        LlmedgeError: The question raised it.
        UnsupportedError: llama.cpp refuses the vocabulary, crashes on it or hangs.
    """
    with Child(_answer, path, question, arguments) as child:
        try:
            return child.wait(silence_s)
        except ChildDied as death:
            last = death.stderr.splitlines()[-1:] or ["no message"]
            raise _unusable(f"it ends llama.cpp by {death.cause}: {last[0]}") from None
        except ChildTimedOut:
            raise _unusable(f"llama.cpp hangs on it for {silence_s:.0f} s") from None
        except IntegrityError as error:
            raise _unusable(error.message) from None


def _unusable(why: str) -> LlmedgeError:
    return UnsupportedError(f"llama.cpp cannot use this vocabulary: {why}")


def _answer(
    talk: Talk, path: Path, question: Callable[..., AnswerT], arguments: tuple[object, ...]
) -> AnswerT:
    """Run in the child."""
    del talk
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        return question(model, *arguments)


def _encode(model: Model, texts: list[str]) -> list[array[int]]:
    return [array("i", model.vocab.tokenize(text, parse_special=True)) for text in texts]
