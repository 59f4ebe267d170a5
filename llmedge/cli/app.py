"""The command line's commands and its one error boundary."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

import llmedge
from llmedge.cli import (
    bench,
    chat,
    check,
    choose,
    convert,
    demo,
    devices,
    disk,
    doctor,
    evaluate,
    imatrix,
    link,
    list_models,
    output,
    pull,
    quantize,
    recipe,
    remove,
    run,
    serve,
    show,
    trim,
    up,
)
from llmedge.core import interrupts
from llmedge.core.errors import (
    InterruptedByUser,
    LlmedgeError,
    ResourceError,
    Terminated,
    UsageError,
)
from llmedge.host.process import discard_stdout

app = typer.Typer(
    name="llmedge",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    up.up_command,
    run.run_command,
    run.report_command,
    pull.pull_command,
    convert.convert_command,
    imatrix.imatrix_command,
    quantize.quantize_command,
    trim.trim_command,
    evaluate.evaluate_command,
    check.check_command,
    choose.choose_command,
    serve.serve_command,
    chat.chat_command,
    list_models.list_command,
    show.show_command,
    remove.remove_command,
    link.link_command,
    disk.du_command,
    disk.verify_command,
    doctor.doctor_command,
    demo.demo_command,
):
    app.command(command.__name__.removesuffix("_command").replace("remove", "rm"))(command)
app.add_typer(bench.app, name="bench")
app.add_typer(devices.app, name="devices")
app.add_typer(recipe.app, name="recipe")


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it
    if wanted:
        from llmedge.runtime.library import library_info

        info = library_info()
        output.write(
            f"llmedge {llmedge.__version__} "
            f"(llama-cpp-python {info.binding_version}, {info.label})\n"
        )
        raise typer.Exit


@app.callback(invoke_without_command=True)
def llmedge_command(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions."),
    ] = False,
) -> None:
    """Take a language model to the phone or laptop it has to run on."""
    del version
    if context.invoked_subcommand is None:
        output.write(context.get_help() + "\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit with its code.

    Args:
        arguments: Without the program's name; `None` takes the process's.
    """
    chosen = list(sys.argv[1:] if arguments is None else arguments)
    output.prepare_streams()
    line = " ".join(chosen)
    as_json = any(word in line for word in ("--json", "--format json", "--format=json"))
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), _interrupt)
    try:
        _require_text(chosen)
        _prepare_logging()
        code = _run(chosen)
    except LlmedgeError as error:
        if isinstance(error, InterruptedByUser):
            _ignore_interrupts()
        output.show_error(error, as_json=as_json)
        code = error.exit_code
    except BrokenPipeError:  # `llmedge list | head`
        discard_stdout()
        code = 0
    except OSError as error:  # a full disk, a folder that may not be entered, a name too long
        what = error.filename or "the output"
        try:
            sys.stdout.flush()
        except OSError:  # what it still holds would fail once more, with a code of Python's own
            discard_stdout()
        code = ResourceError.exit_code
        hint = "check its permissions and the disk; LLMEDGE_HOME says where llmedge keeps its files"
        output.show_error(
            ResourceError(f"{what}: {error.strerror or error}", hint), as_json=as_json
        )
    sys.exit(code)


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse names that no sidecar, record or JSON could carry."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            shown = argument.encode("utf-8", "replace").decode()
            raise UsageError(
                f"{shown!r} is not UTF-8",
                "rename the file; under another locale, set PYTHONUTF8=1",
            )


def _run(arguments: list[str]) -> int:
    try:
        result: Any = app(args=arguments, prog_name="llmedge", standalone_mode=False)
    except (typer.Exit, typer.Abort) as stop:
        return getattr(stop, "exit_code", 1)
    except SystemExit:  # what Typer makes of a closed pipe
        raise BrokenPipeError from None
    except Exception as error:
        # Typer's usage errors belong to a parser of its own, which is not imported here.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "llmedge"
        raise UsageError(explain().rstrip("."), f"{path} --help") from None
    return result if isinstance(result, int) else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    kind = Terminated if number == signal.SIGTERM else InterruptedByUser
    interrupts.deliver(kind(f"stopped by {signal.Signals(number).name}"))


def _ignore_interrupts() -> None:
    """Let a second signal pass while the first is answered: `timeout` sends two."""
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _prepare_logging() -> None:
    from llmedge.core.settings import load_settings

    level = load_settings().log
    if level is not None:
        logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
