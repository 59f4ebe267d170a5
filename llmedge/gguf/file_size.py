"""The exact size of a GGUF file that llama.cpp's quantizer will write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.core.errors import UnsupportedError
from llmedge.gguf.quant_types import align

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmedge.gguf.reader import Header

_ALIGNMENT = 32  # the quantizer pads to this, whatever the source says
_KEY_BYTES = 8 + 4  # a key's length and its value's type
# What the quantizer writes into every file, 32 bits each.
# Source: src/llama-quant.cpp of llama.cpp, `gguf_set_val_u32`.
_ALWAYS = {"general.quantization_version": 0, "general.file_type": 0}


def quantized_file_bytes(
    source: Header, tensor_bytes: Iterable[int], metadata: Mapping[str, str | int | float]
) -> int:
    """Return the size of the file.

    Args:
        source: The file that is quantized.
        tensor_bytes: What each of its tensors takes afterwards.
        metadata: What is added: texts, and numbers that become 32 bits.

    Raises:
        UnsupportedError: The source has another alignment than the quantizer writes.
    """
    if source.alignment != _ALIGNMENT:
        raise UnsupportedError(
            f"{source.path} aligns its tensors to {source.alignment} bytes, which llama.cpp's "
            f"quantizer turns into a broken file",
            "convert the checkpoint again",
        )
    header_bytes = source.header_bytes
    for key, value in {**_ALWAYS, **metadata}.items():
        old = source.metadata.get(key)
        header_bytes += _entry_bytes(key, value) - (0 if old is None else _entry_bytes(key, old))
    return align(header_bytes, _ALIGNMENT) + sum(align(n, _ALIGNMENT) for n in tensor_bytes)


def _entry_bytes(key: str, value: object) -> int:
    size = 8 + len(value.encode()) if isinstance(value, str) else 4
    return len(key.encode()) + _KEY_BYTES + size
