"""The only writer to the terminal: data on stdout, all else on stderr."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import io
import json
import math
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from llmedge.core.units import format_seconds
from llmedge.host.process import open_nothing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from llmedge.cli.options import Format
    from llmedge.core.errors import LlmedgeError
    from llmedge.core.progress import Progress, Task


_MAX_ERROR_CHARS = 3000  # an error may quote a file, and a file may say anything


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Results as text.

    Attributes:
        columns: Headings; one that ends with `>` is aligned to the right.
        rows: As many cells as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def prepare_streams() -> None:
    """Make the streams UTF-8, whatever the system's code page is."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open_nothing(mode))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def write(text: str) -> None:
    """Write text to stdout as it is, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a remark to stderr."""
    sys.stderr.write("\n".join(map(printable, text.split("\n"))) + "\n")
    sys.stderr.flush()


def terminal_width() -> int:
    """Return how many characters fit on a line of stdout; 80 where that is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def show_error(error: LlmedgeError, *, as_json: bool) -> None:
    """Show an error and what to do next, on stderr."""
    if as_json:
        document = {
            "schema": "llmedge.error/1",
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        note(json.dumps(document, ensure_ascii=False))
        return
    console = _console(sys.stderr)
    colored = console.is_terminal and not console.no_color
    for label, code, whole in (("error:", "1;31", error.message), (" hint:", "1;36", error.hint)):
        text = whole if len(whole) <= _MAX_ERROR_CHARS else whole[:_MAX_ERROR_CHARS] + "…"
        if text:
            sys.stderr.write(f"\x1b[{code}m{label}\x1b[0m " if colored else f"{label} ")
            note(text)


def show_results(verb: str, results: Sequence[object], table: Table, form: Format) -> None:
    """Write a command's results to stdout.

    Args:
        verb: The command, for the document's schema.
        results: Dataclasses.
        table: The same for a person.
        form: How to write them.
    """
    if form == "json":
        document = {"schema": f"llmedge.{verb}/1", "results": [to_plain(item) for item in results]}
        write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    elif form == "jsonl":
        write("".join(json.dumps(to_plain(item), ensure_ascii=False) + "\n" for item in results))
    elif form == "csv":
        write(_csv(table))
    elif form == "md":
        write(markdown(table))
    else:
        _write_table(table)


def to_plain(value: object) -> object:
    """Turn dataclasses into JSON's types: their fields and their properties."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        names += [
            name
            for name, member in inspect.getmembers_static(type(value))
            if isinstance(member, property)
        ]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {str(key): to_plain(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return str(value) if isinstance(value, Path) else value


def markdown(table: Table) -> str:
    """Render a table as Markdown."""
    names = [column.removesuffix(">") for column in table.columns]
    rules = ["--:" if column.endswith(">") else ":--" for column in table.columns]
    lines = [names, rules, *table.rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def confirm(question: str) -> bool:
    """Ask on stderr; anything but a yes is a no, and so is the end of the input."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def make_progress() -> Progress:
    """Return a progress for stderr: bars on a terminal, a line a task elsewhere."""
    return _BarProgress() if sys.stderr.isatty() else _LineProgress()


def _write_table(table: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    safe = [[printable(cell) for cell in row] for row in table.rows]
    grid = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in table.columns:
        justify = "right" if column.endswith(">") else "left"
        grid.add_column(column.removesuffix(">"), justify=justify, no_wrap=True, overflow="ignore")
    for row in safe:
        grid.add_row(*(Text(cell) for cell in row))
    # Nothing is cut, neither in a pipe, which has no width, nor on a narrow terminal, which wraps.
    widths = [max(map(len, cells)) + 2 for cells in zip(table.columns, *safe, strict=True)]
    _console(sys.stdout, width=sum(widths)).print(grid)


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.removesuffix(">") for column in table.columns)
    writer.writerows(table.rows)
    return buffer.getvalue()


def printable(text: str) -> str:
    """Replace control characters: what a file or a client says must not steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _console(stream: TextIO, width: int | None = None) -> Console:
    from rich.console import Console as RichConsole

    class PlainConsole(RichConsole):
        def on_broken_pipe(self) -> None:
            """Let `main` decide what a closed pipe means."""
            raise BrokenPipeError

    return PlainConsole(file=stream, width=width, highlight=False, soft_wrap=True)


class _LineTask:
    def update(self, completed: float, note: str = "") -> None:
        """Show nothing until the end."""


class _LineProgress:
    @contextlib.contextmanager
    def task(self, description: str, *, total: float, unit: str) -> Generator[Task]:
        """Say how long a task took, once it is done."""
        del total, unit
        start = time.perf_counter()
        yield _LineTask()
        note(f"{description}: done in {format_seconds(time.perf_counter() - start)}")


class _BarTask:
    def __init__(self, bars: Bars, task_id: TaskID) -> None:
        self._bars, self._task_id = bars, task_id

    def update(self, completed: float, note: str = "") -> None:
        """Move the bar."""
        self._bars.update(self._task_id, completed=completed, note=note[:40])


class _BarProgress:
    @contextlib.contextmanager
    def task(self, description: str, *, total: float, unit: str) -> Generator[Task]:
        """Show a bar; it goes away at the end and leaves a line."""
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        start = time.perf_counter()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=_console(sys.stderr),
            transient=True,
        ) as bars:
            yield _BarTask(bars, bars.add_task(description, total=total, note=""))
        note(f"{description}: done in {format_seconds(time.perf_counter() - start)}")
