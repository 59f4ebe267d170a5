from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from llmedge.core.errors import ContextLengthError, UnsupportedError, UsageError
from llmedge.engine.clerk import Clerk
from llmedge.engine.engine import AdapterInfo
from llmedge.engine.generation import ChatPrompt, Generation, TextPrompt
from llmedge.engine.messages import PieceList, Pieces, Render, Text, Tokenize
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model
from tests.gguf_files import write_tiny_model


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


def test_texts_and_pairs_are_tokens_that_fit_or_are_refused_with_the_counts(clerk: Clerk):
    (text, tokens) = clerk.texts(["ab", [5, 6, 7]])
    assert (len(text), tokens) == (3, [5, 6, 7])
    (pair,) = clerk.pairs("ab", ["c"])
    assert [token - 3 for token in pair[1:]] == list(b"abc")
    with pytest.raises(ContextLengthError, match="text 1 has 300 tokens, the context holds 256"):
        clerk.texts(["a", [5] * 300])
    with pytest.raises(ContextLengthError, match="document 0 with the query has 403 tokens"):
        clerk.pairs("ab", ["c" * 400])
    for wrong in ([], [259 + 9]):
        with pytest.raises(UsageError):
            clerk.texts([wrong])


def test_a_models_own_form_of_pairs_is_kept_whatever_the_texts_say(tmp_path: Path):
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_string("tokenizer.chat_template.rerank", "Q:{query} D:{document}.")

    path = write_tiny_model(tmp_path / "pairs.gguf", change=change)
    with Model.load(path) as model, Context(model, ContextOptions(n_ctx=256)) as context:
        (pair,) = Clerk(context).pairs("{document}", ["{query}"])
        assert model.vocab.detokenize(pair) == "Q:{document} D:{query}."


def test_adapters_are_found_by_name_and_number_and_put_in_order(tiny_model: Path):
    loaded = (AdapterInfo("a"), AdapterInfo("b", 0.5), AdapterInfo("c", 0.0))
    with Model.load(tiny_model) as model, Context(model, ContextOptions(n_ctx=256)) as context:
        clerk = Clerk(context, loaded)

        def chosen(*wanted: tuple[str | int, float]) -> object:
            request = Generation(TextPrompt("x"), adapters=wanted)
            return clerk.prepare(request).adapters

        assert chosen() == (("a", 1.0), ("b", 0.5))
        assert chosen((2, 1.5), ("a", -1.0)) == (("a", -1.0), ("c", 1.5))
        assert chosen(("a", 0.0)) == ()
        for wrong in (3, -1, "d"):
            with pytest.raises(UnsupportedError, match=r"0 \(a\), 1 \(b\), 2 \(c\)"):
                chosen((wrong, 1.0))
        with pytest.raises(UsageError, match="twice"):
            chosen(("a", 1.0), (0, 1.0))
        with pytest.raises(UsageError, match="scale"):
            chosen(("a", 101.0))
