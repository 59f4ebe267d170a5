"""What each quant type would cost each tensor: measured where it matters, scaled from there.

A tensor's loss with a type is the KL divergence that the type's round trip of that tensor alone
makes on real text. One type is tried for every tensor; the heaviest tensors, and the matrices of
the vocabulary, are tried with every type. For all others the loss goes with the importance-weighted
squared error of the weights, which needs no model to run.

Source: Malinovskii et al., "Pushing the Limits of Large Language Model Quantization via the
Linearity Theorem", NAACL 2025, for the proportion.
"""

from __future__ import annotations

import concurrent.futures
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.gguf.imatrix_file import read_imatrix
from llmedge.gguf.quant_types import BY_NAME
from llmedge.gguf.tensor_roles import EMBEDDING, OUTPUT, role_of
from llmedge.quantize.kernels import KERNELS, fast_types
from llmedge.quantize.plan import Choice
from llmedge.quantize.probe import Prober
from llmedge.quantize.weights import Importance, Weights, round_trip, weighted_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmedge.core.progress import Progress, Task
    from llmedge.gguf.quant_types import QuantType
    from llmedge.gguf.reader import Header, TensorInfo
    from llmedge.quantize.kernels import Kernels
    from llmedge.quantize.probe import ProbeOptions
    from llmedge.store.journal import Journal

_SAMPLE_ROWS = 256
_N_HEAVIEST = 5


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What was measured of a model.

    Attributes:
        tensors: Those that were, in the file's order.
        errors: Weighted error by tensor and type, on a sample of rows.
        klds: Mean KL divergence of each chunk, by tensor and type; not every pair is there.
        weights: How much each chunk counts; they sum to 1.
    """

    tensors: tuple[TensorInfo, ...]
    errors: Mapping[tuple[str, str], float]
    klds: Mapping[tuple[str, str], tuple[float, ...]]
    weights: tuple[float, ...]

    def loss(self, tensor: TensorInfo, quant_type: str) -> float:
        """Return the KL divergence that a tensor's type is expected to add, in nats."""
        if (tensor.name, quant_type) in self.klds:
            return self._mean(tensor.name, quant_type)
        first = first_type(tensor).name
        error = self.errors[tensor.name, first]
        if error == 0:  # nothing enters it, or its weights are all alike
            return 0.0
        return self._mean(tensor.name, first) * self.errors[tensor.name, quant_type] / error

    def choices(self, kernels: Kernels) -> dict[str, list[Choice]]:
        """Return what each tensor may become with these kernels."""
        return {
            tensor.name: [
                Choice(kind.name, kind.row_bytes(tensor.n_weights), self.loss(tensor, kind.name))
                for kind in fast_types(kernels, tensor.shape[0])
            ]
            for tensor in self.tensors
        }

    def _mean(self, name: str, quant_type: str) -> float:
        klds = self.klds[name, quant_type]
        return sum(kld * weight for kld, weight in zip(klds, self.weights, strict=True))


def first_type(tensor: TensorInfo) -> QuantType:
    """Return the type that every tensor is tried with: of the size that most plans end with."""
    return BY_NAME["Q4_K" if tensor.shape[0] % 256 == 0 else "Q4_0"]


def measure_sensitivity(
    header: Header,
    tensors: Sequence[TensorInfo],
    options: ProbeOptions,
    weights: tuple[float, ...],
    journal: Journal,
    progress: Progress,
) -> Sensitivity:
    """Measure what is not in the journal yet.

    Args:
        header: The model's, its weights of types that can be changed in memory.
        tensors: Those that a plan decides on.
        options: How to try them.
        weights: How much each chunk of the text counts.
        journal: Keeps each finding at once, so that a killed process goes on.
        progress: Shows both parts.

    Raises:
        ResourceError: Memory ran out, or the disk is full.
        IntegrityError: llama.cpp crashes on the file, a weight is not finite, or it changes
            meanwhile.
    """
    importance: Importance = read_imatrix(options.imatrix).weights if options.imatrix else {}
    tried = [tensor for tensor in tensors if tensor.shape[0] % 32 == 0]
    findings = _Findings(header, journal, len(weights))
    with Weights(header, importance) as reader:
        errors = _measure_errors(reader, tried, options.n_threads, findings, progress)
    probes = _Probes(options, findings)
    try:
        pairs = [(tensor, first_type(tensor).name) for tensor in tried]
        with progress.task("trying each tensor", total=len(pairs), unit="tensors") as task:
            klds = dict(probes.measure(pairs, task))
        measured = [tensor for tensor in tried if (tensor.name, first_type(tensor).name) in klds]
        sensitivity = Sensitivity(tuple(measured), errors, klds, weights)
        pairs = [
            (tensor, kind.name) for tensor in _heaviest(sensitivity) for kind in _all_types(tensor)
        ]
        with progress.task("trying the heaviest", total=len(pairs), unit="trials") as task:
            klds.update(probes.measure(pairs, task))
    finally:
        probes.close()
    return Sensitivity(tuple(measured), errors, klds, weights)


