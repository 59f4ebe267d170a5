import os
import sys
from pathlib import Path

import pytest

from llmedge.host import cpu as cpu_module
from llmedge.host.cpu import Cpu, choose_threads, read_cpu, read_cpu_flags


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Build a machine: one entry a hardware thread, `(package, core, capacity)`."""

    def build(*threads: tuple[int, int, int | None], cluster: bool = False) -> Cpu:
        for number, (package, core, capacity) in enumerate(threads):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{number}"
            (folder / "topology").mkdir(parents=True)
            (folder / "topology/physical_package_id").write_text(str(package), encoding="ascii")
            (folder / "topology/core_id").write_text(str(core), encoding="ascii")
            if cluster:
                (folder / "topology/cluster_id").write_text(str(number), encoding="ascii")
            if capacity is not None:
                (folder / "cpu_capacity").write_text(str(capacity), encoding="ascii")
        monkeypatch.setattr(cpu_module, "allowed_cpus", lambda: set(range(len(threads))))
        return read_cpu(tmp_path)

    return build


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's sysfs")


def test_hyperthreads_are_not_cores(machine):
    cpu = machine((0, 0, None), (0, 1, None), (0, 0, None), (0, 1, None))
    assert (cpu.n_logical, cpu.n_physical, cpu.n_performance) == (4, 2, 2)
    assert cpu.default_threads == 2


def test_only_the_fast_cores_of_a_phone_are_used(machine):
    cpu = machine(
        *[(0, n, 300) for n in range(4)], *[(0, n, 1000) for n in range(4, 7)], (0, 7, 1024)
    )
    assert (cpu.n_physical, cpu.n_performance, cpu.default_threads) == (8, 4, 4)


def test_a_hybrid_intels_fast_cores_are_those_that_the_kernel_names(machine, tmp_path: Path):
    (tmp_path / "sys/devices/cpu_core").mkdir(parents=True)
    (tmp_path / "sys/devices/cpu_core/cpus").write_text("0-3,8\n", encoding="ascii")
    pairs = [(0, n // 2, 5100) for n in range(4)]
    cpu = machine(*pairs, *[(0, n, 3900) for n in range(4, 8)])
    assert (cpu.n_logical, cpu.n_physical, cpu.n_performance) == (8, 6, 2)


def test_clusters_tell_cores_with_the_same_number_apart(machine):
    cpu = machine((0, 0, 500), (0, 0, 1024), cluster=True)
    assert cpu.n_physical == 2


def test_two_sockets_have_cores_of_their_own(machine):
    assert machine((0, 0, None), (1, 0, None)).n_physical == 2


def test_a_cgroups_quota_bounds_the_threads(machine, tmp_path: Path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n", encoding="ascii")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("250000 100000", encoding="ascii")
    cpu = machine(*[(0, n, None) for n in range(8)])
    assert (cpu.cpu_quota, cpu.default_threads) == (2.5, 2)


def test_even_a_tiny_quota_leaves_one_thread():
    assert Cpu("x", "arm64", 4, 4, 4, cpu_quota=0.2).default_threads == 1


def test_without_sysfs_the_librarys_count_is_taken(tmp_path: Path):
    cpu = read_cpu(tmp_path)
    assert 1 <= cpu.n_physical <= cpu.n_logical


def test_this_machine_has_cores_within_its_affinity():
    cpu = read_cpu()
    assert 1 <= cpu.n_performance <= cpu.n_physical <= cpu.n_logical <= (os.cpu_count() or 1)
    assert cpu.model


def test_flags_come_from_x86_and_from_arm(tmp_path: Path):
    (tmp_path / "proc").mkdir()
    info = tmp_path / "proc/cpuinfo"
    info.write_text("processor: 0\nflags\t: fpu avx2 fma\n", encoding="ascii")
    assert {"avx2", "fma"} <= read_cpu_flags(tmp_path)
    info.write_text("processor: 0\nFeatures : asimddp i8mm\n", encoding="ascii")
    assert read_cpu_flags(tmp_path) == {"asimddp", "i8mm"}
    info.unlink()
    assert read_cpu_flags(tmp_path) == frozenset()


def test_the_first_wish_for_threads_counts_and_the_machine_decides_without():
    assert choose_threads(3, 5) == 3
    assert choose_threads(None, 5) == 5
    assert choose_threads(None, None) == read_cpu().default_threads
