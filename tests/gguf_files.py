"""GGUF files for tests, written with the PyPI package gguf: small, real, and damaged on purpose."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

N_EMBD, N_HEADS, N_KV_HEADS, N_FF, N_LAYERS = 256, 4, 2, 256, 1
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_tiny_model(
    path: Path, *, change: Callable[[gguf.GGUFWriter], None] | None = None, seed: int = 0
) -> Path:
    """Write a llama with random weights and a vocabulary of the 256 bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEADS)
    writer.add_file_type(0)
    n_vocab = add_byte_vocabulary(writer)
    if change is not None:
        change(writer)
    add_weights(writer, n_vocab, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_byte_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Add a SentencePiece vocabulary whose every token is one byte."""
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    tokens.append("▁".encode())  # SentencePiece's space
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(tokens)


def add_weights(writer: gguf.GGUFWriter, n_vocab: int, random: np.random.Generator) -> None:
    """Add a llama's tensors."""
    n_kv = N_EMBD // N_HEADS * N_KV_HEADS

    def matrix(name: str, n_out: int, n_in: int, n_zero_rows: int = 0) -> None:
        weights = random.standard_normal((n_out, n_in)) / np.sqrt(n_in)
        weights[:n_zero_rows] = 0
        writer.add_tensor(name, weights.astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(N_EMBD, dtype=np.float32))

    matrix("token_embd.weight", n_vocab, N_EMBD)
    for layer in range(N_LAYERS):
        prefix = f"blk.{layer}"
        norm(f"{prefix}.attn_norm.weight")
        matrix(f"{prefix}.attn_q.weight", N_EMBD, N_EMBD)
        matrix(f"{prefix}.attn_k.weight", n_kv, N_EMBD)
        matrix(f"{prefix}.attn_v.weight", n_kv, N_EMBD)
        matrix(f"{prefix}.attn_output.weight", N_EMBD, N_EMBD)
        norm(f"{prefix}.ffn_norm.weight")
        matrix(f"{prefix}.ffn_gate.weight", N_FF, N_EMBD)
        matrix(f"{prefix}.ffn_up.weight", N_FF, N_EMBD)
        matrix(f"{prefix}.ffn_down.weight", N_EMBD, N_FF)
    norm("output_norm.weight")
    # The control tokens are never the most likely: greedy text has no end.
    matrix("output.weight", n_vocab, N_EMBD, n_zero_rows=3)


def low_ranks(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return what a LoRA adapter adds to two of the tiny model's matrices: A and B of each."""
    random = np.random.default_rng(seed)
    return {
        name: tuple(  # type: ignore[misc]
            (random.standard_normal(shape) / 8).astype(np.float32) for shape in ((4, n), (m, 4))
        )
        for name, (m, n) in {
            "blk.0.attn_q.weight": (N_EMBD, N_EMBD),
            "blk.0.ffn_down.weight": (N_EMBD, N_FF),
        }.items()
    }


def write_tiny_lora(path: Path, seed: int, *, architecture: str = "llama", n_in: int = 0) -> Path:
    """Write a LoRA adapter of the tiny model; `n_in` makes one that does not fit."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for name, (a, b) in low_ranks(seed).items():
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a[:, : n_in or None]))
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_merged_model(path: Path, *adapters: tuple[int, float]) -> Path:
    """Write the tiny model with adapters added to its weights: by their seeds, with scales."""

    def change(writer: gguf.GGUFWriter) -> None:
        plain = writer.add_tensor

        def add(name: str, weights: np.ndarray) -> None:
            for seed, scale in adapters:
                if name in low_ranks(seed):
                    a, b = low_ranks(seed)[name]
                    weights = weights + np.float32(scale) * b @ a
            plain(name, weights)

        writer.add_tensor = add  # type: ignore[method-assign]

    return write_tiny_model(path, change=change)


def raw_header(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_kv: int | None = None,
    kv: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
) -> bytes:
    """Build a file by hand, right or wrong."""
    counts = struct.pack(
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(kv) if n_kv is None else n_kv,
    )
    head = magic + counts + b"".join(kv) + b"".join(tensors)
    padding = -len(head) % 32 if tensors else 0
    return head + bytes(padding) + data


def string(text: str | bytes) -> bytes:
    """Encode a GGUF string."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def kv_string(key: str, value: str | bytes) -> bytes:
    """Encode a string in the metadata."""
    return string(key) + struct.pack("<I", 8) + string(value)


def kv_u32(key: str, value: int) -> bytes:
    """Encode a number in the metadata."""
    return string(key) + struct.pack("<II", 4, value)


def kv_array(key: str, kind: int, length: int, payload: bytes) -> bytes:
    """Encode an array in the metadata."""
    return string(key) + struct.pack("<IIQ", 9, kind, length) + payload


def tensor_info(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """Encode a tensor's entry."""
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dims + struct.pack("<IQ", kind, offset)


ARCHITECTURE = kv_string("general.architecture", "llama")


def replace_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Overwrite a value that was added to a writer."""
    old = writer.kv_data[0][key]
    writer.kv_data[0][key] = gguf.gguf_writer.GGUFValue(value, old.type)
