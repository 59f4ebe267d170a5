"""What a speed depends on besides the model: two results compare only where these agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.host.cpu import read_cpu
from llmedge.host.memory import read_memory
from llmedge.runtime.library import library_info

if TYPE_CHECKING:
    from llmedge.runtime.context import ContextOptions
    from llmedge.runtime.model import ModelOptions


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The conditions of a measurement.

    Attributes:
        cpu: The processor's name.
        machine: Its architecture.
        n_cores: Physical cores within this process's reach.
        memory_bytes: Memory within its reach.
        llama_cpp: Version and commit of llama.cpp.
        features: CPU features that its kernels use.
        openmp: The spin setting in force.
        n_threads: Threads.
        n_ctx: Tokens of context.
        n_batch: Tokens in one decode call.
        n_ubatch: Tokens computed at once.
        type_k: Type of the keys in the kv cache.
        type_v: Type of the values in the kv cache.
        flash_attention: `auto`, `on` or `off`.
        load_mode: How the weights are loaded.
    """

    cpu: str
    machine: str
    n_cores: int
    memory_bytes: int
    llama_cpp: str
    features: tuple[str, ...]
    openmp: str
    n_threads: int
    n_ctx: int
    n_batch: int
    n_ubatch: int
    type_k: str
    type_v: str
    flash_attention: str
    load_mode: str


def take_fingerprint(model: ModelOptions, context: ContextOptions, n_threads: int) -> Fingerprint:
    """Describe this machine and how the model is run on it."""
    cpu, library = read_cpu(), library_info()
    return Fingerprint(
        cpu=cpu.model,
        machine=cpu.machine,
        n_cores=cpu.n_physical,
        memory_bytes=read_memory().total_bytes,
        llama_cpp=library.label,
        features=library.features,
        openmp=library.openmp,
        n_threads=n_threads,
        n_ctx=context.n_ctx,
        n_batch=context.n_batch,
        n_ubatch=context.n_ubatch,
        type_k=context.type_k,
        type_v=context.type_v,
        flash_attention=context.flash_attention,
        load_mode=model.load_mode,
    )
