"""What a plan must keep to: bytes of the file, bits per weight, memory in use, or lost quality."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmedge.core.errors import ResourceError, UsageError
from llmedge.core.units import format_mb, format_mib, parse_bytes
from llmedge.gguf.memory import KvCacheOptions, estimate_memory

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header

Kind: TypeAlias = Literal["size", "bpw", "ram", "kld"]

# What the interpreter, llama.cpp's code and its small structures take beside weights, kv cache and
# compute buffer: measured as anonymous memory of a serving process before its model is loaded.
_RUNTIME_BYTES = 96 << 20
_UNITS = {"bpw": "bits per weight", "kld": "nats of KL divergence"}


_LESS_CONTEXT = ", or use a smaller --ctx or --type-k q8_0 --type-v q8_0"


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

        It is negative where the context alone takes more than the memory allowed.

        Args:
            header: The model's, of any type: its context costs the same.

        Raises:
            UnsupportedError: The architecture's kv cache is not modelled.
        """
        if self.kind == "size":
            return int(self.value)
        if self.kind != "ram":
            return None
        return int(self.value) - sum(self.beside(header).values())

    def beside(self, header: Header) -> dict[str, int]:
        """Return what takes memory beside the weights, in bytes, by what it is.

        Raises:
            UnsupportedError: The architecture's kv cache is not modelled.
        """
        from llmedge.runtime.dry_run import compute_buffer_bytes  # numpy, for this target only

        return {
            f"kv cache of {self.kv_cache.n_ctx} tokens": estimate_memory(
                header, self.kv_cache
            ).kv_cache_bytes,
            "compute buffer": compute_buffer_bytes(header, self.kv_cache),
            "runtime": _RUNTIME_BYTES,
        }

    def too_small(
        self, header: Header, tensor_bytes: int, overhead_bytes: int, *, hint: str
    ) -> ResourceError:
        """Return the error for a target that no plan keeps to.

        Args:
            header: The model's.
            tensor_bytes: What all tensors of the smallest plan take.
            overhead_bytes: What the file takes beside its tensors.
            hint: What else than a larger target helps.
        """
        smallest = tensor_bytes + overhead_bytes
        if self.kind == "bpw":
            bits = math.ceil(800 * tensor_bytes / header.n_weights) / 100
            what, least = f"{bits:.2f} bits per weight", f"--target-bpw {bits:g}"
            allowed = f"{self.value:g}"
        elif self.kind == "ram":
            beside = self.beside(header)
            n_mib = math.ceil((smallest + sum(beside.values())) / (1 << 20))
            what, least = format_mib(smallest), f"--target-ram {n_mib}MiB"
            room = max(0, int(self.value) - sum(beside.values()))
            allowed = f"{format_mib(room)} that {_sizes(beside)} leave of {format_mib(self.value)}"
            hint += _LESS_CONTEXT
        else:
            what, least = format_mb(smallest), f"--target-size {math.ceil(smallest / 1e3)}kB"
            allowed = format_mb(self.value)
        return ResourceError(
            f"the smallest plan takes {what}, more than the {allowed}",
            f"allow at least {least}{hint}",
        )

    def tensor_bytes(self, header: Header, overhead_bytes: int) -> int | None:
        """Return the most that all tensors may take; `None` where quality is the limit.

        Args:
            header: The model's.
            overhead_bytes: What the file takes beside its tensors.
        """
        if self.kind == "bpw":
            return int(self.value * header.n_weights / 8)
        n_bytes = self.file_bytes(header)
        return None if n_bytes is None else n_bytes - overhead_bytes


def target_of(kind: Kind, text: str, kv_cache: KvCacheOptions | None = None) -> Target:
    """Return the target that a user typed: `1.9GB`, or a number.

    Args:
        kind: What it limits.
        text: How much.
        kv_cache: For `ram`: the context that has to fit beside the weights.

    Raises:
        UsageError: It is no size, or no number.
    """
    if kind in ("size", "ram"):
        n_bytes, label = parse_bytes(text), "".join(text.split()).upper()
        if kind == "size":
            return Target(kind, n_bytes, label)
        cache = kv_cache or KvCacheOptions(4096)
        return Target(kind, n_bytes, f"RAM{label}-CTX{cache.n_ctx}", cache)
    value = float(text)
    return Target(kind, value, f"{value:g}BPW" if kind == "bpw" else f"KLD{value:g}")


def _sizes(beside: dict[str, int]) -> str:
    return ", ".join(f"{what} {format_mib(n_bytes)}" for what, n_bytes in beside.items())


def require_sensible(target: Target) -> Target:
    """Return a target that can be meant.

    Raises:
        UsageError: It cannot.
    """
    limits = {"bpw": (1.5, 16.0), "kld": (1e-4, 5.0), "size": (1e5, 1e13), "ram": (1e5, 1e13)}
    low, high = limits[target.kind]
    if not low <= target.value <= high:
        number = f"{target.value:g}"
        if target.kind in ("size", "ram"):
            hint = f"a bare number is bytes: write {number}MB, or 1.9GB"
            raise UsageError(f"a target of {number} bytes cannot be meant", hint)
        raise UsageError(
            f"a target of {number} {_UNITS[target.kind]} cannot be meant",
            f"from {low:g} to {high:g}",
        )
    return target
