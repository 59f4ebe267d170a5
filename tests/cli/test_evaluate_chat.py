"""`llmedge evaluate --chat`."""

from pathlib import Path

import pytest

QUICK = ["--chat", "--max-tokens", 8]


def test_answers_are_shown_a_row_a_variant_and_language(cli, tiny_model: Path):
    result = cli("evaluate", tiny_model, *QUICK, "--lang", "en, hi,en")
    assert result.code == 0, result.err
    header, *rows = result.out.splitlines()
    assert header.split()[:5] == ["model", "lang", "size", "answers", "chrF"]
    assert [row.split()[:2] for row in rows] == [["tiny-F32", "en"], ["tiny-F32", "hi"]]


def test_all_languages_can_be_asked(cli, tiny_model: Path):
    result = cli(
        "evaluate", tiny_model, "--chat", "--max-tokens", 1, "--lang", "all", "--ctx", 2048
    )
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 14


def test_the_document_holds_every_answer(cli, tiny_model: Path):
    document = cli("evaluate", tiny_model, *QUICK, "--json").json
    assert document["schema"] == "llmedge.evaluate-chat/1"
    (result,) = document["results"]
    assert len(result["answers"]) == 8
    assert "nrefs" in result["chrf"]["signature"]


def test_a_gate_judges_after_it_has_shown(cli, tiny_model: Path):
    result = cli("evaluate", tiny_model, *QUICK, "--lang", "ta", "--min-script", 1)
    assert result.code == 7
    assert "tiny-F32  ta" in result.out
    assert "fewer answers than 100% are in the language's script: tiny-F32 ta" in result.err
    assert cli("evaluate", tiny_model, *QUICK, "--lang", "ta", "--min-script", 0).code == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--lang", "xx", *QUICK], "'xx'"),
        (["--min-script", 0.5], "--chat"),
        (["--plain"], "--chat"),
        ([], "compares with one reference"),
        (["--min-script", 2, *QUICK], "--min-script"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli, tiny_model: Path, arguments: list[object], word: str):
    result = cli("evaluate", tiny_model, *arguments)
    assert result.code == 2
    assert word in result.err


def test_without_its_extra_the_line_that_installs_it_is_shown(
    cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("llmedge.core.extras.importlib.util.find_spec", lambda name: None)
    result = cli("evaluate", tiny_model, *QUICK)
    assert result.code == 4
    assert "pip install 'llmedge[quality]'" in result.err


def test_a_model_without_a_template_is_told_how_to_be_asked(cli, gemma3: Path):
    result = cli("evaluate", gemma3, *QUICK)
    assert result.code == 4
    assert "--plain" in result.err
