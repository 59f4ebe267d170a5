"""`llmedge choose`, on real variants of the embedded model."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

QUICK = ["--chunks", 1, "--ctx", 128, "--n-prompt", 16, "--n-gen", 8, "-r", 2, "--threads", 2]


@pytest.fixture
def variants(cli, smollm2: Path) -> list[str]:
    """SmolLM2 in three mixes, in the store."""
    mixes = ("-t", "Q4_0", "-t", "Q4_K_M", "-t", "Q8_0")
    text = ("--calibration", "english", "--calibration-tokens", 1024)
    made = cli("quantize", smollm2, *mixes, *text, "--allow-requantize")
    assert made.code == 0, made.err
    return [f"smollm2-135m-instruct:{mix}" for mix in ("Q4_0", "Q4_K_M", "Q8_0")]


@pytest.mark.model
def test_real_variants_are_drawn_and_one_is_recommended(
    cli, variants: list[str], smollm2: Path, tmp_path: Path
):
    svg = tmp_path / "choice.svg"
    arguments = ["choose", *variants, "--reference", smollm2, *QUICK, "--min-top1", 0.5]
    result = cli(*arguments, "--svg", svg)
    assert result.code == 0, result.err
    assert "mean KL divergence" in result.out
    assert "◆ Q4_K_M" in result.out or "Q4_K_M ◆" in result.out
    assert "recommended, front" in result.out
    assert "the smallest variant with a mean KL divergence of at most 0.1" in result.err
    assert "6 figures were measured now" in result.err
    title = ElementTree.parse(svg).getroot()[0].text
    assert title == "3 variants of SmolLM2-135M-Instruct.Q4_1: loss, size and speed"
    rows = cli(*arguments, "--max-kld", 0.02, "--json").json["results"]
    assert [row["is_recommended"] for row in rows] == [False, False, True]
    assert "at most 0.02" in rows[2]["reason"]
    assert rows[0]["kld"] > rows[1]["kld"] > rows[2]["kld"] > 0
    fast = cli(*arguments, "--max-kld", 9, "--prefer", "speed", "--json")
    best = max(fast.json["results"], key=lambda row: row["bench"]["generation"]["mean"])
    assert best["is_recommended"]


def test_limits_that_nobody_keeps_are_told(cli, tiny_model: Path, tiny_copy: Path):
    result = cli("choose", tiny_copy, "--reference", tiny_model, *QUICK, "--min-top1", 1)
    assert "none of the variants" not in result.err
    assert "if none is that good" not in result.err
    quantized = cli("quantize", tiny_model, "-t", "Q4_0")
    assert quantized.code == 0
    arguments = ("--reference", tiny_model, *QUICK, "--min-top1", 1)
    result = cli("choose", "tiny:Q4_0", tiny_model, *arguments)
    assert result.code == 0
    assert "tiny-F32 is the reference itself" in result.err
    assert "recommended: tiny:Q4_0 (the one with the least KL divergence)" in result.err
    assert "none of the variants is as good as the limits want" in result.err


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "md"])
def test_other_formats_are_not_drawn(cli, tiny_model: Path, tiny_copy: Path, form: str):
    result = cli("choose", tiny_copy, "--reference", tiny_model, *QUICK, "--format", form)
    assert result.code == 0
    assert "◆" not in result.out
    assert "copy" in result.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--svg", "model.gguf"], "model.gguf is not named like a drawing"),
        (["--svg", "no-drawing.svg"], "it is no drawing"),
        (["--lang", "xx"], "'xx'"),
        (["--prefer", "luck"], "luck"),
        (["--min-top1", "2"], "--min-top1"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(
    cli, tiny_model: Path, home: Path, tmp_path: Path, monkeypatch, arguments: list[str], word: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no-drawing.svg").write_text("a model")
    result = cli("choose", tiny_model, "--reference", tiny_model, *arguments)
    assert result.code == 2
    assert (tmp_path / "no-drawing.svg").read_text() == "a model"
    assert word in result.err
    assert not (home / "records").exists()


def test_the_reference_must_be_named(cli, tiny_model: Path):
    result = cli("choose", tiny_model)
    assert result.code == 2
    assert "--reference" in result.err
