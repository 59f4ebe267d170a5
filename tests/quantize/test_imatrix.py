from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from llmedge.core.errors import IntegrityError, ResourceError, UnsupportedError, UsageError
from llmedge.gguf.imatrix_file import (
    ImatrixEntry,
    ImatrixSums,
    read_imatrix,
    read_sums,
    write_imatrix,
)
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.measure.calibration import CalibrationOptions
from llmedge.quantize.imatrix import (
    ImatrixOptions,
    ImatrixReport,
    collect_imatrix,
    copy_imatrix,
    describe_imatrix,
    join_imatrices,
)
from llmedge.runtime.quantizer import Quantizer, QuantizerOptions
from llmedge.store.atomic import require_new
from llmedge.store.manifest import hash_file
from tests.fakes import RecordingProgress, works_or_is_refused
from tests.gguf.imatrix_files import old_imatrix
from tests.gguf_files import replace_value, write_tiny_model
from tests.quantize.collecting import assert_same, make_variant
from tests.runtime.test_first_load import HOSTILE, write_f64_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import gguf

    from llmedge.core.settings import Settings

WORDS = "The heron stood still until the water forgot it, and then it was not still at all. "
N_CTX = 64


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} {WORDS}" for number in range(20)))
    return path


def options(text: Path, n_chunks: int = 4, **calibration) -> ImatrixOptions:
    chosen = CalibrationOptions({}, (text,), n_tokens=n_chunks * N_CTX, n_ctx=N_CTX, **calibration)
    return ImatrixOptions(chosen, n_threads=1, save_every_s=0)


@pytest.fixture
def run(settings: Settings) -> Callable[..., ImatrixReport]:
    def run(source: Path, chosen: ImatrixOptions, progress: RecordingProgress | None = None):
        return collect_imatrix(source, chosen, settings, progress or RecordingProgress())

    return run


def test_a_report_tells_what_was_computed(run, tiny_model: Path, text: Path, home: Path):
    progress = RecordingProgress()
    report = run(tiny_model, options(text), progress)
    assert report.path.parent == home / "imatrix"
    assert report.sha256 == hash_file(report.path)
    assert (report.n_tokens, report.n_chunks, report.shares) == (256, 4, {"text.txt": 256})
    assert (report.datasets, report.notes, report.missing) == (("text.txt",), (), ())
    assert not report.was_cached
    assert report.n_resumed == 0
    assert report.collect_s > 0
    matrices = {t.name for t in read_header(tiny_model).tensors if len(t.shape) > 1}
    assert {tensor.name for tensor in report.coverage} == matrices - {"token_embd.weight"}
    for tensor in report.coverage:
        assert (tensor.n_matrices, tensor.n_hit, tensor.missed) == (1, 1, ())
        assert tensor.min_count == tensor.max_count == 256
    assert [update for update in progress.updates if update[0] == "imatrix"] == [
        ("imatrix", 0, ""),
        *(("imatrix", number, "text.txt") for number in (1, 2, 3, 4)),
    ]


def test_it_is_found_the_next_time(run, tiny_model: Path, text: Path):
    first = run(tiny_model, options(text))
    progress = RecordingProgress()
    second = run(tiny_model, options(text), progress)
    assert second == replace(first, was_cached=True, collect_s=0.0)
    assert progress.totals == {}  # neither hashed nor computed again


def test_what_a_run_that_was_killed_as_it_ended_left_behind_is_removed(
    run, tiny_model: Path, text: Path, home: Path
):
    report = run(tiny_model, options(text))
    left = home / "imatrix" / f".{report.path.name}.unfinished"
    left.write_bytes(report.path.read_bytes())
    run(tiny_model, options(text))
    assert list((home / "imatrix").iterdir()) == [report.path]


