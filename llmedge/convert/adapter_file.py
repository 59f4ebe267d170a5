"""A LoRA adapter as a file of its own, which llama.cpp adds to a model while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.convert.adapter import adapter_tensors, read_adapter
from llmedge.convert.config import read_config
from llmedge.convert.registry import find_architecture
from llmedge.core.errors import UsageError
from llmedge.gguf.writer import encode_header, encode_metadata, lay_out, padded_bytes
from llmedge.runtime.row_quantizer import quantize_rows
from llmedge.store.atomic import replacing, require_new

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.mixes import Mix

_PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What became of an adapter.

    Attributes:
        path: Its file.
        architecture: The architecture that it fits.
        n_matrices: Matrices that it adds to.
        file_bytes: Its size.
    """

    path: Path
    architecture: str
    n_matrices: int
    file_bytes: int


def convert_adapter(
    base: Path, adapter: Path, target: Path, mix: Mix, *, overwrite: bool
) -> AdapterReport:
    """Write an adapter for a converted base model.

    Args:
        base: The base checkpoint's folder; only its configuration is read.
        adapter: The PEFT adapter's folder.
        target: The file to write.
        mix: F32, F16 or BF16.
        overwrite: Whether to replace what is there.

    Raises:
        UsageError: The target exists, or the type is not plain.
        UnsupportedError: llama.cpp cannot add what the adapter adds.
    """
    if mix.name not in _PLAIN:
        raise UsageError(f"an adapter cannot be {mix.name}", f"use -t {' or '.join(_PLAIN)}")
    require_new(target, overwrite=overwrite)
    config = read_config(base)
    architecture = find_architecture(config)
    rows = adapter_tensors(
        read_adapter(adapter), architecture, config.with_defaults(architecture.defaults)
    )
    infos = lay_out((name, tuple(reversed(part.shape)), mix.base) for name, part in rows.items())
    metadata = encode_metadata(
        {
            "general.architecture": architecture.name,
            "general.type": "adapter",
            "general.name": adapter.resolve().name,
            "general.file_type": mix.ftype,
            "adapter.type": "lora",
        }
    )
    with replacing(target) as partial, partial.open("wb") as file:
        file.write(encode_header(metadata, infos))
        for info in infos:
            part = rows[info.name]
            file.write(quantize_rows(mix.base, part.read(0, part.n_rows)).data)
            file.write(bytes(padded_bytes(info) - info.n_bytes))
    return AdapterReport(target, architecture.name, len(rows) // 2, target.stat().st_size)
