"""Our figures beside llama-perplexity's own, digit by digit, each reading the other's base file."""

import math
import re
from pathlib import Path

import pytest

from llmedge.core.settings import Settings
from llmedge.measure.comparison import CompareOptions, compare, compare_with_base
from llmedge.measure.corpus import file_corpus, shipped_corpus
from llmedge.measure.kl_divergence import Divergence
from llmedge.runtime.context import ContextOptions
from tests.fakes import RecordingProgress
from tests.llama_tools import llama_tools, run_tool

__all__ = ["llama_tools"]

pytestmark = pytest.mark.slow
OPTIONS = CompareOptions(max_chunks=3, context=ContextOptions(n_ctx=512))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    parts = (shipped_corpus(language).path.read_text(encoding="utf-8") for language in ("en", "hi"))
    path.write_text("\n\n".join(part[:4000] for part in parts), encoding="utf-8")
    return path


def judge(tools: Path, variant: Path, base: Path) -> dict[str, list[float]]:
    """Return the numbers of each line that the tool prints about a variant."""
    printed = run_tool(
        tools, "llama-perplexity", "-m", variant, "--kl-divergence", "--kl-divergence-base", base,
        "-c", 512, "-b", 512,
    )  # fmt: skip
    number = r"-?\d+\.\d+"
    return {
        " ".join(name.split()): [float(value) for value in re.findall(number, values)]
        for name, values in re.findall(
            rf"^([^:\n]*?)\s*:((?:.*{number}.*))$", printed, re.MULTILINE
        )
    }


def agree(ours: Divergence, theirs: dict[str, list[float]]) -> None:
    """Compare digit by digit: half a unit of the last one that is printed, and rounding."""
    ratio = ours.perplexity_ratio
    for line, expected, digits in (
        ("Mean PPL(Q)", (ours.perplexity, ours.perplexity_error), 6),
        ("Mean PPL(base)", (ours.reference_perplexity, ours.reference_perplexity_error), 6),
        (
            "Mean ln(PPL(Q)/PPL(base))",
            (ours.log_perplexity_ratio, ours.log_perplexity_ratio_error),
            6,
        ),
        ("Mean PPL(Q)/PPL(base)", (ratio, ratio * ours.log_perplexity_ratio_error), 6),
        ("Mean KLD", (ours.mean_kld, ours.mean_kld_error), 6),
        ("Median KLD", (ours.median_kld,), 6),
        ("99.0% KLD", (ours.kld_p99,), 6),
        ("99.9% KLD", (ours.kld_p999,), 6),
        ("Maximum KLD", (ours.max_kld,), 6),
        ("RMS Δp", (100 * ours.rms_delta_p, 100 * ours.rms_delta_p_error), 3),
        ("Same top p", (100 * ours.top1_agreement, 100 * ours.top1_agreement_error), 3),
    ):
        assert theirs[line] == pytest.approx(expected, abs=0.6 * 10**-digits), line


def test_a_base_file_of_the_tool_gives_the_tools_figures(
    smollm2: Path,
    smollm2_q4_0: Path,
    text: Path,
    llama_tools: Path,
    settings: Settings,
    tmp_path: Path,
):
    base = tmp_path / "theirs.kld"
    run_tool(
        llama_tools, "llama-perplexity", "-m", smollm2, "-f", text, "--chunks", 3,
        "-c", 512, "-b", 512, "--save-all-logits", base,
    )  # fmt: skip
    progress = RecordingProgress()
    (found,) = compare_with_base(base, [smollm2_q4_0], OPTIONS, settings, progress).values()
    assert found.divergence.n_tokens == 3 * 255
    agree(found.divergence, judge(llama_tools, smollm2_q4_0, base))


def test_the_tool_reads_our_base_file_and_finds_our_figures(
    smollm2: Path,
    smollm2_q4_0: Path,
    text: Path,
    llama_tools: Path,
    settings: Settings,
    tmp_path: Path,
):
    base, progress = tmp_path / "ours.kld", RecordingProgress()
    arguments = ([smollm2_q4_0], [file_corpus(text)], OPTIONS, settings, progress)
    (live,) = compare(smollm2, *arguments, save_base=base).values()
    theirs = judge(llama_tools, smollm2_q4_0, base)
    (stored,) = compare_with_base(base, [smollm2_q4_0], OPTIONS, settings, progress).values()
    agree(stored.divergence, theirs)
    # Sixteen bits, and what is left out 16 nats below certainty, cost the file some of its truth.
    assert live.divergence.mean_kld == pytest.approx(theirs["Mean KLD"][0], rel=5e-3)
    assert live.divergence.perplexity == pytest.approx(theirs["Mean PPL(Q)"][0], abs=2e-6)


def test_a_large_vocabulary_and_a_model_that_begins_with_bos_agree_as_well(
    gemma3: Path, text: Path, llama_tools: Path, settings: Settings, tmp_path: Path
):
    base = tmp_path / "theirs.kld"
    printed = run_tool(
        llama_tools, "llama-perplexity", "-m", gemma3, "-f", text, "--chunks", 2,
        "-c", 512, "-b", 512, "--save-all-logits", base,
    )  # fmt: skip
    (found,) = compare_with_base(base, [gemma3], OPTIONS, settings, RecordingProgress()).values()
    (perplexity, error), *_ = re.findall(r"PPL = ([\d.]+) \+/- ([\d.]+)", printed)
    assert f"{found.divergence.perplexity:.4f}" == perplexity
    assert found.divergence.perplexity_error == pytest.approx(float(error), abs=1e-4)
    assert math.isclose(found.divergence.mean_kld, 0, abs_tol=1e-5)
    assert found.divergence.top1_agreement == 1.0
