"""What a speed depends on besides the model: two results compare only where these agree."""

from __future__ import annotations

from dataclasses import dataclass, fields

from llmedge.host.cpu import allowed_cpus, read_cpu
from llmedge.host.memory import read_memory
from llmedge.host.sensors import read_power_source
from llmedge.runtime.context import ContextOptions  # noqa: TC001
from llmedge.runtime.library import library_info
from llmedge.runtime.model import ModelOptions  # noqa: TC001


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The conditions of a measurement.

    Attributes:
        place: Where it ran, as `--on` takes it.
        cpu: The processor's name.
        machine: Its architecture.
        n_cores: Physical cores within this process's reach.
        cores: The hardware threads it may run on, as `0-3,8`.
        memory_bytes: Memory within its reach.
        llama_cpp: Version and commit of llama.cpp.
        features: CPU features that its kernels use.
        openmp: The spin setting in force.
        power_source: `mains`, `battery` or `charging`.
        n_threads: Threads.
        n_ctx: Tokens of context.
        n_batch: Tokens in one decode call.
        n_ubatch: Tokens computed at once.
        type_k: Type of the keys in the kv cache.
        type_v: Type of the values in the kv cache.
        flash_attention: `auto`, `on` or `off`.
        load_mode: How the weights are loaded.
        repack: Whether weights may be copied into the layout of the fastest kernels.
        n_gpu_layers: Layers wanted on a GPU; 0 in a build without one.
    """

    place: str
    cpu: str
    machine: str
    n_cores: int
    cores: str
    memory_bytes: int
    llama_cpp: str
    features: tuple[str, ...]
    openmp: str
    power_source: str
    n_threads: int
    n_ctx: int
    n_batch: int
    n_ubatch: int
    type_k: str
    type_v: str
    flash_attention: str
    load_mode: str
    repack: bool
    n_gpu_layers: int


def take_fingerprint(
    model: ModelOptions, context: ContextOptions, n_threads: int, place: str = "host"
) -> Fingerprint:
    """Describe this machine and how the model is run on it."""
    cpu, library = read_cpu(), library_info()
    return Fingerprint(
        place=place,
        cpu=cpu.model,
        machine=cpu.machine,
        n_cores=cpu.n_physical,
        cores=format_cores(allowed_cpus()),
        memory_bytes=read_memory().total_bytes,
        llama_cpp=library.label,
        features=library.features,
        openmp=library.openmp,
        power_source=read_power_source(),
        n_threads=n_threads,
        n_ctx=context.n_ctx,
        n_batch=context.n_batch,
        n_ubatch=context.n_ubatch,
        type_k=context.type_k,
        type_v=context.type_v,
        flash_attention=context.flash_attention,
        load_mode=model.load_mode,
        repack=model.repack,
        n_gpu_layers=model.n_gpu_layers if library.can_offload else 0,
    )


def differing_fields(one: Fingerprint, other: Fingerprint) -> dict[str, tuple[str, str]]:
    """Return the names of the conditions that differ, each with both values."""
    pairs = {
        field.name: (str(getattr(one, field.name)), str(getattr(other, field.name)))
        for field in fields(Fingerprint)
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def format_cores(cpus: set[int]) -> str:
    """Write numbers as the kernel does: `0-3,8`."""
    parts: list[tuple[int, int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1] = (parts[-1][0], cpu)
        else:
            parts.append((cpu, cpu))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
