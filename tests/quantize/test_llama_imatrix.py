"""Against llama.cpp's own tools, built from the sources of the installed library."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmedge.core.progress import SilentProgress
from llmedge.gguf.imatrix_file import read_imatrix, read_sums
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.measure.calibration import CalibrationOptions
from llmedge.quantize.imatrix import ImatrixOptions, collect_imatrix, join_imatrices
from llmedge.runtime.quantizer import Quantizer, QuantizerOptions
from tests.llama_tools import run_tool
from tests.quantize.collecting import make_variant
from tests.quantize.test_collect import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings
    from llmedge.gguf.imatrix_file import ImatrixSums

pytestmark = pytest.mark.slow

WORDS = (
    "The ferry left at nine, half empty. On the upper deck a man was selling boiled peanuts out of "
    "a tin drum, and next to him a girl counted the birds on the sandbank: eleven, twelve, then "
    "all of them at once, because a dog had come down to the water. Nobody spoke of the bridge. "
)


def theirs(tools: Path, model: Path, text: Path, target: Path, n_ctx: int) -> ImatrixSums:
    """Run llama-imatrix, one chunk a batch: of several at once it may lose the last rows."""
    batch = ("-c", n_ctx, "-b", n_ctx, "-ub", n_ctx, "-t", 1)
    run_tool(
        *(tools, "llama-imatrix", "-m", model, "-f", text, "-o", target, *batch, "--no-ppl"),
        *("--process-output",),
    )
    return read_sums(target)


def ours(model: Path, text: Path, settings: Settings, n_ctx: int) -> tuple[ImatrixSums, Path]:
    calibration = CalibrationOptions({}, (text,), n_tokens=1 << 20, n_ctx=n_ctx)
    options = ImatrixOptions(calibration, n_threads=1)
    report = collect_imatrix(model, options, settings, SilentProgress())
    return read_sums(report.path), report.path


def assert_equal(mine: ImatrixSums, other: ImatrixSums) -> None:
    """Compare what llama-imatrix has; it leaves out what lies outside the layers."""
    assert mine.entries.keys() >= other.entries.keys()
    for name, entry in other.entries.items():
        found = mine.entries[name]
        assert found.counts.tolist() == entry.counts.tolist(), name
        np.testing.assert_allclose(found.sums, entry.sums, rtol=1e-5, err_msg=name)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number}. {WORDS}" for number in range(16)))
    return path


def test_a_real_model_is_equal(
    llama_tools: Path, smollm2: Path, text: Path, settings: Settings, tmp_path: Path
):
    expected = theirs(llama_tools, smollm2, text, tmp_path / "theirs.gguf", 512)
    mine, path = ours(smollm2, text, settings, 512)
    assert_equal(mine, expected)
    assert mine.entries.keys() - expected.entries.keys() == {"token_embd.weight"}
    assert mine.n_chunks == expected.n_chunks == 2
    # Its own reader finds nothing to complain of.
    flags = ("-m", smollm2, "--in-file", path, "--show-statistics")
    assert "211 tensors" in run_tool(llama_tools, "llama-imatrix", *flags)


def test_many_tokens_in_small_batches_are_equal(
    llama_tools: Path, gemma3: Path, settings: Settings, tmp_path: Path
):
    text = tmp_path / "text.txt"
    # One chunk: llama-imatrix replaces each chunk's first token by bos, llmedge puts bos before it.
    text.write_text("".join(f"{number}. {WORDS}" for number in range(15)))
    target = tmp_path / "theirs.gguf"
    flags = ("-c", 512, "-b", 512, "-t", 1, "--chunks", 1, "--no-ppl")
    run_tool(llama_tools, "llama-imatrix", "-m", gemma3, "-f", text, "-o", target, *flags)
    text.write_text("".join(f"{number}. {WORDS}" for number in range(9)))
    mine, _ = ours(gemma3, text, settings, 512)
    assert_equal(mine, read_sums(target))


@pytest.mark.parametrize("name", NAMES)
def test_every_family_of_architectures_is_equal(
    name: str, llama_tools: Path, text: Path, settings: Settings, tmp_path: Path
):
    model = make_variant(name, tmp_path)
    text.write_text(text.read_text()[:900])
    expected = theirs(llama_tools, model, text, tmp_path / "theirs.gguf", 64)
    mine, _ = ours(model, text, settings, 64)
    assert_equal(mine, expected)
    if platform.machine() in ("x86_64", "AMD64"):  # elsewhere a compiler may fuse the addition
        for tensor, entry in expected.entries.items():
            assert (mine.entries[tensor].sums == entry.sums).all()


def test_joined_files_are_equal(
    llama_tools: Path, tiny_model: Path, text: Path, settings: Settings, tmp_path: Path
):
    _, path = ours(tiny_model, text, settings, 64)
    joined = join_imatrices([path, path], tmp_path / "ours.gguf")
    target = tmp_path / "theirs.gguf"
    flags = ("--in-file", f"{path},{path}", "-c", 64, "-b", 64, "-o", target)
    run_tool(llama_tools, "llama-imatrix", "-m", tiny_model, *flags)
    assert joined.n_chunks == read_sums(target).n_chunks
    assert_equal(read_sums(joined.path), read_sums(target))


@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
@pytest.mark.parametrize("mix", ["Q4_0", "IQ4_NL"])
def test_llama_quantize_reads_it_and_writes_the_same_bytes(
    name: str, mix: str, llama_tools: Path, text: Path, settings: Settings, tmp_path: Path
):
    model = make_variant(name, tmp_path)
    _, path = ours(model, text, settings, 64)
    theirs_path, ours_path = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    run_tool(llama_tools, "llama-quantize", "--imatrix", path, model, theirs_path, mix, 1)
    options = QuantizerOptions(find_mix(mix).ftype, n_threads=1, imatrix=path)
    with Quantizer(read_header(model), options) as quantizer:
        quantizer.plan()
        quantizer.run(ours_path, lambda _: None)
    assert tensors(ours_path) == tensors(theirs_path)
    assert read_imatrix(path).weights.keys() == read_sums(path).entries.keys()


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    header, data = read_header(path), path.read_bytes()
    return {
        tensor.name: (tensor.quant_type.name, data[start : start + tensor.n_bytes])
        for tensor in header.tensors
        for start in [header.data_offset + tensor.offset]
    }
