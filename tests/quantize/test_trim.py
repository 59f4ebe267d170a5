from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from llmedge.core.errors import (
    IntegrityError,
    InterruptedByUser,
    JudgementError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.gguf.entries import Entries
from llmedge.gguf.reader import read_header
from llmedge.quantize import trim as trim_module
from llmedge.quantize import trim_keep
from llmedge.quantize.trim import TrimOptions, TrimReport, trim
from llmedge.runtime.first_load import ensure_loads
from llmedge.store.manifest import hash_file, read_manifest
from tests.fakes import RecordingProgress, works_or_is_refused
from tests.quantize.trim_models import write_by_score, write_byte_level

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings


@pytest.fixture
def run(settings: Settings, tmp_path: Path):
    def run(source: Path, *languages: str, **options) -> TrimReport:
        options.setdefault("folder", tmp_path / "out")
        options.setdefault("has_bench", False)
        options.setdefault("max_chunks", 2)
        chosen = TrimOptions(languages or ("en", "hi"), **options)
        return trim(source, chosen, settings, RecordingProgress())

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_byte_level(tmp_path / "Babel-Q8_0.gguf")


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_trimmed_model_says_what_the_original_says(run, source: Path):
    report = run(source)
    assert (report.before.n_vocab, report.after.n_vocab) == (636, 512)
    assert report.proof is not None
    assert [text.text for text in report.proof.texts] == ["en", "hi"]
    for text in report.proof.texts:
        assert text.n_cut_alike == text.n_paragraphs > 4
        assert text.n_tokens == text.n_tokens_before > 1000
        assert text.loss.max_difference == 0.0
        assert text.loss.n_compared == 1024
        assert text.loss.mean_dropped < 1e-9
    assert report.proof.n_cut_alike == report.proof.n_sentences


def test_a_vocabulary_by_score_is_trimmed_as_well(run, tmp_path: Path):
    source = write_by_score(tmp_path / "Babel.gguf")
    report = run(source, max_dropped=1.0)
    assert report.after.n_vocab < report.before.n_vocab
    assert report.proof is not None
    assert all(text.loss.max_difference == 0.0 for text in report.proof.texts)
    assert report.path.name == "babel-trim-en-hi.gguf"


def test_the_file_is_what_the_report_says(run, source: Path, settings: Settings):
    report = run(source)
    header = ensure_loads(report.path, settings.state_dir)
    assert report.path.name == "babel-Q8_0-trim-en-hi.gguf"
    assert report.after.file_bytes == header.file_bytes
    assert report.after.weights_bytes == header.tensor_bytes
    assert report.before.weights_bytes == read_header(source).tensor_bytes
    assert report.row_bytes == 68 + 68 + 4  # Q8_0 rows of 64 weights, twice, and the bias
    assert report.sha256 == hash_file(report.path)
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert header.number("qwen2.vocab_size") == tokens.length == 512
    assert header.text("general.description") == (
        "Vocabulary trimmed by llmedge from 636 to 512 tokens for en, hi."
    )
    assert header.text("llmedge.trim.source.sha256") == hash_file(source)


def test_ends_and_defaults_are_written_out(run, source: Path):
    """llama.cpp's default `bos` is token 11, whichever that is."""
    old = Entries(read_header(source)).strings("tokenizer.ggml.tokens") or []
    header = read_header(run(source, "hi", max_dropped=1.0).path)
    new = Entries(header).strings("tokenizer.ggml.tokens") or []
    bos = header.number("tokenizer.ggml.bos_token_id")
    assert bos is not None
    assert new[bos] == old[11]
    assert header.number("tokenizer.ggml.eot_token_id") in (0, 2)


def test_the_sidecar_names_what_was_removed(run, source: Path):
    report = run(source, keep_tokens=None)
    manifest = read_manifest(report.path)
    assert manifest is not None
    assert (manifest.name, manifest.variant) == ("babel", "Q8_0-trim-en-hi")
    assert manifest.source.sha256 == hash_file(source)
    assert manifest.arguments["removed"] == "Cyrillic 85, Han 39"
    assert (manifest.file_bytes, manifest.sha256) == (report.after.file_bytes, report.sha256)


def test_the_store_is_the_default_place(run, source: Path, home: Path):
    report = run(source, folder=None)
    assert report.path == home / "models" / "babel" / "babel-Q8_0-trim-en-hi.gguf"


def test_a_dry_run_writes_nothing_and_is_exact(run, source: Path, tmp_path: Path):
    planned = run(source, dry_run=True)
    assert contents(tmp_path / "out") == set()
    assert (planned.proof, planned.sha256) == (None, None)
    real = run(source)
    assert (planned.after, planned.counts, planned.path) == (real.after, real.counts, real.path)


def test_what_the_model_would_miss_is_refused_and_leaves_nothing(run, tmp_path: Path):
    source = write_byte_level(tmp_path / "Babel-Q8_0.gguf", unlikely=())
    with pytest.raises(JudgementError, match=r"of the model's probability .* Cyrillic") as caught:
        run(source)
    assert contents(tmp_path / "out") == set()
    accepted = float(caught.value.hint.rpartition("--max-dropped ")[2])
    assert run(source, max_dropped=accepted).sha256 is not None


def test_a_text_cuts_a_script_down(run, source: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(trim_keep, "ROWS_MULTIPLE", 1)
    text = tmp_path / "text.txt"
    text.write_text("question\n" * 40, encoding="utf-8")
    with pytest.raises(JudgementError, match=r"up to 0\.1% is accepted") as caught:
        run(source, "en", texts=(text,))
    assert caught.value.hint.startswith("give more text, or accept")
    report = run(source, "en", texts=(text,), max_dropped=1.0)
    assert report.variant == "Q8_0-trim-en-text"
    assert report.proof is not None
    (english,) = report.proof.texts
    assert english.n_cut_alike < english.n_paragraphs
    assert english.n_tokens > english.n_tokens_before
    assert english.loss.n_compared > 1000
    assert english.loss.max_difference == 0.0


def test_listed_tokens_stay(run, source: Path, tmp_path: Path):
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("книга\n牛奶\n", encoding="utf-8")
    report = run(source, keep_tokens=tokens, dry_run=True)
    kept = {row.script: row.n_kept for row in report.counts}
    assert kept["Han"] >= 3  # 牛, 奶 and both together
    manifest = read_manifest(run(source, keep_tokens=tokens).path)
    assert manifest is not None
    assert manifest.arguments["keep_tokens"] == "tokens.txt"


def test_both_models_are_measured_in_turns(run, source: Path):
    report = run(source, has_bench=True)
    for model in (report.before, report.after):
        assert model.speed is not None
        assert model.speed.tg_tokens_per_s > 0
        assert model.kv_cache_bytes == 1024 * 2 * 2 * 64


@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight", "output.bias"])
def test_rows_that_do_not_fit_their_tokens_are_refused(run, source: Path, monkeypatch, name: str):
    write_file = trim_module.write_file

    def write_wrongly(header, layout, target, on_bytes) -> None:
        write_file(header, layout, target, on_bytes)
        (tensor,) = [t for t in gguf.GGUFReader(target, "r+").tensors if t.name == name]
        tensor.data[:] = np.roll(tensor.data, 1, axis=0)
        tensor.data.flush()

    monkeypatch.setattr(trim_module, "write_file", write_wrongly)
    with pytest.raises(JudgementError, match="logit differs by"):
        run(source)
    assert not any(path.suffix == ".gguf" for path in (source.parent / "out").iterdir())


def test_a_variant_that_exists_needs_a_word(run, source: Path):
    first = run(source)
    with pytest.raises(UsageError, match="exists"):
        run(source)
    assert run(source, overwrite=True).sha256 == first.sha256


def test_a_trimmed_model_may_be_trimmed_again(run, source: Path):
    first = run(source)
    second = run(first.path, "en", max_dropped=1.0)
    assert second.after.n_vocab < first.after.n_vocab
    assert second.path.name == "babel-q8_0-trim-en-hi-trim-en.gguf"
    header = read_header(second.path)
    assert header.text("llmedge.trim.source.sha256") == first.sha256


def test_a_model_without_other_scripts_has_nothing_to_trim(run, tmp_path: Path):
    source = write_byte_level(tmp_path / "small.gguf", words=("the", "milk"))
    with pytest.raises(UsageError, match="nothing to trim"):
        run(source)


def test_an_old_sidecar_never_stands_beside_a_new_variant(run, source: Path, monkeypatch):
    first = run(source)

    def interrupt(*_: object) -> None:
        raise InterruptedByUser("stopped")

    monkeypatch.setattr(trim_module, "write_manifest", interrupt)
    with pytest.raises(InterruptedByUser):
        run(source, overwrite=True)
    assert read_manifest(first.path) is None


def test_too_little_disk_is_refused_before_a_byte_is_written(run, source, tmp_path, monkeypatch):
    monkeypatch.setattr("llmedge.host.memory.read_free_disk", lambda _: 1000)
    with pytest.raises(ResourceError, match="are needed"):
        run(source)
    assert contents(tmp_path / "out") == set()


@pytest.mark.parametrize("language", ["xx", "", "english"])
def test_a_language_that_is_not_known_is_refused(run, source: Path, language: str):
    with pytest.raises(UsageError, match=repr(language)):
        run(source, language)


def test_models_that_make_embeddings_are_refused(run, tmp_path: Path):
    source = write_byte_level(tmp_path / "b.gguf", change=lambda w: w.add_causal_attention(False))
    with pytest.raises(UnsupportedError, match="makes embeddings"):
        run(source)


def test_unknown_tensors_and_keys_are_refused_before_anything_is_written(run, tmp_path: Path):
    rows = np.zeros((636, 32), np.float32)
    source = write_byte_level(
        tmp_path / "b.gguf", change=lambda w: w.add_tensor("blk.1.nextn.embed_tokens.weight", rows)
    )
    with pytest.raises(UnsupportedError, match="nextn"):
        run(source)
    source = write_byte_level(
        tmp_path / "c.gguf", change=lambda w: w.add_uint32("qwen2.image_token_id", 3)
    )
    with pytest.raises(UnsupportedError, match="image_token_id"):
        run(source)
    assert contents(tmp_path / "out") == set()


def test_progress_ends_with_the_whole_file(source: Path, settings: Settings, tmp_path: Path):
    progress = RecordingProgress()
    options = TrimOptions(("en", "hi"), folder=tmp_path / "out", has_bench=False)
    report = trim(source, options, settings, progress)
    done = [completed for name, completed, _ in progress.updates if name == report.variant]
    assert done == sorted(done)
    assert report.after.file_bytes - 32 < done[-1] <= report.after.file_bytes
    assert progress.totals["comparing on en, hi"] == 2


def test_damaged_headers_are_trimmed_or_refused(run, source: Path):
    whole = source.read_bytes()
    choose = random.Random(7)
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(choose.choice((1, 1, 2, 8))):
            damaged[choose.randrange(read_header_bytes(whole))] = choose.randrange(256)
        path = source.with_name("damaged.gguf")
        path.write_bytes(damaged)
        with works_or_is_refused():
            run(path, dry_run=True)


def read_header_bytes(data: bytes) -> int:
    """Where the metadata's interesting part ends: the long lists are mostly texts."""
    return min(len(data), 20_000)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_under_the_final_name(
    source: Path, tmp_path: Path, number: signal.Signals
):
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "llmedge", "trim", str(source), "--lang", "en,hi"]
    command += ["-o", str(folder), "--threads", "1"]
    environ = os.environ | {"LLMEDGE_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(folder.glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"stopped by {number.name}" in stderr
    assert contents(folder) == set()


@pytest.mark.model
def test_smollm2_without_other_scripts_still_answers(run, smollm2: Path, cli, monkeypatch):
    report = run(smollm2, "en", max_chunks=1)
    assert report.proof is not None
    (english,) = report.proof.texts
    assert english.loss.mean_dropped < 1e-4
    assert english.loss.max_difference == 0.0
    assert report.proof.n_cut_alike == report.proof.n_sentences
    question = "What is the capital of India?"
    monkeypatch.setattr("sys.stdin", io.StringIO(question))
    answer = cli("chat", report.path, "--temperature", "0", "--max-tokens", "20")
    assert "New Delhi" in answer.out


@pytest.mark.slow
def test_gemma_loses_a_third_of_its_vocabulary(run, gemma3: Path):
    with pytest.raises(JudgementError, match="on the text hi"):
        run(gemma3)
    report = run(gemma3, "en")
    assert report.after.n_vocab == 167_424
    assert report.after.file_bytes < 0.75 * report.before.file_bytes
    assert report.proof is not None
    (english,) = report.proof.texts
    assert english.loss.mean_dropped < 1e-4
    assert english.loss.max_difference == 0.0


def test_a_source_that_is_replaced_while_it_is_read_leaves_no_variant(
    run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = trim_module.prove

    def prove_and_replace(*arguments):
        other = tmp_path / "other.gguf"
        other.write_bytes(source.read_bytes())
        other.replace(source)
        return original(*arguments)

    monkeypatch.setattr(trim_module, "prove", prove_and_replace)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        run(source)
    assert contents(tmp_path / "out") == set()
