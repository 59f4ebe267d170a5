"""What a plan must keep to: bytes of the file, bits per weight, memory in use, or lost quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmedge.core.errors import ResourceError, UsageError
from llmedge.core.units import format_mib
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.runtime.dry_run import compute_buffer_bytes

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header

Kind: TypeAlias = Literal["size", "bpw", "ram", "kld"]

# What the interpreter, llama.cpp's code and its small structures take beside weights, kv cache and
# compute buffer: measured as anonymous memory of a serving process before its model is loaded.
_RUNTIME_BYTES = 96 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for.

    Attributes:
        kind: `size` of the file in bytes, `bpw` over all tensors, `ram` in bytes while the model
            runs, or the most `kld` in nats.
        value: How much.
        label: The variant's name: what the user typed, in capitals.
        kv_cache: For `ram`: the context that has to fit beside the weights.
    """

    kind: Kind
    value: float
    label: str
    kv_cache: KvCacheOptions = KvCacheOptions(4096)

    def file_bytes(self, header: Header) -> int | None:
        """Return the most that the file may take; `None` where that is not what limits it.

        Args:
            header: The model's, of any type: its context costs the same.

        Raises:
            ResourceError: The context alone takes more than the memory allowed.
            UnsupportedError: The architecture's kv cache is not modelled.
        """
        if self.kind == "size":
            return int(self.value)
        if self.kind != "ram":
            return None
        memory = estimate_memory(header, self.kv_cache)
        buffers = memory.kv_cache_bytes + compute_buffer_bytes(header, self.kv_cache)
        room = int(self.value) - buffers - _RUNTIME_BYTES
        if room <= 0:
            raise ResourceError(
                f"a context of {self.kv_cache.n_ctx} tokens takes {format_mib(buffers)} and the "
                f"runtime {format_mib(_RUNTIME_BYTES)}: nothing is left of "
                f"{format_mib(self.value)} for the weights",
                "allow more, or use a smaller --ctx or --type-k q8_0 --type-v q8_0",
            )
        return room

    def tensor_bytes(self, header: Header, overhead_bytes: int) -> int | None:
        """Return the most that all tensors may take; `None` where quality is the limit.

        Args:
            header: The model's.
            overhead_bytes: What the file takes beside its tensors.

        Raises:
            ResourceError: Nothing is left for tensors.
        """
        if self.kind == "bpw":
            return int(self.value * header.n_weights / 8)
        n_bytes = self.file_bytes(header)
        return None if n_bytes is None else n_bytes - overhead_bytes


def require_sensible(target: Target) -> Target:
    """Return a target that can be meant.

    Raises:
        UsageError: It cannot.
    """
    limits = {"bpw": (1.5, 16.0), "kld": (1e-4, 5.0), "size": (1e5, 1e13), "ram": (1e5, 1e13)}
    low, high = limits[target.kind]
    if not low <= target.value <= high:
        raise UsageError(
            f"a target of {target.value:g} ({target.kind}) cannot be meant",
            f"from {low:g} to {high:g}",
        )
    return target
