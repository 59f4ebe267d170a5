"""Is this machine ready? Facts about it, and a fix for each problem found."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmedge.core.errors import UnsupportedError
from llmedge.core.units import format_mb, format_mib
from llmedge.host.cpu import Cpu, read_cpu, read_cpu_flags
from llmedge.host.memory import SystemMemory, read_free_disk, read_memory
from llmedge.host.process import has_program
from llmedge.runtime.library import WHEEL_INDEX, LibraryInfo, library_info

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmedge.core.settings import Settings

Status = Literal["ok", "note", "problem"]

_LITTLE_MEMORY_BYTES = 2 << 30
_LITTLE_DISK_BYTES = 5_000_000_000
# The processor's flag, and what llama.cpp calls the kernels that use it.
_WANTED_FEATURES = (
    ("avx2", "AVX2"),
    ("fma", "FMA"),
    ("f16c", "F16C"),
    ("avx512f", "AVX512"),
    ("avx512_vnni", "AVX512_VNNI"),
    ("asimddp", "DOTPROD"),
    ("i8mm", "MATMUL_INT8"),
    ("sve", "SVE"),
)
_REBUILD = (
    "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
)
# GCC 12 lets ldtilecfg run before the stores that fill its operand: a general protection fault.
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_WITHOUT_AMX = (
    f"CMAKE_ARGS=\"'-DCMAKE_C_FLAGS={_NO_AMX}' '-DCMAKE_CXX_FLAGS={_NO_AMX}'\" {_REBUILD}"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact.

    Attributes:
        topic: What it is about.
        value: What was found.
        status: `ok`, `note` (worth knowing) or `problem`.
        fix: What to do about it, "" where there is nothing to do.
    """

    topic: str
    value: str
    status: Status = "ok"
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that llmedge depends on."""
    cpu, memory = read_cpu(), read_memory()
    return [
        Finding("Python", f"{platform.python_version()} on {platform.system()} {cpu.machine}"),
        *_library_findings(cpu),
        *_cpu_findings(cpu),
        *_memory_findings(memory),
        _disk_finding(settings),
        *_hub_findings(settings),
    ]


def _library_findings(cpu: Cpu) -> Iterator[Finding]:
    try:
        library = library_info()
    except UnsupportedError as error:
        yield Finding("llama-cpp-python", error.message, "problem", error.hint)
        yield Finding(
            "without a compiler",
            "prebuilt wheels exist for most systems",
            "note",
            f"pip install llama-cpp-python --extra-index-url {WHEEL_INDEX}",
        )
        return
    yield Finding("llama-cpp-python", f"{library.binding_version}, {library.label}")
    yield Finding("kernels in use", " ".join(library.features) or "none")
    yield from _feature_findings(library)
    yield Finding("OpenMP", library.openmp)
    yield _offload_finding(library, cpu)


def _feature_findings(library: LibraryInfo) -> Iterator[Finding]:
    flags = read_cpu_flags()
    unused = [
        name for flag, name in _WANTED_FEATURES if flag in flags and name not in library.features
    ]
    if unused:
        yield Finding(
            "kernels not used",
            f"the processor has {', '.join(unused)}, this build of llama.cpp does not use it",
            "note",
            f"build it for this machine: {_REBUILD}",
        )
    if "AMX_INT8" in library.features:
        yield Finding(
            "AMX kernels",
            "in this build of llama.cpp; built by GCC 12, they end the process at the first prompt",
            "note",
            f"if that happens, build it without them: {_WITHOUT_AMX}",
        )


def _offload_finding(library: LibraryInfo, cpu: Cpu) -> Finding:
    if library.can_offload:
        return Finding("GPU offload", "available; --gpu-layers sets how much")
    has_nvidia = has_program("nvidia-smi")
    if has_nvidia:
        fix = f"CMAKE_ARGS=-DGGML_CUDA=on {_REBUILD}"
        return Finding("GPU offload", "an NVIDIA GPU, but a CPU build of llama.cpp", "note", fix)
    if sys.platform == "darwin" and cpu.machine == "arm64":
        fix = f"CMAKE_ARGS=-DGGML_METAL=on {_REBUILD}"
        return Finding("GPU offload", "a Metal GPU, but a CPU build of llama.cpp", "note", fix)
    return Finding("GPU offload", "not in this build; models run on the CPU")


def _cpu_findings(cpu: Cpu) -> Iterator[Finding]:
    yield Finding("processor", cpu.model)
    kinds = f", {cpu.n_performance} of them fast" if cpu.n_performance != cpu.n_physical else ""
    quota = "" if cpu.cpu_quota is None else f", cgroup quota {cpu.cpu_quota:g}"
    yield Finding(
        "cores",
        f"{cpu.n_physical} cores{kinds}, {cpu.n_logical} hardware threads{quota}; "
        f"llmedge uses {cpu.default_threads} threads",
    )
    if cpu.cpu_quota is not None and cpu.cpu_quota < 1:
        yield Finding(
            "cpu quota", f"{cpu.cpu_quota:g} cores", "problem", "raise the container's CPU limit"
        )


def _memory_findings(memory: SystemMemory) -> Iterator[Finding]:
    limit = "" if memory.limit_bytes is None else f", cgroup limit {format_mib(memory.limit_bytes)}"
    value = (
        f"{format_mib(memory.total_bytes)}, {format_mib(memory.available_bytes)} available{limit}"
    )
    if memory.available_bytes < _LITTLE_MEMORY_BYTES:
        yield Finding("memory", value, "problem", "close other programs, or choose a small variant")
    else:
        yield Finding("memory", value)
    swap = format_mib(memory.swap_total_bytes) if memory.swap_total_bytes else "none"
    yield Finding("swap", swap)


def _disk_finding(settings: Settings) -> Finding:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = read_free_disk(folder)
    value = f"{format_mb(free)} free in {settings.home}"
    if free < _LITTLE_DISK_BYTES:
        return Finding("disk", value, "problem", "free some space, or set LLMEDGE_HOME elsewhere")
    return Finding("disk", value)


def _hub_findings(settings: Settings) -> Iterator[Finding]:
    there = "" if settings.hf_cache.is_dir() else " (not there yet)"
    yield Finding("Hugging Face cache", f"{settings.hf_cache}{there}")
    if settings.has_hf_token:
        yield Finding("Hugging Face token", "set")
    else:
        yield Finding(
            "Hugging Face token",
            "none: gated models cannot be fetched",
            "note",
            "set HF_TOKEN, with a token from https://huggingface.co/settings/tokens",
        )
