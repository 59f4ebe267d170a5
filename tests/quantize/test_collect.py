from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.gguf.imatrix_file import read_sums, write_imatrix
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import EMBEDDING, is_quantizable, role_of
from llmedge.measure.calibration import CalibrationChunk, Selection
from llmedge.quantize.collect import OUTPUTS, CollectJob, compute
from tests.convert import cases, parity
from tests.convert.cases import CASES
from tests.quantize.collecting import assert_same, collect, make_variant, random_chunks

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.imatrix_file import ImatrixSums

# The first case of each family, which is a file of cases, and one of each odd kind.
FAMILIES = {name.removeprefix("cases_"): getattr(cases, name) for name in dir(cases)}
NAMES = sorted(
    {
        module.CASES[0].name
        for module in FAMILIES.values()
        if getattr(module, "__name__", "").startswith("tests.convert.cases_")
    }
    | {"gemma-embedding", "gemma3n", "gemma4-moe", "mixtral", "qwen3-next", "mamba2", "jamba"}
)
ENCODERS = {"bert", "gemma-embedding"}


def selection(chunks: list[list[int]]) -> Selection:
    return Selection(tuple(CalibrationChunk("any", tuple(chunk)) for chunk in chunks), ())


def run(path: Path, chunks: list[list[int]], folder: Path) -> tuple[ImatrixSums, list[int]]:
    said: list[int] = []
    job = CollectJob(read_header(path), folder / "imatrix.gguf", folder / "unfinished", 1, 0.0)
    compute(path, selection(chunks), job, said.append)
    job.unfinished.unlink(missing_ok=True)
    return read_sums(job.target), said


def test_there_is_a_case_of_every_family():
    assert len(NAMES) > 30
    assert {case.name for case in CASES} >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_every_family_sees_every_token_and_the_output_need_not_be_computed(
    name: str, tmp_path: Path
):
    path = make_variant(name, tmp_path)
    chunks = random_chunks()
    whole, _ = collect(path, chunks)
    short, stops_early = collect(path, chunks, unneeded=OUTPUTS)
    assert stops_early == (name not in ENCODERS)
    assert_same(short, whole)
    header = read_header(path)
    unseen = {
        tensor.name
        for tensor in header.tensors
        if is_quantizable(tensor.name, tensor.shape, header.architecture)
        and role_of(tensor.name) != EMBEDDING
    } - whole.entries.keys()
    # Layers of Gemma 3n that take keys and values from another have some that are never used.
    assert all(name == "gemma3n" and ".attn_" in unused for unused in unseen)
    for tensor_name, entry in whole.entries.items():
        per_expert = "_exps." in tensor_name
        assert entry.counts.sum() % 96 == 0
        assert entry.counts.min() >= (0 if per_expert else 96)


@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "deepseek-3", "gemma3", "falcon-h1"])
def test_parts_of_a_chunk_give_what_the_whole_gives(name: str, tmp_path: Path):
    path = make_variant(name, tmp_path)
    whole, _ = collect(path, random_chunks(), unneeded=OUTPUTS)
    # 48 tokens in batches of 20, 20 and 8: fewer rows than llama.cpp's own tool counts.
    parts, _ = collect(path, random_chunks(), unneeded=OUTPUTS, n_rows=20)
    assert_same(parts, whole, rtol=1e-6)


def test_a_run_writes_the_file_and_says_how_far_it_is(tmp_path: Path):
    path = make_variant("llama", tmp_path)
    sums, said = run(path, random_chunks(), tmp_path)
    assert said == [0, 1, 2]
    assert (sums.datasets, sums.n_chunks, sums.chunk_tokens) == (("any",), 2, 48)
    expected, _ = collect(path, random_chunks())
    assert_same(sums, expected, rtol=1e-2)  # here the kv cache is F16


def test_an_encoder_sees_each_chunk_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = make_variant("gemma-embedding", tmp_path)
    whole, _ = run(path, random_chunks(), tmp_path)
    monkeypatch.setattr("llmedge.quantize.collect.rows_at_once", lambda *_: 20)
    parts, _ = run(path, random_chunks(), tmp_path)
    assert_same(parts, whole)


def test_the_logits_of_a_large_vocabulary_are_never_all_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = make_variant("llama", tmp_path)
    whole, _ = run(path, random_chunks(), tmp_path)
    sizes: list[int] = []

    def rows_at_once(n_vocab: int, n_ctx: int) -> int:
        sizes.append(n_vocab)
        return 20

    monkeypatch.setattr("llmedge.quantize.collect.rows_at_once", rows_at_once)
    parts, _ = run(path, random_chunks(), tmp_path)
    assert sizes == [parity.N_VOCAB]
    assert_same(parts, whole, rtol=1e-6)


def test_a_run_goes_on_from_what_was_kept_to_the_same_bytes(tmp_path: Path):
    path = make_variant("mixtral", tmp_path)
    chunks = [chunk for n in (40, 41) for chunk in random_chunks(n)[:1] * 3]
    chunks = [chunk[:40] for chunk in chunks]
    run(path, chunks, tmp_path)
    expected = (tmp_path / "imatrix.gguf").read_bytes()
    run(path, chunks[:4], tmp_path)
    (tmp_path / "imatrix.gguf").rename(tmp_path / "unfinished")
    _, said = run(path, chunks, tmp_path)
    assert said == [4, 5, 6]
    assert (tmp_path / "imatrix.gguf").read_bytes() == expected


@pytest.mark.parametrize("damage", ["empty", "truncated", "other model", "too many chunks"])
def test_what_was_kept_and_does_not_fit_is_begun_anew(damage: str, tmp_path: Path):
    path = make_variant("llama", tmp_path)
    sums, _ = run(path, random_chunks(), tmp_path)
    expected = (tmp_path / "imatrix.gguf").read_bytes()
    kept = tmp_path / "unfinished"
    if damage == "other model":
        entries = dict(sums.entries)
        entries["blk.0.other.weight"] = entries.pop("blk.0.attn_q.weight")
        write_imatrix(kept, type(sums)((), 1, 48, entries))
    elif damage == "too many chunks":
        write_imatrix(kept, type(sums)((), 3, 48, sums.entries))
    else:
        kept.write_bytes(expected[: 0 if damage == "empty" else len(expected) // 2])
    _, said = run(path, random_chunks(), tmp_path)
    assert said == [0, 1, 2]
    assert (tmp_path / "imatrix.gguf").read_bytes() == expected
