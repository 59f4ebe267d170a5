import csv
import io
from pathlib import Path

import pytest

from llmedge.measure.corpus import KINDS, UDHR_LANGUAGES

SHORT = ("--ctx", 64, "--chunks", 1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The cat sat on the mat and looked at the dog. " * 30, encoding="utf-8")
    return path


def table(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output)))


def test_there_is_a_row_a_model_and_text(cli, smollm2: Path, text: Path):
    result = cli("evaluate", smollm2, "--reference", smollm2, "--text", text, *SHORT)
    assert result.code == 0
    header, row = result.out.splitlines()
    assert header.split()[:2] == ["model", "text"]
    assert "100.0%" in row
    assert "text.txt" in row


def test_several_texts_have_a_mean_row(cli, tiny_model: Path):
    result = cli(
        "evaluate", tiny_model, "--reference", tiny_model, "--lang", "hi, en", *SHORT,
        "--format", "csv",
    )  # fmt: skip
    rows = table(result.out)
    assert [row["text"] for row in rows] == ["hi", "en", "mean"]
    assert rows[2]["size"] == rows[0]["size"]
    assert rows[2]["KLD"] == "0.0000"
    assert rows[2]["perplexity"] == ""
    # A byte a token: Devanagari takes three a letter.
    assert float(rows[0]["tokens/word"]) > 2 * float(rows[1]["tokens/word"])
    assert "words/s" not in rows[0]


def test_every_statistic_is_shown_on_demand(cli, tiny_model: Path):
    result = cli(
        "evaluate", tiny_model, "--reference", tiny_model, *SHORT, "--details", "--format", "csv"
    )
    (row,) = table(result.out)
    assert row["positions"] == "31"
    for heading in ("median", "99%", "99.9%", "max", "top-5", "RMS Δp", "ln ratio", "bytes/token"):
        assert row[heading]
    assert row["bytes/token"] == "1.00"


def test_the_document_carries_every_figure(cli, tiny_model: Path):
    arguments = ("evaluate", tiny_model, "--reference", tiny_model, *SHORT, "--json")
    document = cli(*arguments).json
    assert document["schema"] == "llmedge.evaluate/1"
    (result,) = document["results"]  # type: ignore[misc]
    assert result["text"] == "en"
    assert result["divergence"]["top5_agreement"] == 1.0
    assert result["divergence"]["perplexity_ratio"] == 1.0
    assert result["fertility"]["text"] == "udhr:en"
    assert result["fertility"]["tokens_per_word"] > 5
    assert result["words_per_s"] is None


def test_a_reference_by_name_is_the_largest_variant_and_named(cli, tiny_model: Path):
    made = cli("quantize", tiny_model, "--no-imatrix", "-t", "Q4_K_M", "-t", "Q8_0")
    assert made.code == 0
    result = cli("evaluate", "tiny", "tiny:Q8_0", "--reference", "tiny", *SHORT)
    assert result.code == 0
    assert "tiny is tiny:Q8_0 here: the largest variant" in result.err
    assert result.err.count("is the reference itself: it loses nothing") == 1
    assert "tiny:Q4_K_M" in result.out


def test_a_checkpoint_is_no_reference_and_it_is_said_how_to_make_one(
    cli, tiny_model: Path, tmp_path: Path
):
    folder = tmp_path / "My Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    result = cli("evaluate", tiny_model, "--reference", folder)
    assert result.code == 2
    assert "My Model is a checkpoint" in result.err
    assert f"llmedge convert {folder} -t BF16; then it is my-model:BF16" in result.err


def test_all_shipped_texts_are_one_word(cli, tiny_model: Path):
    for texts, names in (
        ("heldout", list(KINDS)),
        ("udhr", [f"udhr:{language}" for language in UDHR_LANGUAGES]),
    ):
        result = cli(
            "evaluate", tiny_model, "--reference", tiny_model, "--lang", "all", "--texts", texts,
            *SHORT, "--format", "csv",
        )  # fmt: skip
        assert [row["text"] for row in table(result.out)] == [*names, "mean"]


def test_a_base_file_is_left_and_used(cli, tiny_model: Path, tmp_path: Path):
    base = tmp_path / "english.kld"
    arguments = ("evaluate", tiny_model, "--reference", tiny_model, "--save-base", base)
    assert cli(*arguments, "--ctx", 64, "--chunks", 4).code == 0
    result = cli("evaluate", tiny_model, "--base", base, "--details", "--format", "csv")
    (row,) = table(result.out)
    assert (row["text"], row["positions"]) == ("english", "124")
    assert "tokens/word" not in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one reference"),
        (["--reference", "MODEL", "--base", "x.kld"], "one reference"),
        (["--base", "x.kld", "--save-base", "y.kld"], "needs the reference itself"),
        (["--base", "x.kld", "--lang", "hi"], "no place for shipped texts"),
        (["--base", "x.kld", "--text", "a.txt"], "its own text"),
        (["--base", "x.kld", "--ctx", "512"], "its own text"),
        (["--reference", "MODEL", "--text", "a.txt", "--lang", "hi"], "no place for shipped"),
        (["--reference", "MODEL", "--text", "a.txt", "--texts", "udhr"], "no place for shipped"),
        (["--reference", "MODEL", "--lang", "hi,xx"], "'xx'"),
        (["--reference", "MODEL", "--lang", "or", "--texts", "udhr"], "'or'"),
        (["--reference", "MODEL", "--lang", "hi,en", "--save-base", "y.kld"], "one text, not 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    cli, tiny_model: Path, arguments: list[str], message: str, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    named = [str(tiny_model) if part == "MODEL" else part for part in arguments]
    result = cli("evaluate", tiny_model, *named)
    assert result.code == 2
    assert message in result.err
    assert list(tmp_path.glob("*.kld")) == []


def test_a_base_file_that_is_none_is_refused(cli, tiny_model: Path, text: Path):
    result = cli("evaluate", tiny_model, "--base", text)
    assert result.code == 6
    assert "no sound KL base file" in result.err
    assert cli("evaluate", tiny_model, "--base", "none.kld").code == 3
