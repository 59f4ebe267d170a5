"""Plans for any size, from what was measured of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmedge.gguf.file_size import quantized_file_bytes
from llmedge.gguf.quant_types import BY_NAME, F16, align
from llmedge.gguf.tensor_roles import quantizable_tensors
from llmedge.quantize.kernels import fast_types
from llmedge.quantize.plan import Allocation, allocate
from llmedge.quantize.stock import stock_types

if TYPE_CHECKING:
    from llmedge.gguf.reader import Header
    from llmedge.quantize.job import Job
    from llmedge.quantize.kernels import Kernels
    from llmedge.quantize.sensitivity import Sensitivity
    from llmedge.quantize.target import Target

_PADDING = 32
_STEPS = 2048  # how finely a size is looked for


def require_possible(header: Header, target: Target, kernels: Kernels) -> None:
    """Make sure that some plan may keep to a target, before anything is measured.

    Raises:
        ResourceError: Even the smallest types of all tensors take more.
    """
    overhead_bytes = quantized_file_bytes(header, (), {})
    room = target.tensor_bytes(header, overhead_bytes)
    if room is None:
        return
    sizes = {tensor.name: tensor.n_bytes for tensor in header.tensors}
    for tensor in quantizable_tensors(header):
        # Rows that fit no type's blocks become 16-bit.
        kinds = fast_types(kernels, tensor.shape[0]) or [F16]
        sizes[tensor.name] = min(kind.row_bytes(tensor.n_weights) for kind in kinds)
    smallest = sum(align(n_bytes, _PADDING) for n_bytes in sizes.values())
    if smallest > room:
        raise target.too_small(header, smallest, overhead_bytes, hint=_hint(kernels))


def _hint(kernels: Kernels) -> str:
    return "" if kernels == "generic" else ", or smaller types with --kernels generic"


class Plans:
    """Plans for one model.

    Args:
        job: What is to be made; its mix decides on tensors that were not measured.
        sensitivity: What was measured.
        kernels: Where the plans have to be fast.
    """

    def __init__(self, job: Job, sensitivity: Sensitivity, kernels: Kernels) -> None:
        header = job.header
        base = stock_types(header, job.mix, has_imatrix=job.coverage is not None)
        self._header = header
        self._kernels: Kernels = kernels
        self._choices = {
            name: [replace(choice, n_bytes=align(choice.n_bytes, _PADDING)) for choice in row]
            for name, row in sensitivity.choices(kernels).items()
        }
        self._fixed_bytes = sum(
            align(BY_NAME[base[tensor.name]].row_bytes(tensor.n_weights), _PADDING)
            for tensor in header.tensors
            if tensor.name not in self._choices
        )
        self._overhead_bytes = quantized_file_bytes(header, (), job.metadata)

    def best(self, target: Target) -> Allocation:
        """Return the best plan for a target, as far as predictions can tell.

        Raises:
            ResourceError: Nothing keeps to it.
        """
        room = self.room(target)
        if room is None:
            return self.within_loss(target.value)
        smallest = self._fixed_bytes + sum(
            min(choice.n_bytes for choice in row) for row in self._choices.values()
        )
        if smallest > room:
            hint = _hint(self._kernels)
            raise target.too_small(self._header, smallest, self._overhead_bytes, hint=hint)
        return self.within(room)

    def room(self, target: Target) -> int | None:
        """Return the most that all tensors may take; `None` where quality is the limit."""
        return target.tensor_bytes(self._header, self._overhead_bytes)

    def within(self, tensor_bytes: int) -> Allocation:
        """Return the best plan whose tensors take at most so many bytes.

        Raises:
            ResourceError: Even the smallest types take more.
        """
        return allocate(self._choices, tensor_bytes - self._fixed_bytes)

    def within_loss(self, max_loss: float) -> Allocation:
        """Return the smallest plan that is predicted to lose at most so much; else the best."""
        low = sum(min(choice.n_bytes for choice in row) for row in self._choices.values())
        high = sum(max(choice.n_bytes for choice in row) for row in self._choices.values())
        step = high // _STEPS + 1
        best = allocate(self._choices, high)
        while high - low > step and best.loss <= max_loss:
            middle = (low + high) // 2
            plan = allocate(self._choices, middle)
            if plan.loss <= max_loss:
                best, high = plan, middle
            else:
                low = middle
        return best

    def tensor_bytes(self, plan: Allocation) -> int:
        """Return what all tensors take with a plan, padded as in a file."""
        return plan.n_bytes + self._fixed_bytes
