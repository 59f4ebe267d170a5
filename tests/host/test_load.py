import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from llmedge.host.load import LoadReport, LoadWatch

Times = namedtuple("Times", "user nice system idle iowait steal guest guest_nice")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Let the test set the machine's CPU times."""
    state = {"times": Times(0, 0, 0, 0, 0, 0, 0, 0), "wall": 0.0, "own": 0.0}
    monkeypatch.setattr(psutil, "cpu_times", lambda: state["times"])
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(time, "perf_counter", lambda: state["wall"])
    monkeypatch.setattr("llmedge.host.load._cpu_seconds", lambda _: state["own"])
    return state


def test_our_own_work_is_no_load(clock, tmp_path: Path):
    watch = LoadWatch(root=tmp_path)
    clock.update(times=Times(20, 0, 0, 0, 0, 0, 0, 0), wall=10.0, own=20.0)
    report = watch.stop()
    assert report == LoadReport(0.0, 0.0, None)
    assert not report.is_contended


def test_the_work_of_others_is_load(clock, tmp_path: Path):
    watch = LoadWatch(root=tmp_path)
    clock.update(times=Times(15, 0, 0, 5, 0, 0, 0, 0), wall=10.0, own=10.0)
    report = watch.stop()
    assert report.other_cpu == pytest.approx(0.5)
    assert report.is_contended


def test_stolen_time_is_contention(clock, tmp_path: Path):
    watch = LoadWatch(root=tmp_path)
    clock.update(times=Times(10, 0, 0, 8, 0, 2, 0, 0), wall=10.0, own=10.0)
    report = watch.stop()
    assert report.steal == pytest.approx(0.1)
    assert report.is_contended


def test_waiting_for_disks_is_no_load(clock, tmp_path: Path):
    watch = LoadWatch(root=tmp_path)
    clock.update(times=Times(0, 0, 0, 4, 16, 0, 0, 0), wall=10.0)
    assert watch.stop().other_cpu == 0.0


def test_a_guests_time_is_counted_once(clock, tmp_path: Path):
    watch = LoadWatch(root=tmp_path)
    clock.update(times=Times(10, 0, 0, 10, 0, 0, 10, 0), wall=10.0)
    assert watch.stop().other_cpu == pytest.approx(1.0)


def test_pressure_is_the_kernels_own_count(clock, tmp_path: Path):
    (tmp_path / "proc/pressure").mkdir(parents=True)
    file = tmp_path / "proc/pressure/cpu"
    file.write_text("some avg10=1.0 avg60=0 avg300=0 total=1000\n", encoding="ascii")
    watch = LoadWatch(root=tmp_path)
    file.write_text("some avg10=1.0 avg60=0 avg300=0 total=5001000\n", encoding="ascii")
    clock.update(wall=10.0)
    assert watch.stop().pressure == pytest.approx(0.5)


def test_a_busy_loop_beside_us_is_noticed_on_this_machine():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = LoadWatch()
        time.sleep(0.5)
        report = watch.stop()
    finally:
        busy.kill()
        busy.wait()
    assert report.is_contended


def test_a_child_of_ours_is_not_noticed_when_it_is_named():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with_name, without = LoadWatch(busy.pid), LoadWatch()
        time.sleep(0.5)
        named, unnamed = with_name.stop(), without.stop()
    finally:
        busy.kill()
        busy.wait()
    assert named.other_cpu < unnamed.other_cpu - 0.1
