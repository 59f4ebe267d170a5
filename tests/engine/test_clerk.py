from collections.abc import Iterator
from pathlib import Path

import pytest

from llmedge.core.errors import ContextLengthError, UnsupportedError
from llmedge.engine.clerk import Clerk
from llmedge.engine.generation import ChatPrompt
from llmedge.engine.messages import Embed, PieceList, Pieces, Render, Text, Tokenize
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model


@pytest.fixture
def clerk(tiny_model: Path) -> Iterator[Clerk]:
    with Model.load(tiny_model) as model, Context(model, ContextOptions(n_ctx=256)) as context:
        yield Clerk(context)


def test_a_message_to_go_on_with_keeps_its_spaces_and_loses_the_end_of_its_turn(clerk: Clerk):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]
    closed = clerk.answer(Render(1, ChatPrompt(messages)))
    opened = clerk.answer(Render(2, ChatPrompt(messages, continues=True)))
    assert closed == Text("<user>hi\n<assistant>Well, \n<assistant>")
    assert opened == Text("<user>hi\n<assistant>Well, ")


def test_tokens_have_pieces_that_make_the_text(clerk: Clerk):
    tokens = clerk.answer(Tokenize(1, "नमस्ते", add_special=False, parse_special=False)).value
    pieces = clerk.answer(Pieces(2, tokens))  # type: ignore[arg-type]
    assert isinstance(pieces, PieceList)
    assert b"".join(pieces.value).decode().strip() == "नमस्ते"


def test_a_text_that_no_context_holds_is_not_even_tokenized(clerk: Clerk):
    with pytest.raises(ContextLengthError, match="100000 characters"):
        clerk.answer(Tokenize(1, "x" * 100_000, add_special=True, parse_special=True))


def test_what_the_model_cannot_do_is_said(clerk: Clerk):
    with pytest.raises(UnsupportedError):
        clerk.answer(Embed(1, ["text"]))
