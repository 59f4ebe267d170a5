"""What a change of weights does to a model's predictions, tried in memory.

A child process loads the model once and remembers its predictions on a short text. For each trial
it overwrites weights where they lie with their round trip through a quant type, predicts again,
compares, and puts the weights back from the file: no file is written and nothing is loaded twice.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from llmedge.core.closable import Closable
from llmedge.core.errors import EngineError, IntegrityError, ResourceError, UnsupportedError
from llmedge.gguf.imatrix_file import read_imatrix
from llmedge.gguf.quant_types import BY_ID, BY_NAME
from llmedge.host.child import Child, ChildDied
from llmedge.measure.predictions import ROWS_AT_ONCE, LogitRows
from llmedge.quantize.weights import Importance, Part, Weights, round_trip
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.observer import LoadedWeight, Observation, Product
from llmedge.runtime.row_quantizer import quantize_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from llmedge.gguf.quant_types import QuantType
    from llmedge.gguf.reader import Header
    from llmedge.host.child import Talk

# Types that a round trip can be written back into with next to no loss of its own.
WRITABLE = ("F32", "F16", "BF16", "Q8_0")


@dataclass(frozen=True, slots=True)
class ProbeText:
    """What the model predicts in every trial.

    Attributes:
        chunks: Tokens of each chunk; all chunks are decoded at once, as sequences of their own.
        n_skipped: Tokens at the start of each chunk whose predictions are not compared.
    """

    chunks: tuple[tuple[int, ...], ...]
    n_skipped: int

    @property
    def n_tokens(self) -> int:
        """Tokens of a trial."""
        return sum(map(len, self.chunks))


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How to try.

    Attributes:
        source: The model's file, of `WRITABLE` types.
        imatrix: An importance matrix, for the types that use one.
        text: What to predict.
        n_threads: Threads to compute with.
    """

    source: Path
    imatrix: Path | None
    text: ProbeText
    n_threads: int


class Prober(Closable):
    """Tries changes of weights in a child of its own.

    Args:
        options: How.

    Attributes:
        names: The tensors that can be changed: those that the model computes with.

    Raises:
        UnsupportedError: None of its weights can be.
        ResourceError: Memory ran out.
        IntegrityError: llama.cpp refuses the file or crashes on it.
    """

    def __init__(self, options: ProbeOptions) -> None:
        self._source = options.source
        self._child = Child(_serve, options)
        self._messages = self._translated()
        try:
            self.names = cast("frozenset[str]", next(self._messages))
        except BaseException:
            self.close()
            raise

    def measure(self, types: Mapping[str, str]) -> tuple[float, ...]:
        """Return the KL divergence from the unchanged model, in nats, the mean of each chunk.

        Args:
            types: The quant type that each changed tensor goes through.
        """
        self._child.say(dict(types))
        return cast("tuple[float, ...]", next(self._messages))

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _translated(self) -> Iterator[object]:
        try:
            yield from self._child.messages()
        except ChildDied as death:
            if death.cause == "SIGKILL":
                raise ResourceError(
                    "the measurement was killed: most likely the system ran out of memory",
                    "close other programs; what was measured is kept",
                ) from None
            raise IntegrityError(
                f"measuring {self._source} ended by {death.cause}: {death.stderr}",
                "the file is damaged: get it again, or convert it again",
            ) from None


def _serve(talk: Talk, options: ProbeOptions) -> None:
    """Run in the child."""
    importance: Importance = read_imatrix(options.imatrix).weights if options.imatrix else {}
    chunks = options.text.chunks
    n_tokens = options.text.n_tokens
    model_options = ModelOptions(load_mode="read", repack=False, n_gpu_layers=0)
    context_options = ContextOptions(
        n_ctx=n_tokens,
        n_batch=n_tokens,
        n_ubatch=n_tokens,
        n_seq_max=len(chunks),
        n_threads=options.n_threads,
    )
    locator = _Locator()
    with Model.load(options.source, model_options) as model:
        with Context(model, context_options, Observation(locator)) as context:
            _decode(context, options.text)
        with (
            Context(model, context_options) as context,
            Weights(model.header, importance) as weights,
        ):
            memory = _Memory(model.header, weights, locator.weights)
            comparison = _Comparison(_decode(context, options.text), options.text)
            talk.say(memory.names)
            while True:
                types = cast("dict[str, str]", talk.hear())
                memory.change(types)
                talk.say(comparison.klds(_decode(context, options.text)))
                memory.restore(types)


