"""Plans for any size, from what was measured of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmedge.gguf.file_size import quantized_file_bytes
from llmedge.gguf.quant_types import BY_NAME, align
from llmedge.quantize.plan import Allocation, allocate
from llmedge.quantize.stock import stock_types

if TYPE_CHECKING:
    from llmedge.quantize.job import Job
    from llmedge.quantize.kernels import Kernels
    from llmedge.quantize.sensitivity import Sensitivity
    from llmedge.quantize.target import Target

_PADDING = 32
_STEPS = 2048  # how finely a size is looked for


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
        return self.within_loss(target.value) if room is None else self.within(room)

    def room(self, target: Target) -> int | None:
        """Return the most that all tensors may take; `None` where quality is the limit.

        Raises:
            ResourceError: Nothing is left for tensors.
        """
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