def _heaviest(sensitivity: Sensitivity) -> list[TensorInfo]:
    """Return the vocabulary's matrices and the tensors whose first trial did most harm."""
    tensors = sorted(
        sensitivity.tensors,
        key=lambda tensor: sensitivity.loss(tensor, first_type(tensor).name),
        reverse=True,
    )
    always = [tensor for tensor in tensors if role_of(tensor.name) in (EMBEDDING, OUTPUT)]
    others = [tensor for tensor in tensors if tensor not in always]
    return always + others[:_N_HEAVIEST]


def _all_types(tensor: TensorInfo) -> list[QuantType]:
    """Return every type on any processor's menu: with another, nothing is measured again."""
    names = dict.fromkeys(name for kernels in KERNELS for name in _names(kernels, tensor))
    return [BY_NAME[name] for name in names]


def _tried_types(tensor: TensorInfo) -> list[QuantType]:
    """Return every type whose error is measured."""
    return list(dict.fromkeys((*_all_types(tensor), first_type(tensor))))


def _names(kernels: Kernels, tensor: TensorInfo) -> list[str]:
    return [kind.name for kind in fast_types(kernels, tensor.shape[0])]


class _Findings:
    """What was found before: facts in the journal that are whole, of the file that is there now."""

    def __init__(self, header: Header, journal: Journal, n_chunks: int) -> None:
        self._header = header
        self._journal = journal
        self._n_chunks = n_chunks

    def error(self, name: str, quant_type: str) -> float | None:
        """Return a tensor's weighted error; `None` where it is to be measured."""
        values = self._sound(f"error {name} {quant_type}", 1)
        return values[0] if values and values[0] >= 0 else None

    def klds(self, name: str, quant_type: str) -> tuple[float, ...] | None:
        """Return the KL divergence of each chunk; `None` where it is to be measured."""
        return self._sound(f"kld {name} {quant_type}", self._n_chunks)

    def add_errors(self, name: str, errors: Mapping[str, float]) -> None:
        self._add({f"error {name} {kind}": (error,) for kind, error in errors.items()})

    def add_klds(self, name: str, quant_type: str, klds: tuple[float, ...]) -> None:
        self._add({f"kld {name} {quant_type}": klds})

    def _sound(self, fact: str, n_values: int) -> tuple[float, ...] | None:
        if fact not in self._journal:
            return None
        values = self._journal[fact]
        is_sound = len(values) == n_values and all(map(math.isfinite, values))
        return values if is_sound else None

    def _add(self, facts: Mapping[str, tuple[float, ...]]) -> None:
        self._header.require_unchanged()
        self._journal.add(facts)


def _measure_errors(
    reader: Weights,
    tensors: Sequence[TensorInfo],
    n_threads: int,
    findings: _Findings,
    progress: Progress,
) -> dict[tuple[str, str], float]:
    def measure(tensor: TensorInfo) -> dict[str, float]:
        parts = list(reader.sample(tensor, _SAMPLE_ROWS))
        return {
            kind.name: sum(weighted_error(part, round_trip(part, kind)) for part in parts)
            for kind in _tried_types(tensor)
        }

    known = {
        (tensor.name, kind.name): findings.error(tensor.name, kind.name)
        for tensor in tensors
        for kind in _tried_types(tensor)
    }
    missing = [
        tensor
        for tensor in tensors
        if any(known[tensor.name, kind.name] is None for kind in _tried_types(tensor))
    ]
    with (
        progress.task("weighing errors", total=len(missing), unit="tensors") as task,
        concurrent.futures.ThreadPoolExecutor(n_threads) as pool,
    ):
        # ggml leaves the interpreter free; only a few tensors' samples are in memory at once.
        for done, errors in enumerate(pool.map(measure, missing), start=1):
            tensor = missing[done - 1]
            findings.add_errors(tensor.name, errors)
            known |= {(tensor.name, kind): error for kind, error in errors.items()}
            task.update(done)
    return {pair: error for pair, error in known.items() if error is not None}


class _Probes:
    """Trials of single tensors; the model is loaded for those that the journal does not have."""

    def __init__(self, options: ProbeOptions, findings: _Findings) -> None:
        self._options = options
        self._findings = findings
        self._prober: Prober | None = None

    def measure(
        self, pairs: Sequence[tuple[TensorInfo, str]], task: Task
    ) -> Iterator[tuple[tuple[str, str], tuple[float, ...]]]:
        for done, (tensor, quant_type) in enumerate(pairs, start=1):
            klds = self._findings.klds(tensor.name, quant_type)
            if klds is None:
                self._prober = self._prober or Prober(self._options)
                if tensor.name not in self._prober.names:
                    continue  # not part of what the model computes: its type is the mix's
                klds = self._prober.measure({tensor.name: quant_type})
                self._findings.add_klds(tensor.name, quant_type, klds)
            yield (tensor.name, quant_type), klds
            task.update(done, tensor.name)

    def close(self) -> None:
        if self._prober is not None:
            self._prober.close()
