"""`llmedge quantize`: what it says and what it refuses."""

from pathlib import Path

import pytest

LITTLE = ("--calibration-tokens", 512)


def test_what_the_importance_matrix_was_computed_on_is_said(cli, tiny_model: Path):
    first = cli("quantize", tiny_model, "-t", "Q4_0", "--lang", "hi", *LITTLE)
    assert first.code == 0
    assert "importance matrix, computed on 512 tokens: hi 512" in first.err
    again = cli("quantize", tiny_model, "-t", "Q4_K_M", "--lang", "hi", *LITTLE)
    assert "importance matrix, computed before on 512 tokens: hi 512" in again.err


def test_plan_and_mix_are_told_apart_and_both_have_a_size(cli, tiny_model: Path):
    result = cli("quantize", tiny_model, "--target-bpw", 5.5, "--lang", "en", *LITTLE)
    assert result.code == 0
    assert "plan for 5.5BPW: done" in result.err
    assert " to compare: done" in result.err
    _, taken, other = result.out.splitlines()
    assert taken.startswith("5.5BPW ")
    assert ", for comparison" in other
    assert other.split("for comparison")[1].split()[1] in ("kB", "MB")


def test_an_estimate_is_called_one(cli, tiny_model: Path):
    arguments = ("--target-size", "100MB", "--lang", "en", *LITTLE, "--dry-run")
    result = cli("quantize", tiny_model, *arguments)
    assert result.code == 0
    assert "~: estimated" in result.err
    assert "100MB: the largest plan is" in result.err
    assert "Q8_0" in result.err


def test_a_mix_that_falls_back_a_lot_is_called_large(cli, smollm2: Path):
    dry = ("--dry-run", "--no-imatrix")
    large = cli("quantize", smollm2, "-t", "Q4_K_M", *dry)
    assert "bits per weight for a mix of 4.5; smaller: -t IQ4_NL" in large.err
    assert "smaller:" not in cli("quantize", smollm2, "-t", "IQ4_NL", *dry).err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lang", "hi", "--no-imatrix"], "none is computed"),
        (["--lang", "hi", "--imatrix", "x.gguf", "-t", "Q4_0"], "none is computed"),
        (["--plan", "plan.json", "--kernels", "arm"], "the plan says the types already"),
        (["--target-size", "95"], "write 95MB"),
        (["--target-bpw", "99"], "a target of 99 bits per weight"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli, tiny_model: Path, arguments, words: str):
    result = cli("quantize", tiny_model, *arguments)
    assert result.code == 2
    assert words in result.err


def test_a_target_that_no_plan_keeps_to_is_refused_before_the_importance_matrix(
    cli, tiny_model: Path, home: Path
):
    result = cli("quantize", tiny_model, "--target-size", "150kB")
    assert result.code == 5
    assert "the smallest plan takes" in result.err
    assert "--target-size" in result.err
    assert not (home / "imatrix").exists()
