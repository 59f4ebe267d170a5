import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.core.settings import Settings
from llmedge.host.cpu import read_cpu
from llmedge.host.memory import SystemMemory
from llmedge.recipe import doctor
from llmedge.recipe.doctor import Finding, examine
from llmedge.runtime.library import library_info


def by_topic(settings: Settings) -> dict[str, Finding]:
    return {finding.topic: finding for finding in examine(settings)}


def test_every_topic_is_looked_at(settings: Settings):
    topics = by_topic(settings)
    promised = "Python,llama-cpp-python,kernels in use,cores,memory,swap,disk,GPU offload"
    for topic in [*promised.split(","), "Hugging Face cache", "Hugging Face token", "OpenMP"]:
        assert topics[topic].value, topic
    assert sys.version.split()[0] in topics["Python"].value


def test_every_problem_and_note_has_a_fix(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    little = SystemMemory(1 << 30, 100 << 20, 0, 1 << 30)
    monkeypatch.setattr(doctor, "read_memory", lambda: little)
    monkeypatch.setattr(doctor, "read_free_disk", lambda _: 10)
    monkeypatch.setattr(doctor, "read_cpu", lambda: replace(read_cpu(), cpu_quota=0.5))
    findings = examine(settings)
    assert {f.topic for f in findings if f.status == "problem"} == {"memory", "disk", "cpu quota"}
    assert all(finding.fix for finding in findings if finding.status != "ok")


def test_a_missing_library_is_a_problem_with_the_way_around_the_compiler(settings, monkeypatch):
    def missing():
        raise UnsupportedError("llama-cpp-python does not load: gone", "pip install it")

    monkeypatch.setattr(doctor, "library_info", missing)
    topics = by_topic(settings)
    assert topics["llama-cpp-python"].status == "problem"
    assert "--extra-index-url" in topics["without a compiler"].fix


def test_kernels_that_the_processor_has_and_the_build_does_not_use_are_named(settings, monkeypatch):
    monkeypatch.setattr(doctor, "read_cpu_flags", lambda: frozenset({"avx2", "i8mm"}))
    slow = replace(library_info(), features=("SSE3",))
    monkeypatch.setattr(doctor, "library_info", lambda: slow)
    finding = by_topic(settings)["kernels not used"]
    assert "AVX2, MATMUL_INT8" in finding.value
    assert "--no-binary" in finding.fix


def test_kernels_that_may_fault_are_named_with_the_build_that_leaves_them_out(
    settings, monkeypatch
):
    library = library_info()
    without = tuple(name for name in library.features if name != "AMX_INT8")
    monkeypatch.setattr(doctor, "library_info", lambda: replace(library, features=without))
    assert "AMX kernels" not in by_topic(settings)
    faulty = replace(library, features=(*without, "AMX_INT8"))
    monkeypatch.setattr(doctor, "library_info", lambda: faulty)
    finding = by_topic(settings)["AMX kernels"]
    assert finding.status == "note"
    assert "-mno-amx-tile" in finding.fix
    assert "--no-cache-dir" in finding.fix


@pytest.mark.parametrize(
    ("platform", "machine", "nvidia", "offload", "word"),
    [
        ("linux", "x86_64", False, True, "available"),
        ("linux", "x86_64", True, False, "NVIDIA"),
        ("darwin", "arm64", False, False, "Metal"),
        ("linux", "x86_64", False, False, "not in this build"),
    ],
)
def test_offload_is_told_for_each_kind_of_machine(
    monkeypatch, platform, machine, nvidia, offload, word
):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(doctor, "has_program", lambda _: nvidia)
    library, cpu = (
        replace(library_info(), can_offload=offload),
        replace(read_cpu(), machine=machine),
    )
    assert word in doctor._offload_finding(library, cpu).value


def test_a_home_that_is_not_there_yet_is_no_problem(settings: Settings, tmp_path: Path):
    deep = replace(settings, home=tmp_path / "a" / "b" / "c")
    assert "free in" in by_topic(deep)["disk"].value
    assert not (tmp_path / "a").exists()
