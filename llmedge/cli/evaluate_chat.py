"""`llmedge evaluate --chat`: called by `evaluate`, whose options it shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import RunFlags, ShowFlags
from llmedge.cli.output import Table, make_progress, show_results
from llmedge.core.errors import JudgementError, UsageError
from llmedge.core.units import format_mb

if TYPE_CHECKING:
    from llmedge.evaluate.chat_checks import ChatChecks


@dataclasses.dataclass(frozen=True, slots=True)
class ChatFlags:
    """Whether to ask questions, and what the answers must keep."""

    chat: Annotated[
        bool,
        typer.Option("--chat", help="Ask the shipped questions and check the answers instead."),
    ] = False
    max_tokens: Annotated[int, typer.Option(min=1, help="With --chat: tokens of an answer.")] = 128
    plain: Annotated[
        bool,
        typer.Option("--plain", help="With --chat: ask in plain text, as base models are asked."),
    ] = False
    min_script: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --chat: exit 7 when fewer answers are in the language's script.",
            show_default=False,
        ),
    ] = None

    def refuse_without_chat(self) -> None:
        """Make sure that nothing about questions is said when none are asked.

        Raises:
            UsageError: `--min-script` or `--plain` without `--chat`.
        """
        if self.min_script is not None or self.plain:
            raise UsageError("--min-script and --plain are about questions", "add --chat")


def evaluate_chat(
    paths: Sequence[Path], languages: str, chat: ChatFlags, run: RunFlags, show: ShowFlags
) -> None:
    """Ask, show, judge.

    Args:
        paths: The variants.
        languages: Codes with commas between them, or `all`.
        chat: What to ask for.
        run: How to run the variants.
        show: How to print.

    Raises:
        JudgementError: Fewer answers are in their script than `--min-script` wants.
    """
    from llmedge.core.settings import load_settings
    from llmedge.evaluate.chat_checks import ChatCheckOptions, check_chat
    from llmedge.measure.corpus import LANGUAGES

    settings = load_settings()
    context = run.context_options(settings.threads, default_ctx=1024)
    codes = list(LANGUAGES) if languages == "all" else languages.split(",")
    unique = tuple(dict.fromkeys(code.strip() for code in codes))
    options = ChatCheckOptions(unique, chat.max_tokens, chat.plain, run.model_options(), context)
    results = check_chat(paths, options, settings, make_progress())
    show_results("evaluate-chat", results, _table(results), show.chosen)
    _judge(results, chat.min_script)


def _judge(results: Sequence[ChatChecks], min_script: float | None) -> None:
    failed = [row for row in results if min_script is not None and row.script_share < min_script]
    if failed:
        shares = ", ".join(f"{row.model} {row.language} {row.script_share:.0%}" for row in failed)
        raise JudgementError(
            f"fewer answers than {min_script:.0%} are in the language's script: {shares}",
            "read them with --json; choose another model or a larger variant",
        )


def _table(results: Sequence[ChatChecks]) -> Table:
    columns = "model lang size> answers> chrF> of_echo> script> invalid> repeating> echoes> empty>"
    return Table(
        [name.replace("_", " ") for name in columns.split()],
        [
            (
                result.model,
                result.language,
                format_mb(result.file_bytes),
                str(len(result.answers)),
                f"{result.chrf.score:.1f}",
                f"{result.echo_chrf:.1f}",
                f"{result.script_share:.0%}",
                str(result.n_invalid),
                str(result.n_repeating),
                str(result.n_echoes),
                str(result.n_empty),
            )
            for result in results
        ],
    )