def test_another_text_seed_or_model_is_computed_anew(
    run, tiny_model: Path, text: Path, tmp_path: Path
):
    other_model = write_tiny_model(tmp_path / "other.gguf", seed=1)
    paths = {run(tiny_model, options(text)).path, run(other_model, options(text)).path}
    paths.add(run(tiny_model, options(text, n_chunks=5)).path)
    paths.add(run(tiny_model, options(text, seed=1)).path)
    text.write_text(text.read_text().replace("heron", "egret"))
    paths.add(run(tiny_model, options(text)).path)
    assert len(paths) == 5


def test_the_same_weights_under_another_name_are_found(
    run, tiny_model: Path, tiny_copy: Path, text: Path
):
    run(tiny_model, options(text))
    assert run(tiny_copy, options(text)).was_cached


def test_a_damaged_one_in_the_cache_is_computed_again(run, tiny_model: Path, text: Path):
    first = run(tiny_model, options(text))
    data = first.path.read_bytes()
    first.path.write_bytes(data[:-100])
    again = run(tiny_model, options(text))
    assert not again.was_cached
    assert again.path.read_bytes() == data


def test_short_windows_shorten_the_chunks_and_that_is_said(run, tmp_path: Path, text: Path):
    def shorten(writer: gguf.GGUFWriter) -> None:
        replace_value(writer, "llama.context_length", 40)

    report = run(write_tiny_model(tmp_path / "short.gguf", change=shorten), options(text))
    assert report.n_chunks == 256 // 40
    assert report.notes == ("pieces of 40 tokens, not 64: the model reads no more at once",)


def test_tensors_that_no_product_uses_are_named(run, tmp_path: Path, text: Path):
    report = run(make_variant("gemma3n", tmp_path), options(text, n_chunks=1))
    assert report.missing == tuple(
        f"blk.{layer}.attn_{part}.weight" for layer in range(20, 25) for part in ("k", "v")
    )


def test_an_expert_that_no_token_reached_is_named(tmp_path: Path):
    counts = np.array([5, 0, 7, 0])
    name = "blk.1.ffn_up_exps.weight"
    path = tmp_path / "i.gguf"
    entry = ImatrixEntry(np.ones((4, 8), np.float32), counts)
    write_imatrix(path, ImatrixSums(("a",), 1, 12, {name: entry}))
    (tensor,) = describe_imatrix(path).coverage
    assert (tensor.n_matrices, tensor.n_hit, tensor.missed) == (4, 2, (1, 3))
    assert (tensor.min_count, tensor.max_count) == (0, 7)


def test_the_experts_of_a_mixture_are_counted_each(run, tmp_path: Path, text: Path):
    report = run(make_variant("mixtral", tmp_path), options(text))
    experts = [tensor for tensor in report.coverage if "_exps." in tensor.name]
    assert len(experts) == 9
    for tensor in experts:
        assert tensor.n_matrices == 4
        assert tensor.min_count <= 256 * 2 / 4 <= tensor.max_count


def test_the_old_format_is_described_without_tokens(tmp_path: Path):
    path = tmp_path / "i.dat"
    path.write_bytes(old_imatrix({"blk.0.attn_q.weight": (5, [1.0, 2.0])}))
    report = describe_imatrix(path)
    assert (report.n_tokens, report.n_chunks, report.datasets) == (0, 12, ("wiki.txt",))
    assert report.coverage[0].max_count == 5


def test_joining_two_halves_gives_what_one_run_gives(
    run, tiny_model: Path, text: Path, tmp_path: Path
):
    lines = text.read_text()
    middle = 8 * N_CTX - 8  # of bytes, which are tokens; each chunk begins with one of its own
    parts = [lines[:middle], lines[middle:]]
    paths: list[Path] = []
    for number, part in enumerate(parts):
        half = tmp_path / f"half{number}.txt"
        half.write_text(part)
        paths.append(run(tiny_model, options(half, n_chunks=100)).path)
    whole = run(tiny_model, options(text, n_chunks=100))
    joined = join_imatrices(paths, tmp_path / "joined.gguf")
    assert (joined.n_chunks, joined.n_tokens) == (whole.n_chunks, whole.n_tokens)
    assert joined.datasets == ("half0.txt", "half1.txt")
    assert_same(read_sums(joined.path), read_sums(whole.path), rtol=1e-5)


