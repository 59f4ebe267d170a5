import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmedge.cli.output import (
    Table,
    confirm,
    make_progress,
    markdown,
    show_error,
    show_results,
    to_plain,
)
from llmedge.core.errors import NotFoundError


@dataclass
class Inner:
    value: float

    @property
    def doubled(self) -> float:
        return 2 * self.value


@dataclass
class Outer:
    path: Path
    inner: tuple[Inner, ...]
    table: dict[str, Inner]


TABLE = Table(("name", "size>"), [("नाम", "1"), ("b", "20")])
RESULTS = [Inner(1.5), Inner(2.0)]


def test_results_are_plain_json_with_their_properties():
    value = Outer(Path("x/y"), (Inner(1.0),), {"k": Inner(2.0)})
    assert to_plain(value) == {
        "path": "x/y",
        "inner": [{"value": 1.0, "doubled": 2.0}],
        "table": {"k": {"value": 2.0, "doubled": 4.0}},
    }


def test_json_is_one_document_with_a_schema(capsys):
    show_results("bench", RESULTS, TABLE, "json")
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "llmedge.bench/1"
    assert document["results"][0] == {"value": 1.5, "doubled": 3.0}


def test_json_lines_are_one_result_a_line(capsys):
    show_results("bench", RESULTS, TABLE, "jsonl")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["value"] for line in lines] == [1.5, 2.0]


def test_csv_and_markdown_carry_the_tables_cells(capsys):
    show_results("bench", RESULTS, TABLE, "csv")
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["name", "size"],
        ["नाम", "1"],
        ["b", "20"],
    ]
    assert markdown(TABLE) == "| name | size |\n| :-- | --: |\n| नाम | 1 |\n| b | 20 |\n"


def test_a_table_in_a_pipe_is_plain_and_not_cut(capsys):
    wide = Table(("a", "b"), [("x" * 90, "y" * 90)])
    show_results("bench", RESULTS, wide, "table")
    out = capsys.readouterr().out
    assert "x" * 90 in out
    assert "y" * 90 in out
    assert "\x1b" not in out


def test_a_very_wide_table_is_not_cut_either(capsys):
    wide = Table(("a", "b"), [("x" * 400, "y" * 400)])
    show_results("bench", RESULTS, wide, "table")
    assert "x" * 400 + "  " + "y" * 400 in capsys.readouterr().out


def test_control_characters_do_not_reach_the_terminal(capsys):
    show_results("bench", RESULTS, Table(("a",), [("\x1b[31mred\x07",)]), "table")
    show_error(NotFoundError("no \x1b]0;x\x07", "a\x1b"), as_json=False)
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "red" in captured.out


def test_numbers_that_json_has_no_word_for_are_null():
    assert to_plain([float("nan"), float("inf"), 1.0]) == [None, None, 1.0]


def test_a_cell_is_text_and_no_markup(capsys):
    show_results("bench", [], Table(("a",), [("[bold]x[/bold]",)]), "table")
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_an_error_says_what_to_do_next_on_stderr(capsys):
    show_error(NotFoundError("no model 'x'", "llmedge list"), as_json=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: no model 'x'\n hint: llmedge list\n"


def test_an_error_in_json_is_one_document(capsys):
    show_error(NotFoundError("no model 'x'", "llmedge list"), as_json=True)
    assert json.loads(capsys.readouterr().err) == {
        "schema": "llmedge.error/1",
        "message": "no model 'x'",
        "hint": "llmedge list",
        "exit_code": 3,
    }


@pytest.mark.parametrize(
    ("typed", "agreed"), [("y\n", True), ("YES\n", True), ("n\n", False), ("", False)]
)
def test_only_a_yes_is_a_yes(monkeypatch, capsys, typed: str, agreed: bool):
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert confirm("delete?") is agreed
    assert capsys.readouterr().err == "delete? [y/N] "


def test_progress_in_a_pipe_is_a_line_a_task(capsys):
    with make_progress().task("Q4_0", total=10, unit="bytes") as task:
        task.update(5, "half")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Q4_0: done in ")


def test_progress_on_a_terminal_is_a_bar_that_leaves_a_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for unit in ("bytes", "runs"):
        with make_progress().task("Q4_0", total=10, unit=unit) as task:
            task.update(5, "a tensor")
    assert capsys.readouterr().err.count("Q4_0: done in ") == 2
