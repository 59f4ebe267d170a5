"""A conversation with a model in the terminal: history, commands, multi-line input.

Knows the terminal only as the `Terminal` protocol.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llmedge.core.errors import ContextLengthError, InterruptedByUser, Terminated, UsageError
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.first_load import ensure_loads, require_text
from llmedge.runtime.generation import GenerationOptions, GenerationReport, TextGenerator
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from llmedge.core.settings import Settings

HELP = """\
/system TEXT   set the system prompt and start over (no TEXT: show it)
/reset         forget the conversation
/stats         speed of the last answer, and how full the context is
/help          this list
/bye           leave (Ctrl-D does, too)
\"\"\"            begins and ends a message of several lines; a \\ at a line's end goes on, too
Ctrl-C         stops the answer"""

_FENCE = '"""'


class Terminal(Protocol):
    """Where the conversation takes place."""

    def read_line(self, prompt: str) -> str | None:
        """Read a line without its end; `None` when there are no more."""
        ...

    def write(self, text: str) -> None:
        """Show a part of the answer at once, as it is."""
        ...

    def note(self, text: str) -> None:
        """Show a remark that is not part of the answer."""
        ...


@dataclass(slots=True)
class Conversation:
    """The messages so far and the model that answers.

    Attributes:
        context: Used by this conversation alone.
        options: How answers are generated.
        system: The system prompt, "" for none.
    """

    context: Context
    options: GenerationOptions
    system: str = ""
    _turns: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    _generator: TextGenerator = field(init=False)
    _template: ChatTemplate = field(init=False)

    def __post_init__(self) -> None:
        """Compile the template and allocate the batch.

        Raises:
            UnsupportedError: The model has no chat template.
        """
        self._template = ChatTemplate.of_model(self.context.model)
        self._generator = TextGenerator(self.context)

    @property
    def report(self) -> GenerationReport | None:
        """What the last answer took."""
        return self._generator.report

    def answer(self, question: str, terminal: Terminal) -> None:
        """Ask, and show the answer as it comes; an interrupt keeps what was said so far.

        Raises:
            InterruptedByUser: The answer was interrupted.
            ContextLengthError: The conversation has outgrown the context; the question is taken
                back.
        """
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self._turns, {"role": "user", "content": question}]
        prompt = self._template.tokenize(self.context.model, messages)
        said: list[str] = []
        try:
            for text in self._generator.generate(prompt, self.options):
                said.append(text)
                terminal.write(text)
        finally:
            if said:
                terminal.write("\n")
                self._turns += [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": "".join(said)},
                ]

    def reset(self) -> None:
        """Forget the messages."""
        self._turns.clear()

    def stats(self) -> str:
        """Describe the last answer's speed and how full the context is."""
        report = self.report
        if report is None:
            return "nothing was generated yet"
        used = self.context.next_position()
        return (
            f"prompt: {report.n_prompt} tokens, {report.n_cached} of them cached, "
            f"{report.pp_tokens_per_s:.1f} tokens/s · "
            f"answer: {report.n_generated} tokens, {report.tg_tokens_per_s:.1f} tokens/s · "
            f"context: {used} of {self.context.n_ctx}"
        )

    def close(self) -> None:
        """Free the batch."""
        self._generator.close()


def converse(conversation: Conversation, terminal: Terminal) -> None:
    """Read questions and commands until the input ends or `/bye`."""
    while (line := _read_message(terminal)) is not None:
        text = line.strip()
        if text == "/bye":
            return
        try:
            if text.startswith("/"):
                _run_command(text, conversation, terminal)
            elif text:
                conversation.answer(text, terminal)
        except Terminated:
            raise
        except InterruptedByUser:
            terminal.note("(stopped)")
        except ContextLengthError as error:
            terminal.note(f"{error.message}. /reset starts over.")
        except UsageError as error:
            terminal.note(error.message)


def _run_command(text: str, conversation: Conversation, terminal: Terminal) -> None:
    command, _, argument = text.partition(" ")
    if command == "/system":
        if argument.strip():
            conversation.system = argument.strip()
            conversation.reset()
        terminal.note(f"system prompt: {conversation.system or '(none)'}")
    elif command == "/reset":
        conversation.reset()
        terminal.note("the conversation is forgotten")
    elif command == "/stats":
        terminal.note(conversation.stats())
    elif command in ("/help", "/?"):
        terminal.note(HELP)
    else:
        terminal.note(f"unknown command {command}; /help lists them")


def _read_message(terminal: Terminal) -> str | None:
    """Read one message, which may span lines; `None` at the end of the input."""
    line = terminal.read_line("> ")
    if line is None:
        return None
    if line.strip().startswith(_FENCE):
        return _read_fenced(line.strip().removeprefix(_FENCE), terminal)
    lines: list[str] = []
    while line is not None and line.endswith("\\"):
        lines.append(line[:-1])
        line = terminal.read_line("… ")
    return "\n".join([*lines, line or ""])


def _read_fenced(first: str, terminal: Terminal) -> str:
    lines: list[str] = []
    line: str | None = first
    while line is not None:
        if line.rstrip().endswith(_FENCE):
            lines.append(line.rstrip().removesuffix(_FENCE))
            break
        lines.append(line)
        line = terminal.read_line("… ")
    return "\n".join(lines).strip("\n")


@contextlib.contextmanager
def open_context(
    path: Path, model: ModelOptions, options: ContextOptions, settings: Settings
) -> Generator[Context]:
    """Load a model to talk to.

    Raises:
        IntegrityError: The file is damaged.
        ResourceError: The memory is not there.
    """
    require_text(ensure_loads(path, settings.state_dir))
    with Model.load(path, model) as loaded, Context(loaded, options) as context:
        yield context
