import os
import signal
import sys
from pathlib import Path

import pytest

from llmedge.bench import run as module
from llmedge.bench.run import BenchOptions, bench
from llmedge.core.errors import IntegrityError, ResourceError, UsageError
from llmedge.core.settings import Settings
from llmedge.host.child import Talk
from llmedge.runtime.context import ContextOptions
from llmedge.store.records import read_records
from tests.fakes import RecordingProgress

SHORT = BenchOptions(
    n_prompt=40, n_gen=8, repetitions=3, context=ContextOptions(n_ctx=300, n_threads=1)
)


def test_a_result_has_every_figure(smollm2: Path, settings: Settings):
    progress = RecordingProgress()
    (result,) = bench([smollm2], SHORT, settings, progress)
    assert (result.prompt.n_tokens, result.generation.n_tokens) == (40, 8)
    assert len(result.prompt.samples) == len(result.generation.samples) == 3
    assert result.prompt.mean > result.generation.mean > 1
    assert 0 < result.load_s < 60
    assert result.file_bytes == smollm2.stat().st_size
    # The weights are mapped, so they are resident; the baseline is the interpreter.
    assert result.peak_resident_bytes > result.file_bytes * 0.8
    assert 0 < result.baseline_bytes < result.peak_resident_bytes
    if sys.platform == "linux":
        assert result.peak_anonymous_bytes is not None
        assert 0 < result.peak_anonymous_bytes < result.peak_resident_bytes
    assert result.fingerprint.n_threads == 1
    assert result.fingerprint.n_ctx == 512
    assert progress.updates[-1][1] == 6


def test_results_are_recorded(tiny_model: Path, settings: Settings):
    bench([tiny_model, tiny_model], SHORT, settings, RecordingProgress())
    records = read_records(settings, "bench")
    assert [record["schema"] for record in records] == ["llmedge.bench/1"] * 2
    assert records[0]["model"] == "tiny-F32"


@pytest.mark.parametrize("options", [{"n_prompt": 0}, {"n_gen": 0}, {"repetitions": 0}])
def test_nothing_to_measure_is_refused(
    tiny_model: Path, settings: Settings, options: dict[str, int]
):
    with pytest.raises(UsageError, match="at least 1"):
        bench([tiny_model], BenchOptions(**options), settings, RecordingProgress())


def test_a_damaged_file_is_refused(tiny_copy: Path, settings: Settings):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        bench([tiny_copy], SHORT, settings, RecordingProgress())


def die(talk: Talk, path: Path, options: BenchOptions) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_measuring_process_that_is_killed_is_a_resource_error(
    tiny_model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_measure", die)
    with pytest.raises(ResourceError, match=r"ended by SIGKILL: most likely .* out of memory"):
        bench([tiny_model], SHORT, settings, RecordingProgress())
    assert read_records(settings, "bench") == []
