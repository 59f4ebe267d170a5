"""`llmedge pull` as a process: killed, interrupted, twice at once; what others make of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_hub import Faults, LocalHub

from tests.pull.conftest import N_BYTES, REPO, WEIGHTS, write_checkpoint


@pytest.fixture
def environment(tmp_path: Path, home: Path) -> dict[str, str]:
    return os.environ | {"HF_HOME": str(tmp_path / "hf"), "LLMEDGE_HOME": str(home)}


def start(environment: dict[str, str], hub: LocalHub, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmedge", "pull", REPO, *arguments],
        env=environment | {"HF_ENDPOINT": hub.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_half(folder: Path) -> int:
    for _ in range(600):
        size = sum(part.stat().st_size for part in folder.rglob("*.part"))
        if size > N_BYTES // 2:
            return size
        time.sleep(0.02)
    raise AssertionError("half of it never came")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_that_is_ended_at_half_goes_on_where_it_was(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
):
    weights = write_checkpoint(tmp_path / "hub")
    with LocalHub(tmp_path / "hub", Faults(bytes_per_s=1_000_000)) as hub:
        process = start(environment, hub)
        wait_for_half(tmp_path / "hf")
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == (130 if number == signal.SIGINT else -9), errors
        kept = wait_for_half(tmp_path / "hf")
        hub.faults.bytes_per_s = 0
        hub.requests.clear()
        process = start(environment, hub, "--json")
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        (report,) = json.loads(out)["results"]
        assert report["network_bytes"] == hub.body_bytes() <= N_BYTES - kept
    assert (Path(report["folder"]) / WEIGHTS).read_bytes() == weights


def test_two_processes_are_one_transfer(tmp_path: Path, environment: dict[str, str]):
    write_checkpoint(tmp_path / "hub")
    with LocalHub(tmp_path / "hub", Faults(bytes_per_s=1_000_000)) as hub:
        processes = [start(environment, hub, "--json") for _ in range(2)]
        reports = [json.loads(p.communicate(timeout=60)[0])["results"][0] for p in processes]
        assert hub.body_bytes() == reports[0]["n_bytes"]


def test_what_was_pulled_is_what_the_hubs_own_tools_expect(
    tmp_path: Path, environment: dict[str, str]
):
    write_checkpoint(tmp_path / "hub")
    with LocalHub(tmp_path / "hub") as hub:
        process = start(environment, hub)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert WEIGHTS in out
        commit = hub.commit(REPO)
        others = environment | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        code = f"import huggingface_hub as h; print(h.snapshot_download({REPO!r}))"
        offline = others | {"HF_HUB_OFFLINE": "1"}
        found = run([sys.executable, "-c", code], offline)
        assert Path(found.strip()).name == commit
        hf = [sys.executable, "-m", "huggingface_hub.cli.hf", "cache"]
        assert "checked: 4" in run([*hf, "verify", REPO], others)
        assert REPO in run([*hf, "ls"], others)
        again = start(offline, hub, "--json")
        assert json.loads(again.communicate(timeout=60)[0])["results"][0]["commit"] == commit


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
