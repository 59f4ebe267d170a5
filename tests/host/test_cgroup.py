from pathlib import Path

import pytest

from llmedge.host.cgroup import CgroupLimits, read_limits, read_memory_stall


def write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="ascii")


def test_without_cgroups_there_are_no_limits(tmp_path: Path):
    assert read_limits(tmp_path) == CgroupLimits(None, None, None)


def test_version_2_gives_the_least_limit_on_the_way_up(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "0::/user.slice/app\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/memory.max", "2147483648\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/memory.current", "1000\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/app/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/app/cpu.max", "150000 100000\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/cpu.max", "max 100000\n")
    assert read_limits(tmp_path) == CgroupLimits(2 << 30, (2 << 30) - 1000, 1.5)


def test_version_1_reads_its_own_names(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:pids:/y\n")
    write(tmp_path, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "536870912\n")
    write(tmp_path, "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "4096\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "50000\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n")
    assert read_limits(tmp_path) == CgroupLimits(512 << 20, (512 << 20) - 4096, 0.5)


def test_file_pages_that_nobody_used_lately_are_room(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "1000\n")
    write(tmp_path, "sys/fs/cgroup/memory.current", "1000\n")
    write(tmp_path, "sys/fs/cgroup/memory.stat", "anon 200\ninactive_file 700\nactive_file 100\n")
    assert read_limits(tmp_path).memory_room_bytes == 700
    write(tmp_path, "proc/self/cgroup", "4:memory:/\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", "4000\n")
    stat = "inactive_file 1\ntotal_inactive_file 3000\n"
    write(tmp_path, "sys/fs/cgroup/memory/memory.stat", stat)
    assert read_limits(tmp_path).memory_room_bytes == 4000


def test_the_room_is_that_of_the_tightest_group_and_not_of_the_smallest(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path, "sys/fs/cgroup/a/memory.max", "2000\n")
    write(tmp_path, "sys/fs/cgroup/a/memory.current", "1900\n")
    write(tmp_path, "sys/fs/cgroup/a/b/memory.max", "1000\n")
    write(tmp_path, "sys/fs/cgroup/a/b/memory.current", "500\n")
    limits = read_limits(tmp_path)
    assert (limits.memory_bytes, limits.memory_room_bytes) == (1000, 100)


def test_version_1_writes_no_limit_as_a_huge_number(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "4:memory:/\n3:cpu:/\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert read_limits(tmp_path) == CgroupLimits()


def test_inside_a_container_the_mount_itself_is_the_group(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "0::/../../not/mounted/here\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "1048576\n")
    assert read_limits(tmp_path).memory_bytes == 1 << 20


@pytest.mark.parametrize("text", ["", "nonsense", "0::", "7:memory", "\n\n"])
def test_a_strange_table_of_groups_is_no_error(tmp_path: Path, text: str):
    write(tmp_path, "proc/self/cgroup", text)
    assert read_limits(tmp_path) == CgroupLimits()


def test_waiting_for_memory_is_the_groups_own_and_else_the_machines(tmp_path: Path):
    assert read_memory_stall(tmp_path) is None
    text = "some avg10={} avg60=1.00 avg300=2.00 total=9\nfull avg10=99.00 avg60=0 total=1\n"
    write(tmp_path, "proc/pressure/memory", text.format("12.50"))
    write(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    assert read_memory_stall(tmp_path) == 0.125
    write(tmp_path, "sys/fs/cgroup/a/memory.pressure", text.format("3.00"))
    assert read_memory_stall(tmp_path) == 0.03
    write(tmp_path, "sys/fs/cgroup/a/b/memory.pressure", "nonsense\n")
    assert read_memory_stall(tmp_path) == 0.03


def test_this_machines_limits_can_be_read():
    limits = read_limits()
    assert limits.memory_bytes is None or limits.memory_bytes > 0
    assert limits.cpus is None or limits.cpus > 0
