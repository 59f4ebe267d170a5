"""What an importance matrix says of a model's tensors, and what those get that it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import UnsupportedError
from llmedge.gguf.mix_rules import needs_imatrix
from llmedge.gguf.tensor_roles import EMBEDDING, OUTPUT, quantizable_tensors, role_of
from llmedge.store.manifest import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llmedge.gguf.mixes import Mix
    from llmedge.gguf.reader import Header
    from llmedge.runtime.quantizer import TensorPlan

_NAME_CHARS = 16
# The same as `Coverage.metadata` in length, before there is a matrix.
EXPECTED_METADATA: dict[str, str | int | float] = {
    "quantize.imatrix.file": "0" * _NAME_CHARS + ".gguf",
    "quantize.imatrix.entries_count": 0,
    "quantize.imatrix.chunks_count": 0,
}
# What a tensor gets that must not have fewer bits without its importance.
_PIN = "Q3_K"


@dataclass(frozen=True, slots=True)
class Coverage:
    """An importance matrix held against a model.

    Attributes:
        file: The matrix's file name.
        sha256: Its hash.
        datasets: The texts that it was computed on.
        n_chunks: How many pieces of text.
        n_tensors: Tensors that it covers.
        uncovered: Tensors that may be quantized and that it does not cover, an embedding that is
            only looked up left out.
        unreached: Tensors that no token reached, and experts, as `tensor: 3, 7`: their weights all
            count alike.
    """

    file: str
    sha256: str
    datasets: tuple[str, ...]
    n_chunks: int
    n_tensors: int
    uncovered: tuple[str, ...]
    unreached: tuple[str, ...]

    @property
    def metadata(self) -> dict[str, str | int | float]:
        """What a quantized file says of it. Source: tools/quantize/quantize.cpp of llama.cpp."""
        return {
            "quantize.imatrix.file": f"{self.sha256[:_NAME_CHARS]}.gguf",
            "quantize.imatrix.entries_count": self.n_tensors,
            "quantize.imatrix.chunks_count": self.n_chunks,
        }

    def pins(self, plan: Iterable[TensorPlan], mix: Mix) -> dict[str, str]:
        """Return the types of tensors that would need what is not known of them."""
        unknown = {*self.uncovered, *self.unreached}
        return {
            tensor.name: _PIN
            for tensor in plan
            if tensor.name in unknown and needs_imatrix(tensor.name, tensor.target_type, mix)
        }


def read_coverage(path: Path, header: Header) -> Coverage:
    """Read an importance matrix and hold it against a model.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is damaged.
        UnsupportedError: It is of another model.
    """
    from llmedge.gguf.imatrix_file import read_imatrix  # numpy, for a matrix only

    imatrix = read_imatrix(path)
    tensors = {tensor.name: tensor for tensor in quantizable_tensors(header)}
    known = [name for name in imatrix.weights if name in tensors]
    for name in known:
        tensor, values = tensors[name], imatrix.weights[name]
        n_wanted = tensor.n_weights // tensor.shape[1]
        if values.size != n_wanted:
            raise UnsupportedError(
                f"{path} is of another model: it has {values.size} columns for {name}, "
                f"which has {n_wanted}",
                "compute one with this very model: llmedge imatrix",
            )
    if not known:
        raise UnsupportedError(
            f"{path} covers no tensor of {header.path.name}: it is of another model",
            "compute one with this very model: llmedge imatrix",
        )
    is_tied = not any(role_of(name) == OUTPUT for name in tensors)
    uncovered = [
        name
        for name in tensors
        if name not in imatrix.weights and (is_tied or role_of(name) != EMBEDDING)
    ]
    return Coverage(
        file=path.name,
        sha256=hash_file(path),
        datasets=imatrix.datasets,
        n_chunks=imatrix.n_chunks,
        n_tensors=len(known),
        uncovered=tuple(uncovered),
        unreached=tuple(
            _unreached(name, imatrix.unreached[name], len(imatrix.weights[name]))
            for name in known
            if name in imatrix.unreached
        ),
    )


def _unreached(name: str, numbers: tuple[int, ...], n_matrices: int) -> str:
    is_whole = len(numbers) == n_matrices
    return name if is_whole else f"{name}: {', '.join(map(str, numbers))}"
