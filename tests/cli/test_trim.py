from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.quantize.trim_models import write_byte_level

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_byte_level(tmp_path / "Babel-Q8_0.gguf")


def test_a_plan_is_shown_by_script(cli, source: Path):
    result = cli("trim", source, "--lang", "en,hi", "--dry-run")
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["script", "kept", "dropped", "saved"]
    assert ["Cyrillic", "38", "85", "11.9", "kB"] in lines
    assert "babel-Q8_0-trim-en-hi.gguf: 636 to 512 tokens" in result.err


def test_scripts_of_few_tokens_are_counted_together(cli, source: Path, monkeypatch):
    monkeypatch.setattr("llmedge.cli.trim._MAX_SCRIPTS", 2)
    result = cli("trim", source, "--lang", "en,hi", "--dry-run", "--format", "csv")
    rows = [line.split(",") for line in result.out.splitlines()[1:]]
    assert len(rows) == 3
    assert re.fullmatch(r"\d+ others", rows[-1][0])
    assert sum(int(row[1]) for row in rows) == 512
    assert sum(int(row[2]) for row in rows) == 636 - 512


def test_before_and_after_are_shown(cli, source: Path):
    result = cli("trim", source, "--lang", "en,hi", "--no-bench", "--format", "csv")
    assert result.code == 0
    head, before, after = result.out.splitlines()
    assert head == ",tokens,file,weights,kv cache"
    assert before.startswith("before,636,")
    assert after.startswith("after,512,")
    assert after.endswith(",0.2 MiB")
    assert re.search(r"hi: (\d+) of \1 paragraphs are cut alike", result.err)
    assert "differ by at most 0 at" in result.err
    listed = cli("list")
    assert "babel:Q8_0-TRIM-EN-HI" in listed.out


def test_json_carries_the_proof(cli, source: Path):
    result = cli("trim", source, "--lang", "hi, en,hi", "--no-bench", "--json", "-o", source.parent)
    document = result.json
    assert document["schema"] == "llmedge.trim/1"
    (report,) = document["results"]  # type: ignore[misc]
    assert report["path"].endswith("babel-Q8_0-trim-hi-en.gguf")
    assert report["scripts"] == ["Devanagari", "Latin"]
    assert [text["text"] for text in report["proof"]["texts"]] == ["hi", "en"]
    assert report["proof"]["texts"][0]["loss"]["max_difference"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--lang", "xx"], 2, "'xx'"),
        (["--lang", ","], 2, "no language is given"),
        ([], 2, "--lang"),
        (["--lang", "en", "--keep-tokens", "no-such.txt"], 3, "no-such.txt"),
        (["--lang", "en", "--text", "no-such.txt"], 3, "no-such.txt"),
        (["--lang", "en", "--max-dropped", "2"], 2, "max-dropped"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli, source: Path, arguments, code: int, words: str):
    result = cli("trim", source, *arguments)
    assert result.code == code
    assert words in result.err


def test_a_refusal_is_a_judgement(cli, tmp_path: Path):
    source = write_byte_level(tmp_path / "Babel-Q8_0.gguf", unlikely=())
    result = cli("trim", source, "--lang", "en,hi", "-o", tmp_path / "out")
    assert result.code == 7
    assert "of the model's probability" in result.err
    assert not any((tmp_path / "out").iterdir())
