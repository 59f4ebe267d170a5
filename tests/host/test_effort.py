import os
import sys
import time
from pathlib import Path

import pytest

from llmedge.host.clock import Throttling, read_clock_hz, read_throttling
from llmedge.host.effort import Effort, EffortWatch, forget_touched, read_mapped_pages
from llmedge.host.page_cache import drop_pages, resident_share


def test_a_busy_stretch_is_told_from_an_idle_one():
    watch = EffortWatch()
    time.sleep(0.05)
    idle = watch.stop()
    assert idle.wall_s >= 0.05
    assert idle.cpu_s < idle.wall_s
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert watch.stop().cpu_s - idle.cpu_s > 0.1


def test_shares_are_of_what_threads_ran_or_could_have_run():
    effort = Effort(2.0, 3.0, 1.0, 5, 0, 0)
    assert effort.efficiency(2) == 0.75
    assert effort.waiting_share == 0.25
    assert Effort(1.0, 1.0, None, None, None, None).waiting_share is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_linux_tells_what_threads_waited_and_what_was_swapped():
    effort = EffortWatch().stop()
    assert effort.waiting_s is not None
    assert effort.swapped_in_bytes is not None
    forget_touched()
    assert read_mapped_pages(os.getpid(), Path("/no/such/file")) == 0
    assert read_mapped_pages(os.getpid(), Path(os.__file__), Path("/nowhere")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops pages")
def test_a_files_pages_are_dropped_and_come_back(tmp_path: Path):
    # A folder in memory keeps its pages: this one must be on a disk.
    path = Path.cwd() / f".pages-{os.getpid()}"
    try:
        path.write_bytes(bytes(4 << 20))
        drop_pages(path)
        before = resident_share(path)
        path.read_bytes()
        assert resident_share(path) == 1.0
        assert before is not None
        assert before < 1.0
    finally:
        path.unlink()
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert resident_share(empty) is None


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_fastest_core_is_the_clock_and_heat_is_counted(tmp_path: Path):
    assert read_clock_hz(tmp_path) is None
    assert read_throttling(tmp_path) == Throttling(None, None)
    cores = tmp_path / "sys/devices/system/cpu"
    for cpu, khz, count in ((0, 1_200_000, 2), (1, 2_400_000, 3)):
        write(cores / f"cpu{cpu}/cpufreq/scaling_cur_freq", f"{khz}\n")
        write(cores / f"cpu{cpu}/thermal_throttle/core_throttle_count", f"{count}\n")
    assert read_clock_hz(tmp_path) == 2.4e9
    device = tmp_path / "sys/class/thermal/cooling_device0"
    write(device / "type", "cpufreq-cpu0\n")
    write(device / "cur_state", "0\n")
    write(tmp_path / "sys/class/thermal/cooling_device1/type", "Fan\n")
    write(tmp_path / "sys/class/thermal/cooling_device1/cur_state", "3\n")
    assert read_throttling(tmp_path) == Throttling(5, is_capped=False)
    write(device / "cur_state", "2\n")
    assert read_throttling(tmp_path).is_capped
