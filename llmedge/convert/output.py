"""The files of a variant: which type each tensor gets, and where its bytes will lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.convert.stream import OutputTensor
from llmedge.core.errors import IntegrityError, UsageError
from llmedge.gguf.mix_rules import Assignment, ModelShape, TensorShape, assign_types
from llmedge.gguf.quant_types import BY_NAME, F16, F32
from llmedge.gguf.tensor_roles import storage_type
from llmedge.gguf.writer import (
    I32,
    U16,
    encode_header,
    encode_metadata,
    lay_out,
    padded_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from llmedge.convert.rows import Rows
    from llmedge.gguf.imatrix_file import Imatrix
    from llmedge.gguf.mixes import Mix
    from llmedge.gguf.quant_types import QuantType
    from llmedge.gguf.writer import Metadata

    Sized = tuple[str, tuple[int, ...], QuantType]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to be written.

    Attributes:
        path: Its final name.
        header: Everything before the weights.
        tensors: In the file's order.
    """

    path: Path
    header: bytes
    tensors: tuple[OutputTensor, ...]

    @property
    def n_bytes(self) -> int:
        """Its size when it is finished."""
        return len(self.header) + sum(padded_bytes(tensor.info) for tensor in self.tensors)


def choose_types(
    mix: Mix,
    rows: Mapping[str, Rows],
    shape: ModelShape,
    *,
    source_type: QuantType,
    has_imatrix: bool,
) -> dict[str, Assignment]:
    """Return what each tensor becomes.

    Args:
        mix: The mix.
        rows: The tensors by name.
        shape: What the mix's rules look at.
        source_type: What the checkpoint mostly is: F32, F16 or BF16.
        has_imatrix: Whether columns are weighted.

    Raises:
        UnsupportedError: A tensor fits no type of the mix.
    """
    tensors = [
        TensorShape(name, _ggml_shape(part), storage_type(name, len(part.shape), source_type))
        for name, part in rows.items()
    ]
    types = assign_types(mix, tensors, shape, has_imatrix=has_imatrix)
    for name, part in rows.items():
        if packed := _packed_type(part, mix):
            types[name] = Assignment(packed)
    return types


def _packed_type(rows: Rows, mix: Mix) -> QuantType | None:
    """Return the type of blocks that are there already, which lose nothing as they are."""
    if rows.packed is None or mix.base in (F16, F32) or mix.base.name == "BF16":
        return None
    packed = BY_NAME[rows.packed.type_name]
    return packed if packed.bits_per_weight <= mix.base.bits_per_weight else None


def output_files(
    target: Path,
    metadata: Metadata,
    rows: Mapping[str, Rows],
    types: Mapping[str, Assignment],
    imatrix: Imatrix | None = None,
    *,
    architecture: str = "",
    max_bytes: int | None = None,
) -> tuple[OutputFile, ...]:
    """Lay a variant out, in one file or in parts.

    Args:
        target: The final name; parts are numbered as llama.cpp does it.
        metadata: All of it; parts after the first carry the architecture and their number.
        rows: The tensors by name.
        types: What each becomes.
        imatrix: Weights of the columns.
        architecture: llama.cpp's name, for the parts.
        max_bytes: Bytes of tensors in a part at most; `None` makes one file.

    Raises:
        UsageError: A tensor is larger than a part.
        IntegrityError: The importance matrix is of another model.
    """
    sized = [(name, _ggml_shape(part), types[name].quant_type) for name, part in rows.items()]
    parts = [sized] if max_bytes is None else _split(sized, max_bytes)
    if len(parts) == 1:
        return (_file(target, metadata, sized, rows, imatrix),)
    short = encode_metadata({"general.architecture": architecture})
    return tuple(
        _file(
            _part_path(target, number, len(parts)),
            (metadata if number == 0 else short) + _part_metadata(number, len(parts), len(sized)),
            part,
            rows,
            imatrix,
        )
        for number, part in enumerate(parts)
    )


def _file(
    path: Path,
    metadata: Metadata,
    sized: Sequence[Sized],
    rows: Mapping[str, Rows],
    imatrix: Imatrix | None,
) -> OutputFile:
    infos = lay_out(sized)
    tensors = tuple(
        OutputTensor(info, rows[info.name], _importance(imatrix, info.name, rows[info.name]))
        for info in infos
    )
    return OutputFile(path, encode_header(metadata, infos), tensors)


def _split(sized: Sequence[Sized], max_bytes: int) -> list[list[Sized]]:
    parts: list[list[Sized]] = [[]]
    n_bytes = 0
    for info, tensor in zip(lay_out(sized), sized, strict=True):
        size = padded_bytes(info)
        if size > max_bytes:
            raise UsageError(
                f"tensor {info.name} has {size} bytes, more than a part may have ({max_bytes})",
                "choose a larger --split-max-size",
            )
        if n_bytes + size > max_bytes:
            parts.append([])
            n_bytes = 0
        parts[-1].append(tensor)
        n_bytes += size
    return parts


def _part_path(target: Path, number: int, n_parts: int) -> Path:
    return target.with_name(f"{target.stem}-{number + 1:05d}-of-{n_parts:05d}.gguf")


def _part_metadata(number: int, n_parts: int, n_tensors: int) -> Metadata:
    # Source: src/llama-arch.cpp of llama.cpp, `LLM_KV_SPLIT_NO` and its like.
    return encode_metadata(
        {
            "split.no": U16(number),
            "split.count": U16(n_parts),
            "split.tensors.count": I32(n_tensors),
        }
    )


def _ggml_shape(rows: Rows) -> tuple[int, ...]:
    return tuple(reversed(rows.shape))


def _importance(imatrix: Imatrix | None, name: str, rows: Rows) -> NDArray[np.float32] | None:
    weights = imatrix.weights.get(name) if imatrix else None
    if weights is None:
        return None
    n_matrices = rows.n_rows // rows.shape[-2] if len(rows.shape) > 1 else 1
    if weights.size == n_matrices * rows.n_columns:
        return weights.reshape(n_matrices, rows.n_columns)
    if weights.size == rows.n_columns:
        return weights.reshape(1, rows.n_columns)
    raise IntegrityError(
        f"the importance matrix has {weights.size} columns for {name}, the tensor has "
        f"{n_matrices} × {rows.n_columns}",
        "it was computed for another model",
    )
