import pytest

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.gguf.reader import read_header
from llmedge.measure.calibration import CalibrationOptions, draw
from llmedge.measure.corpus import Conversation, file_corpus, shipped_corpus
from llmedge.measure.model_text import ModelText
from llmedge.quantize.judge import judged_kinds
from llmedge.runtime.model import Model, ModelOptions
from tests.gguf_files import replace_value, write_tiny_model

VOCAB_ONLY = ModelOptions(vocab_only=True)
TURNS = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"})


@pytest.fixture
def text(tiny_model):
    with Model.load(tiny_model, VOCAB_ONLY) as model:
        yield ModelText(model)


def as_text(model_text: ModelText, tokens) -> str:
    return bytes(token - 3 for token in tokens if 3 <= token < 259).decode()


def test_conversations_are_in_the_models_template(text):
    tokens = text.chat(Conversation("en", TURNS))
    assert as_text(text, tokens) == "<user>hi\n<assistant>yes\n"


def test_chunks_begin_with_bos(text, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("word " * 100)
    chunks = list(text.chunks(file_corpus(path), 64))
    assert all(chunk[0] == 1 for chunk in chunks)


def test_a_language_takes_its_own_conversations_only(text):
    corpus = shipped_corpus("chat")
    hindi = [token for chunk in text.chunks(corpus, 256, language="hi") for token in chunk]
    everything = [token for chunk in text.chunks(corpus, 256) for token in chunk]
    assert 100 < len(hindi) < len(everything) / 4


def test_a_template_without_a_system_turn_gets_it_with_the_first_question(smollm2, monkeypatch):
    with Model.load(smollm2, VOCAB_ONLY) as model:
        text = ModelText(model)
        plain = text.chat(Conversation("en", TURNS))

        def refuse(messages, **options):
            if messages[0]["role"] == "system":
                raise UsageError("no system turn here")
            return render(messages, **options)

        render = text._template.render
        monkeypatch.setattr(text._template, "render", refuse)
        system = {"role": "system", "content": "be short"}
        tokens = text.chat(Conversation("en", (system, *TURNS)))
        assert "be short\n\nhi" in model.vocab.detokenize(tokens)
        assert len(tokens) > len(plain)


def test_a_model_without_a_template_refuses_conversations(gemma3):
    with Model.load(gemma3, VOCAB_ONLY) as model:
        text = ModelText(model)
        if text.can_chat:
            pytest.fail("the embedded Gemma has no chat template")
        with pytest.raises(UnsupportedError, match="no chat template"):
            text.chat(Conversation("en", TURNS))
        with pytest.raises(UsageError, match="conversations"):
            list(text.chunks(shipped_corpus("chat"), 64))


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages[9].content.x }}"])
def test_a_broken_template_is_an_error_for_conversations_and_for_nothing_else(
    tmp_path, template: str
):
    path = write_tiny_model(
        tmp_path / "broken.gguf",
        change=lambda writer: replace_value(writer, "tokenizer.chat_template", template),
    )
    with Model.load(path, VOCAB_ONLY) as model:
        text = ModelText(model)
        assert list(text.chunks(shipped_corpus("en"), 64))
        with pytest.raises(IntegrityError, match="chat template"):
            list(text.chunks(shipped_corpus("chat"), 64))
        both = draw(text, CalibrationOptions({"en": 1, "chat": 1}, n_tokens=640, n_ctx=64))
        assert both.shares.keys() == {"en"}
        assert both.notes[0].startswith("chat is left out: the model's chat template")
        with pytest.raises(IntegrityError, match="chat template") as caught:
            draw(text, CalibrationOptions({"chat": 1}, n_tokens=640, n_ctx=64))
        assert "--calibration-weights en=1" in caught.value.hint
    assert judged_kinds(read_header(path), {"en": 1, "chat": 1}) == {"en": 1}
