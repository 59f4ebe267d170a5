"""What a run takes and what of it has to stay in memory; from a header alone.

Three sums matter. What is anonymous cannot be dropped: below it a process is killed. What is read
for every token has to stay, too: below it the file is read again and again. What llama.cpp reserves
is more than either, for most of its compute buffer is never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import Array

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmedge.gguf.reader import Header

_EMBEDDING, _OUTPUT, _PER_LAYER = (
    "token_embd.weight",
    "output.weight",
    "per_layer_token_embd.weight",
)
_REPACK_ROWS = 8
# Structures of the library: assumed, not measured.
_FIXED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RunMemory:
    """What one run takes, in bytes.

    Attributes:
        mapped_bytes: Weights read from the mapped file for each token.
        repacked_bytes: Weights copied into an order that kernels like better.
        kv_cache_bytes: Keys, values and states.
        compute_bytes: What of the compute buffer is touched.
        compute_reserved_bytes: All of it.
        runtime_bytes: The program around it.
    """

    mapped_bytes: int
    repacked_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    compute_reserved_bytes: int
    runtime_bytes: int

    @property
    def floor_bytes(self) -> int:
        """What cannot be dropped: with less, the process is killed."""
        return self.repacked_bytes + self.kv_cache_bytes + self.compute_bytes + self.runtime_bytes

    @property
    def resident_bytes(self) -> int:
        """What has to stay for full speed."""
        return self.floor_bytes + self.mapped_bytes

    @property
    def reserved_bytes(self) -> int:
        """What llama.cpp asks the system for, touched or not."""
        return self.resident_bytes - self.compute_bytes + self.compute_reserved_bytes


def run_memory(
    header: Header,
    options: KvCacheOptions,
    *,
    repacked_types: Collection[str] = (),
    runtime_bytes: int = 0,
    compute_reserved_bytes: int | None = None,
) -> RunMemory:
    """Compute what a run with a mapped file takes.

    Args:
        header: The model's.
        options: Its context.
        repacked_types: Types that the device's kernels want in another order.
        runtime_bytes: What the program takes without a model.
        compute_reserved_bytes: As llama.cpp itself says, where it was asked.

    Raises:
        UnsupportedError: The architecture's cache is not modelled.
        IntegrityError: The header's hyperparameters contradict each other.
    """
    names = {tensor.name for tensor in header.tensors}
    mapped = repacked = 0
    for tensor in header.tensors:
        if tensor.name == _PER_LAYER or (tensor.name == _EMBEDDING and _OUTPUT in names):
            continue  # single rows are read
        is_matrix = len(tensor.shape) > 1 and tensor.shape[1] % _REPACK_ROWS == 0
        if tensor.quant_type.name in repacked_types and is_matrix:
            repacked += tensor.n_bytes
        else:
            mapped += tensor.n_bytes
    reserved = compute_reserved_bytes
    if reserved is None:
        reserved = compute_buffer_formula(header, options.n_ubatch)
    touched = min(reserved, _touched_bytes(header, options.n_ubatch))
    kv = estimate_memory(header, options).kv_cache_bytes
    return RunMemory(mapped, repacked, kv, touched, reserved, runtime_bytes + _FIXED_BYTES)


def compute_buffer_formula(header: Header, n_ubatch: int) -> int:
    """Return what llama.cpp reserves to compute with: logits and two rows for each token.

    Exact for seven of eight dense models in logs of a phone app; others reserve more.
    """
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    n_vocab = tokens.length if isinstance(tokens, Array) else 0
    if not n_vocab:
        n_vocab = next((t.shape[-1] for t in header.tensors if t.name == _EMBEDDING), 0)
    n_embd = header.hyperparameter("embedding_length") or 0
    return 4 * n_ubatch * (n_vocab + 2 * n_embd)


def _touched_bytes(header: Header, n_ubatch: int) -> int:
    """Return what is written while a prompt is processed: activations of one layer.

    Its factors were chosen to give the only two measurements there are: 15.7 MiB at 512 tokens and
    5.8 MiB at 128, with SmolLM2-135M. Of other models nothing is shown.
    """
    n_embd = header.hyperparameter("embedding_length") or 0
    n_ff = header.hyperparameter("feed_forward_length") or 4 * n_embd
    return 4 * n_ubatch * (2 * n_ff + 6 * n_embd) + (5 << 19)