def test_joining_different_models_leaves_no_file(run, tiny_model: Path, text: Path, tmp_path: Path):
    one = run(tiny_model, options(text)).path
    other = run(make_variant("llama", tmp_path), options(text)).path
    with pytest.raises(UsageError, match="different models"):
        join_imatrices([one, other], tmp_path / "joined.gguf")
    assert not (tmp_path / "joined.gguf").exists()


def test_a_copy_is_the_same_file(run, tiny_model: Path, text: Path, tmp_path: Path):
    report = run(tiny_model, options(text))
    copy = copy_imatrix(report, tmp_path / "copy.gguf")
    assert hash_file(copy) == report.sha256
    with pytest.raises(UsageError, match="exists"):
        require_new(copy, overwrite=False)
    require_new(copy, overwrite=True)


def test_the_quantizer_weighs_columns_by_it(run, tiny_model: Path, text: Path, tmp_path: Path):
    report = run(tiny_model, options(text))
    header = read_header(tiny_model)
    outputs: list[bytes] = []
    for imatrix in (None, report.path):
        target = tmp_path / f"{imatrix is None}.gguf"
        chosen = QuantizerOptions(find_mix("IQ4_XS").ftype, n_threads=1, imatrix=imatrix)
        with Quantizer(header, chosen) as quantizer:
            quantizer.plan()
            quantizer.run(target, lambda _: None)
        outputs.append(target.read_bytes())
    assert outputs[0] != outputs[1]
    assert read_imatrix(report.path).n_chunks == 4


# Killed, and hostile files.


@pytest.fixture
def long(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} {WORDS}" for number in range(4000)))
    return path


def in_peace(source: Path, chosen: ImatrixOptions, settings: Settings, tmp_path: Path) -> bytes:
    elsewhere = replace(settings, home=tmp_path / "peace")
    return collect_imatrix(source, chosen, elsewhere, RecordingProgress()).path.read_bytes()


class KillingProgress(RecordingProgress):
    """Kills the child when a chunk is done and something was kept."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home
        self.killed = 0
        self.others = psutil.Process().children()

    def task(self, description: str, *, total: float, unit: str):
        killer = self

        class Task:
            def __enter__(self):
                return self

            def __exit__(self, *exc: object) -> None:
                return None

            def update(self, completed: float, note: str = "") -> None:
                if completed and not killer.killed and list(killer.home.glob("imatrix/.*ished")):
                    children = psutil.Process().children()
                    (child,) = [child for child in children if child not in killer.others]
                    child.kill()
                    killer.killed = int(completed)

        return Task()


def test_a_killed_child_is_an_error_and_the_next_run_goes_on_to_the_same_bytes(
    run, settings: Settings, tiny_model: Path, long: Path, tmp_path: Path
):
    chosen = options(long, n_chunks=800)
    progress = KillingProgress(settings.home)
    with pytest.raises(ResourceError, match="killed") as caught:
        run(tiny_model, chosen, progress)
    assert "goes on" in caught.value.hint
    report = run(tiny_model, chosen)
    assert 0 < report.n_resumed < 800
    assert report.path.read_bytes() == in_peace(tiny_model, chosen, settings, tmp_path)
    assert [path.name for path in (settings.home / "imatrix").iterdir()] == [report.path.name]


_SCRIPT = """
import sys
from pathlib import Path
from llmedge.core.progress import SilentProgress
from llmedge.core.settings import load_settings
from llmedge.measure.calibration import CalibrationOptions
from llmedge.quantize.imatrix import ImatrixOptions, collect_imatrix

calibration = CalibrationOptions({}, (Path(sys.argv[2]),), n_tokens=800 * 64, n_ctx=64)
options = ImatrixOptions(calibration, n_threads=1, save_every_s=0)
collect_imatrix(Path(sys.argv[1]), options, load_settings(), SilentProgress())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_a_killed_process_leaves_no_child_and_the_next_run_goes_on(
    run, settings: Settings, tiny_model: Path, long: Path, tmp_path: Path
):
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(tiny_model), str(long)])
    until = time.monotonic() + 60
    while not list(settings.home.glob("imatrix/.*ished")) and time.monotonic() < until:
        time.sleep(0.005)
    children = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    chosen = options(long, n_chunks=800)
    report = run(tiny_model, chosen)
    assert report.n_resumed > 0
    assert report.path.read_bytes() == in_peace(tiny_model, chosen, settings, tmp_path)


