import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]


def start(source: Path, target: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "llmedge", "quantize", source, "--target-bpw", "6"]
    command += ["-o", target, "--allow-requantize", "--calibration", "english"]
    command += ["--calibration-tokens", "512"]
    return subprocess.Popen([str(part) for part in command], env=os.environ.copy())


def facts(home: Path) -> list[str]:
    """Return the names of what was found so far, in order."""
    (path,) = [*home.glob("probes/*.jsonl")] or [None]
    if path is None:
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [name for line in lines if line for name in json.loads(line)]


def kill_after(process: subprocess.Popen, home: Path, n_trials: int) -> list[str]:
    deadline = time.monotonic() + 300
    while sum(name.startswith("kld") for name in facts(home)) < n_trials:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return facts(home)


def test_a_killed_search_goes_on_where_it_was(smollm2: Path, home: Path, tmp_path: Path):
    target = tmp_path / "plan.gguf"
    first = kill_after(start(smollm2, target), home, 5)
    second = kill_after(start(smollm2, target), home, 12)
    assert not target.exists()
    assert second[: len(first)] == first
    assert len(second) > len(first)
    # A fact that was found is never measured again.
    assert Counter(second).most_common(1)[0][1] == 1
