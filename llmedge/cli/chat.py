"""`llmedge chat`."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from llmedge.cli import output
from llmedge.cli.options import ModelArgument, RunFlags, SamplingFlags, grouped, model_path
from llmedge.core.errors import UsageError

_MAX_QUESTION_CHARS = 1 << 20


@grouped
def chat_command(
    model: ModelArgument,
    system: Annotated[str, typer.Option(help="System prompt.", show_default=False)] = "",
    *,
    run: RunFlags,
    sampling: SamplingFlags,
) -> None:
    """Talk to a model; a question from a pipe is answered once."""
    from llmedge.chat.conversation import Conversation, converse, open_context
    from llmedge.core.settings import load_settings

    settings = load_settings()
    context_options = run.context_options(settings.threads)
    terminal = _Terminal()
    with open_context(model_path(model), run.model_options(), context_options, settings) as context:
        question, options = _piped_question(), sampling.generation_options()
        with contextlib.closing(Conversation(context, options, system)) as conversation:
            if question is None:
                output.note(f"{context.model.description}, {context.n_ctx} tokens; /help helps")
                converse(conversation, terminal)
            else:
                conversation.answer(question, terminal)


def _piped_question() -> str | None:
    """Return what a pipe brings, or `None` on a terminal.

    Raises:
        UsageError: The pipe brings nothing, or no end.
    """
    if sys.stdin.isatty():
        return None
    question = sys.stdin.read(_MAX_QUESTION_CHARS).strip("\0 \t\r\n")
    if len(question) >= _MAX_QUESTION_CHARS:
        raise UsageError(f"the question on stdin has more than {_MAX_QUESTION_CHARS} characters")
    if not question:
        raise UsageError("the question on stdin is empty", "echo 'a question' | llmedge chat MODEL")
    return question


class _Terminal:
    """The terminal of this process."""

    def __init__(self) -> None:
        if sys.stdin.isatty() and sys.platform != "win32":
            import readline  # gives `input` its history and editing

            readline.set_auto_history(True)

    def read_line(self, prompt: str) -> str | None:
        """Read a line; `None` at the end of the input."""
        try:
            return input(prompt)
        except EOFError:
            return None

    def write(self, text: str) -> None:
        """Show a part of the answer."""
        output.write(text)

    def note(self, text: str) -> None:
        """Show a remark."""
        output.note(text)