def infinite(path: Path, tensor: str) -> Path:
    """Write the tiny model with one infinite weight."""
    write_tiny_model(path)
    header = read_header(path)
    (info,) = [info for info in header.tensors if info.name == tensor]
    data = bytearray(path.read_bytes())
    at = header.data_offset + info.offset
    data[at : at + 4] = np.float32(np.inf).tobytes()
    path.write_bytes(data)
    return path


def test_a_model_that_computes_no_numbers_is_an_error_that_names_the_tensor(
    run, home: Path, tmp_path: Path, text: Path
):
    source = infinite(tmp_path / "inf.gguf", "blk.0.ffn_norm.weight")
    with pytest.raises(IntegrityError, match=r"what enters blk\.0\.ffn_\w+\.weight is not finite"):
        run(source, options(text))
    assert list((home / "imatrix").iterdir()) == []


def test_a_model_that_crashes_llama_cpp_is_an_error(run, tmp_path: Path, text: Path):
    source = tmp_path / "crash.gguf"
    write_f64_model(source)
    with pytest.raises(IntegrityError, match=r"llama\.cpp ended by SIGABRT on .*crash\.gguf"):
        run(source, options(text))


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_an_error_or_works_but_no_crash(
    what: str, run, tmp_path: Path, text: Path
):
    source = write_tiny_model(tmp_path / "hostile.gguf", change=HOSTILE[what])
    with works_or_is_refused():
        run(source, options(text))


def test_a_text_that_is_too_short_is_refused(run, tiny_model: Path, tmp_path: Path):
    short = tmp_path / "short.txt"
    short.write_text("Too short to be a chunk of sixty-four.")
    with pytest.raises(UsageError, match=r"no text of short\.txt has 64 tokens"):
        run(tiny_model, options(short))


def test_a_part_of_a_split_model_is_refused(run, tmp_path: Path, text: Path):
    path = write_tiny_model(
        tmp_path / "part.gguf", change=lambda writer: writer.add_uint16("split.count", 2)
    )
    with pytest.raises(UnsupportedError, match="one of 2 parts"):
        run(path, options(text))


class ReplacingProgress(RecordingProgress):
    """Puts another model in place when a task with this name begins."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__()
        self._path, self._name = path, name

    def task(self, description: str, *, total: float, unit: str):
        if description == self._name:
            write_tiny_model(self._path.with_name("other.gguf"), seed=1).replace(self._path)
        return super().task(description, total=total, unit=unit)


def test_a_model_that_is_replaced_meanwhile_gets_no_imatrix(
    run, tiny_copy: Path, long: Path, home: Path
):
    chosen = options(long, n_chunks=40)
    for kept in (0, 1000):  # seconds: saved after every chunk, and only as it ends
        progress = ReplacingProgress(tiny_copy, "imatrix")
        with pytest.raises(IntegrityError, match=r"copy\.gguf changed while it was read"):
            run(tiny_copy, replace(chosen, save_every_s=kept), progress)
        assert not list((home / "imatrix").glob("*.gguf"))


def test_a_matrix_of_zeros_counts_as_one_that_no_token_reached(tmp_path: Path):
    sums = np.array([[0, 0], [3, 0], [0, 0]], np.float32)
    entry = ImatrixEntry(sums, np.array([5, 7, 0]))
    path = tmp_path / "i.gguf"
    write_imatrix(path, ImatrixSums(("a",), 1, 12, {"blk.1.ffn_up_exps.weight": entry}))
    (tensor,) = describe_imatrix(path).coverage
    assert (tensor.n_hit, tensor.missed) == (1, (0, 2))
