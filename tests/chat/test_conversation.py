from pathlib import Path

import pytest

from llmedge.chat.conversation import HELP, Conversation, converse, open_context
from llmedge.core.errors import InterruptedByUser, Terminated, UnsupportedError
from llmedge.core.settings import Settings
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.generation import GenerationOptions
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.sampler import SamplingOptions
from tests.fakes import FakeTerminal
from tests.gguf_files import write_tiny_model

GREEDY = GenerationOptions(max_tokens=24, sampling=SamplingOptions(temperature=0))


@pytest.fixture
def conversation(context: Context):
    conversation = Conversation(context, GREEDY)
    yield conversation
    conversation.close()


def talk(conversation: Conversation, *lines: str) -> FakeTerminal:
    terminal = FakeTerminal(list(lines))
    converse(conversation, terminal)
    return terminal


def test_a_question_is_answered(conversation: Conversation):
    terminal = talk(conversation, "What is the capital of India?")
    assert "New Delhi" in terminal.written
    assert terminal.written.endswith("\n")


def test_the_conversation_is_remembered_and_not_computed_again(conversation: Conversation):
    talk(conversation, "My name is Savitri.", "What is my name?")
    report = conversation.report
    assert report is not None
    assert report.n_cached > report.n_prompt / 2
    assert len(conversation._turns) == 4


def test_reset_forgets(conversation: Conversation):
    terminal = talk(conversation, "My name is Savitri.", "/reset", "/stats")
    assert conversation._turns == []
    assert "the conversation is forgotten" in terminal.notes


def test_a_system_prompt_starts_over_and_is_shown(conversation: Conversation):
    terminal = talk(conversation, "Hello", "/system Answer in French.", "/system")
    assert conversation.system == "Answer in French."
    assert conversation._turns == []
    assert terminal.notes[-1] == "system prompt: Answer in French."


def test_stats_tell_the_last_answers_speed(conversation: Conversation):
    terminal = talk(conversation, "/stats", "Hello", "/stats")
    assert terminal.notes[0] == "nothing was generated yet"
    assert "tokens/s" in terminal.notes[1]
    assert "of 1024" in terminal.notes[1]


def test_help_lists_every_command(conversation: Conversation):
    assert talk(conversation, "/help").notes == [HELP]
    for command in ("/system", "/reset", "/stats", "/bye"):
        assert command in HELP


def test_an_unknown_command_is_no_question(conversation: Conversation):
    terminal = talk(conversation, "/sytem x")
    assert "unknown command /sytem" in terminal.notes[0]
    assert terminal.written == ""


def test_bye_leaves_the_rest_unread(conversation: Conversation):
    terminal = talk(conversation, "/bye", "Hello")
    assert terminal.lines == ["Hello"]


def test_empty_lines_are_no_questions(conversation: Conversation):
    assert talk(conversation, "", "   ").written == ""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['"""', "two", "lines", '"""'], "two\nlines"),
        (['"""two', 'lines"""'], "two\nlines"),
        (["two\\", "lines"], "two\nlines"),
        (['"""', "no end"], "no end"),
        (["ends with\\"], "ends with"),
    ],
)
def test_messages_may_have_several_lines(conversation, monkeypatch, lines: list[str], message: str):
    asked: list[str] = []
    monkeypatch.setattr(Conversation, "answer", lambda self, text, terminal: asked.append(text))
    talk(conversation, *lines)
    assert asked == [message]


def test_a_question_longer_than_the_context_is_taken_back(conversation: Conversation):
    terminal = talk(conversation, "word " * 2000)
    assert "/reset starts over" in terminal.notes[0]
    assert conversation._turns == []


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(conversation: Conversation):
    class Impatient(FakeTerminal):
        is_raised = False

        def write(self, text: str) -> None:
            super().write(text)
            if len(self.written) > 10 and not self.is_raised:
                self.is_raised = True
                raise InterruptedByUser("stopped")

    terminal = Impatient(["Tell me a story.", "/bye"])
    converse(conversation, terminal)
    assert terminal.notes == ["(stopped)"]
    assert conversation._turns[-1]["role"] == "assistant"
    assert conversation._turns[-1]["content"].strip() in terminal.written


def test_a_kill_ends_the_conversation(conversation: Conversation):
    class Killed(FakeTerminal):
        def write(self, text: str) -> None:
            super().write(text)
            if not self.notes and len(self.written) > 10:
                self.notes.append("killed")
                raise Terminated("stopped by SIGTERM")

    with pytest.raises(Terminated):
        converse(conversation, Killed(["Tell me a story.", "Another."]))


def test_a_model_without_a_template_cannot_chat(tmp_path: Path, settings: Settings):
    path = write_tiny_model(
        tmp_path / "base.gguf", change=lambda w: w.kv_data[0].pop("tokenizer.chat_template")
    )
    with (
        Model.load(path) as model,
        Context(model, ContextOptions(n_ctx=256)) as context,
        pytest.raises(UnsupportedError, match="no chat template"),
    ):
        Conversation(context, GREEDY)


def test_a_context_is_opened_and_closed(tiny_model: Path, settings: Settings):
    with open_context(tiny_model, ModelOptions(), ContextOptions(n_ctx=256), settings) as context:
        assert context.n_ctx == 256
    assert context.is_closed
