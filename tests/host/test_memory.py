import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmedge.core.errors import ResourceError
from llmedge.host.memory import (
    PeakMemory,
    read_free_disk,
    read_memory,
    read_process_memory,
    require_free_disk,
)


def test_memory_stays_within_the_cgroups_limit(tmp_path: Path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n", encoding="ascii")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("67108864", encoding="ascii")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("60000000", encoding="ascii")
    memory = read_memory(tmp_path)
    assert (memory.total_bytes, memory.limit_bytes) == (64 << 20, 64 << 20)
    assert memory.available_bytes == (64 << 20) - 60_000_000


def test_without_a_limit_all_memory_counts(tmp_path: Path):
    memory = read_memory(tmp_path)
    assert memory.limit_bytes is None
    assert memory.total_bytes >= memory.available_bytes > 0


def test_this_process_has_memory_and_some_of_it_is_anonymous():
    memory = read_process_memory(os.getpid())
    assert memory is not None
    assert memory.resident_bytes > 1 << 20
    assert memory.anonymous_bytes is None or 0 < memory.anonymous_bytes <= memory.resident_bytes


def test_a_process_that_is_gone_has_no_memory():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert read_process_memory(process.pid) is None


def test_the_peak_of_another_process_is_seen():
    code = "import sys; x = bytearray(80 << 20); del x; print('go', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        watch = PeakMemory(process.pid, interval_s=0.001)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        peak = watch.stop()
        now = read_process_memory(process.pid)
        process.kill()
    assert now is not None
    assert peak.resident_bytes > now.resident_bytes
    assert peak.resident_bytes > 80 << 20


def test_too_little_disk_is_an_error_with_both_numbers(tmp_path: Path):
    require_free_disk(tmp_path, 1)
    with pytest.raises(ResourceError, match=r"1000000\.00 GB are needed .* are free"):
        require_free_disk(tmp_path, 10**15)
    assert read_free_disk(tmp_path) > 0
