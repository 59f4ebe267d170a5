"""A GGUF file's vocabulary without its weights: texts to ids, in a process of its own."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from llmedge.host.child import Child, ChildDied, ChildTimedOut
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmedge.host.child import Talk

_SILENCE_S = 300.0


def encode_texts(path: Path, texts: Sequence[str]) -> list[array[int]]:
    """Encode texts, without special tokens around them; `<|im_start|>` and the like are one token.

    Args:
        path: A GGUF file, with or without tensors.
        texts: Any texts.

    Raises:
        UnsupportedError: llama.cpp refuses the vocabulary, crashes on it or hangs.
    """
    with Child(_encode, path, list(texts)) as child:
        try:
            return child.wait(_SILENCE_S)
        except ChildDied as death:
            last = death.stderr.splitlines()[-1:] or ["no message"]
            raise _unusable(f"it ends llama.cpp by {death.cause}: {last[0]}") from None
        except ChildTimedOut:
            raise _unusable(f"llama.cpp hangs on it for {_SILENCE_S:.0f} s") from None
        except IntegrityError as error:
            raise _unusable(error.message) from None


def _unusable(why: str) -> LlmedgeError:
    return UnsupportedError(f"llama.cpp cannot use this vocabulary: {why}")


def _encode(talk: Talk, path: Path, texts: list[str]) -> list[array[int]]:
    """Run in the child."""
    del talk
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        return [array("i", model.vocab.tokenize(text, parse_special=True)) for text in texts]
