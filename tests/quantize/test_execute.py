import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest

from llmedge.core.errors import (
    IntegrityError,
    InterruptedByUser,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.core.settings import Settings
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.quantize import execute
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions, VariantReport
from llmedge.runtime.quantizer import Quantizer
from llmedge.store.manifest import hash_file, read_manifest
from tests.fakes import RecordingProgress
from tests.gguf_files import write_tiny_model

Q4_0 = find_mix("Q4_0")


@pytest.fixture
def run(settings: Settings, tmp_path: Path):
    def run(source: Path, mix: str = "Q4_0", **options) -> VariantReport:
        options.setdefault("output", tmp_path / "out")
        return quantize(
            source, find_mix(mix), QuantizeOptions(**options), settings, RecordingProgress()
        )

    return run


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize(
    "mix", ["Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q6_K", "Q8_0", "F16"]
)
def test_every_promised_mix_makes_a_variant_that_is_what_it_says(run, tiny_model: Path, mix: str):
    report = run(tiny_model, mix)
    header = read_header(report.path)
    assert report.path.name == f"tiny-{mix}.gguf"
    assert report.file_bytes == report.path.stat().st_size == header.file_bytes
    assert report.tensor_bytes == header.tensor_bytes
    assert report.bits_per_weight == pytest.approx(header.bits_per_weight, abs=1e-4)
    assert report.n_tensors == len(gguf.GGUFReader(report.path).tensors)
    assert report.sha256 == hash_file(report.path)
    base = [tensor for tensor in header.tensors if tensor.quant_type is find_mix(mix).base]
    assert base


def test_the_sidecar_tells_where_a_variant_comes_from(run, tiny_model: Path):
    report = run(tiny_model)
    manifest = read_manifest(report.path)
    assert manifest is not None
    assert (manifest.name, manifest.variant, manifest.architecture) == ("tiny", "Q4_0", "llama")
    assert manifest.source.file == "tiny-F32.gguf"
    assert manifest.source.sha256 == hash_file(tiny_model)
    assert (manifest.file_bytes, manifest.sha256) == (report.file_bytes, report.sha256)
    assert "llama.cpp" in manifest.tools["llama_cpp"]


def test_the_store_is_the_default_place(run, tiny_model: Path, home: Path):
    report = run(tiny_model, output=None)
    assert report.path == home / "models" / "tiny" / "tiny-Q4_0.gguf"


def test_fallbacks_are_grouped_with_an_example(run, smollm2: Path):
    report = run(smollm2, "Q4_K_M", dry_run=True)
    assert report.n_fallbacks == 180
    assert [(group.wanted, group.got, group.n_tensors) for group in report.fallbacks] == [
        ("Q4_K", "Q5_0", 166),
        ("Q6_K", "Q8_0", 14),
    ]
    assert report.fallbacks[0].example == "blk.0.ffn_gate.weight"
    assert report.bits_per_weight == pytest.approx(6.1655)


def test_a_dry_run_writes_nothing_and_is_exact(run, tiny_model: Path, tmp_path: Path):
    planned = run(tiny_model, "Q4_K_M", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert planned.sha256 is None
    real = run(tiny_model, "Q4_K_M")
    assert (planned.tensor_bytes, planned.bits_per_weight, planned.fallbacks) == (
        real.tensor_bytes,
        real.bits_per_weight,
        real.fallbacks,
    )


def test_a_variant_may_have_a_name_of_its_own(run, tiny_model: Path, home: Path):
    report = run(tiny_model, output=None, name="other")
    assert report.path == home / "models" / "other" / "other-Q4_0.gguf"
    manifest = read_manifest(report.path)
    assert (report.name, manifest.name if manifest else None) == ("other", "other")


def test_an_old_sidecar_never_stands_beside_a_new_variant(run, tiny_model: Path, monkeypatch):
    first = run(tiny_model)

    def interrupt(*_: object) -> None:
        raise InterruptedByUser("stopped")

    monkeypatch.setattr(execute, "write_manifest", interrupt)
    with pytest.raises(InterruptedByUser):
        run(tiny_model, overwrite=True)
    assert read_manifest(first.path) is None


def test_progress_counts_the_sources_bytes_up_to_the_end(settings: Settings, tiny_model, tmp_path):
    progress = RecordingProgress()
    quantize(tiny_model, Q4_0, QuantizeOptions(output=tmp_path / "out"), settings, progress)
    total = read_header(tiny_model).tensor_bytes
    done = [completed for name, completed, _ in progress.updates if name == "Q4_0"]
    assert progress.totals["Q4_0"] == total
    assert done == sorted(done)
    assert done[-1] == total
    assert any(note == "blk.0.ffn_down.weight" for _, _, note in progress.updates)


def test_a_quantized_source_needs_a_word(run, smollm2: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"quantized already \(blk.0.ffn_down.weight is Q4_1\)"):
        run(smollm2, "Q4_0")
    assert not (tmp_path / "out").exists()


def test_a_variant_that_exists_needs_a_word(run, tiny_model: Path):
    first = run(tiny_model)
    with pytest.raises(UsageError, match="exists") as caught:
        run(tiny_model)
    assert "--overwrite" in caught.value.hint
    assert run(tiny_model, overwrite=True).sha256 == first.sha256


def test_the_source_is_never_overwritten(run, tmp_path: Path):
    folder = tmp_path / "out"
    folder.mkdir()
    source = write_tiny_model(folder / "tiny-F16.gguf")
    before = source.read_bytes()
    with pytest.raises(UsageError, match="read or written by this very run"):
        run(source, "F16", overwrite=True)
    assert source.read_bytes() == before


def test_too_little_disk_is_refused_before_a_byte_is_written(
    run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("llmedge.host.memory.read_free_disk", lambda _: 1000)
    with pytest.raises(ResourceError, match="are needed"):
        run(tiny_model)
    assert contents(tmp_path / "out") == set()


def test_what_was_not_planned_is_not_kept(
    run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = Quantizer.run

    def run_other(self: Quantizer, target: Path, on_tensor) -> None:
        original(self, target, on_tensor)
        write_tiny_model(target)

    monkeypatch.setattr(Quantizer, "run", run_other)
    with pytest.raises(IntegrityError, match="was planned as Q4_0, the quantizer wrote F32"):
        run(tiny_model)
    assert contents(tmp_path / "out") == set()


def test_missing_damaged_and_split_sources_are_told_apart(run, tmp_path: Path, tiny_copy: Path):
    with pytest.raises(NotFoundError):
        run(tmp_path / "none.gguf")
    split = write_tiny_model(
        tmp_path / "part.gguf", change=lambda w: w.add_uint16("split.count", 2)
    )
    with pytest.raises(UnsupportedError):
        run(split)
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        run(tiny_copy)


def test_an_output_folder_that_is_a_file_is_named(run, tiny_model: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="cannot be made"):
        run(tiny_model, output=tmp_path / "file")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ctrl_c_or_a_kill_leaves_nothing_under_the_final_name(
    smollm2: Path, tmp_path: Path, number: signal.Signals
):
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "llmedge", "quantize", str(smollm2), "-t", "IQ4_NL"]
    command += ["--no-imatrix"]
    command += ["-o", str(folder), "--allow-requantize", "--threads", "1"]
    environ = os.environ | {"LLMEDGE_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(folder.glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert any(folder.glob(".*.partial"))
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert not any(path.suffix == ".gguf" for path in folder.iterdir())
    if number == signal.SIGKILL:
        # The next run into the folder removes what a killed one could not.
        settings = Settings(tmp_path / "home", None, None, tmp_path, has_hf_token=False)
        options = QuantizeOptions(output=folder, allow_requantize=True)
        quantize(smollm2, Q4_0, options, settings, RecordingProgress())
        assert not any(folder.glob(".*.partial"))
    else:
        assert contents(folder) == set()
        assert f"stopped by {number.name}" in stderr


def replace_by_another(path: Path) -> None:
    """Put a model of the same shape and other weights in place, as a download does."""
    write_tiny_model(path.with_name("other.gguf"), seed=1).replace(path)


def test_a_source_that_is_replaced_while_it_is_read_leaves_no_variant(
    run, tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = Quantizer.run

    def run_and_replace(self: Quantizer, target: Path, on_tensor) -> None:
        original(self, target, on_tensor)
        replace_by_another(tiny_copy)

    monkeypatch.setattr(Quantizer, "run", run_and_replace)
    with pytest.raises(IntegrityError, match=r"copy\.gguf changed while it was read"):
        run(tiny_copy)
    assert contents(tmp_path / "out") == set()


def test_a_source_that_is_not_the_file_that_was_measured_is_refused(run, tiny_copy: Path):
    stamp = read_header(tiny_copy).stamp
    run(tiny_copy, stamp=stamp)
    replace_by_another(tiny_copy)
    with pytest.raises(IntegrityError, match="another file than the one that was measured"):
        run(tiny_copy, "Q8_0", stamp=stamp)


@pytest.mark.parametrize("mix", ["F32", "F16", "BF16"])
def test_types_are_refused_where_a_mix_would_ignore_them(run, tiny_model: Path, mix: str):
    with pytest.raises(UsageError, match=f"{mix} keeps every tensor a float") as caught:
        run(tiny_model, mix, types={"blk.0.ffn_down.weight": "Q4_K"})
    assert "-t Q8_0" in caught.value.hint


def test_a_type_that_llama_cpp_would_ignore_is_an_error_and_no_other_variant(
    run, tiny_model: Path, tmp_path: Path
):
    for is_dry in (True, False):
        with pytest.raises(
            UnsupportedError, match=r"output_norm\.weight was to be Q8_0, and .* F32"
        ):
            run(tiny_model, types={"output_norm.weight": "Q8_0"}, dry_run=is_dry)
    assert contents(tmp_path / "out") == set()


def test_no_room_for_a_row_is_refused():
    with pytest.raises(UsageError, match="--max-buffer 0"):
        QuantizeOptions(max_buffer_bytes=0)