class _Locator:
    """Finds out where each weight lies, and watches nothing."""

    def __init__(self) -> None:
        self.weights: dict[str, LoadedWeight] = {}

    def wants(self, weight: LoadedWeight, n_rows: int) -> bool:
        del n_rows
        self.weights[weight.name] = weight
        return False

    def see(self, product: Product) -> None:
        del product


class _Memory:
    """The loaded weights, changed and put back."""

    def __init__(
        self, header: Header, weights: Weights, located: Mapping[str, LoadedWeight]
    ) -> None:
        self._weights = weights
        self._located = {
            name: weight
            for name, weight in located.items()
            if name in weights.tensors and _is_as_stored(weight, weights)
        }
        if not self._located:
            raise UnsupportedError(
                f"no weight of {header.path} can be changed in memory",
                f"its types must be among {', '.join(WRITABLE)}",
            )
        self.names = frozenset(self._located)

    def change(self, types: Mapping[str, str]) -> None:
        for name, type_name in types.items():
            quant_type = BY_NAME[type_name]
            for part in self._weights.parts(self._weights.tensors[name]):
                self._write(self._located[name], part, quant_type)

    def restore(self, types: Mapping[str, str]) -> None:
        for name in types:
            address = self._located[name].address
            for offset, data in self._weights.raw(self._weights.tensors[name]):
                ctypes.memmove(
                    address + offset, np.frombuffer(data, np.uint8).ctypes.data, len(data)
                )

    def _write(self, weight: LoadedWeight, part: Part, quant_type: QuantType) -> None:
        stored = BY_ID[weight.type_id]
        data = quantize_rows(stored, round_trip(part, quant_type))
        offset = part.first * stored.row_bytes(part.rows.shape[1])
        ctypes.memmove(weight.address + offset, data.ctypes.data, data.size)


def _is_as_stored(weight: LoadedWeight, weights: Weights) -> bool:
    """Whether a weight lies in memory as in the file, where this process can write."""
    tensor = weights.tensors[weight.name]
    shape = (*tensor.shape, 1, 1, 1)[:4]
    same = weight.type_id == tensor.quant_type.id and weight.shape == shape
    return same and weight.is_host and tensor.quant_type.name in WRITABLE and len(tensor.shape) > 1


def _decode(context: Context, text: ProbeText) -> NDArray[np.float32]:
    """Return the logits of the compared positions, `(n_positions, n_vocab)`, chunk by chunk."""
    context.clear()
    with Batch(text.n_tokens) as batch:
        batch.clear()
        for seq_id, chunk in enumerate(text.chunks):
            for position, token in enumerate(chunk):
                is_compared = position >= text.n_skipped
                batch.add(token, position, seq_id=seq_id, wants_logits=is_compared)
        if context.decode(batch) is not DecodeResult.OK:
            raise EngineError("the context is too small for the probes' text")
        return context.logits()


class _Comparison:
    """The unchanged model's predictions, and what others lose against them."""

    def __init__(self, logits: NDArray[np.float32], text: ProbeText) -> None:
        self._logits = logits.copy()
        self._ends = np.cumsum([len(chunk) - text.n_skipped for chunk in text.chunks])

    def klds(self, logits: NDArray[np.float32]) -> tuple[float, ...]:
        """Return the mean KL divergence of each chunk."""
        klds = np.concatenate(
            [
                LogitRows(self._logits[rows]).kld(LogitRows(logits[rows]))
                for rows in _slices(len(logits))
            ]
        )
        return tuple(float(part.mean()) for part in np.split(klds, self._ends[:-1]))


def _slices(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, n_rows, ROWS_AT_ONCE))
