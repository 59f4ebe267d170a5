"""The products of weights and activations, watched while llama.cpp computes its graph.

A scheduler's callback is asked about every node of the graph before it is computed and shown it
afterwards. Here it becomes two functions of Python's: which weights are of interest, and what
entered them. What it sees is llama.cpp's own memory, valid during the call only.

Source: ggml/include/ggml.h `struct ggml_tensor`, ggml/include/ggml-backend.h
`ggml_backend_sched_eval_callback`.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmedge.core.errors import UnsupportedError
from llmedge.runtime.ggml_base import base_library
from llmedge.runtime.library import library

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

_F32 = 0
_OBJECT_BYTES = 32  # what ggml keeps beside each tensor; part of `ggml_tensor_overhead`


@dataclass(frozen=True, slots=True)
class LoadedWeight:
    """A weight as it lies in memory.

    Attributes:
        name: Its name in the file.
        type_id: GGML's number of its quant type.
        shape: `(n_in, n_out, n_matrices, …)`, GGML's order, four sizes.
        address: Where its bytes are.
        is_host: Whether this process can read and write them there.
    """

    name: str
    type_id: int
    shape: tuple[int, ...]
    address: int
    is_host: bool


@dataclass(frozen=True, slots=True)
class Product:
    """A weight times what entered it.

    Attributes:
        weight: The weight.
        inputs: `(ne3, ne2, ne1, n_in)`, a view: rows of activations. For chosen experts ne2 is the
            token and ne1 the place among its experts (1 where all get the same row).
        input_key: The same for two products of the same inputs in one graph.
        experts: `(n_tokens, n_used)`, which matrix of a stack each token chose; `None` for a matrix
            that is not chosen.
    """

    weight: LoadedWeight
    inputs: NDArray[np.float32]
    input_key: tuple[int, bytes]
    experts: NDArray[np.int32] | None


class Watcher(Protocol):
    """Who watches."""

    def wants(self, weight: LoadedWeight, n_rows: int) -> bool:
        """Say whether a product of this weight and `n_rows` rows is to be seen.

        A weight whose rows are only looked up comes with 0 rows and cannot be seen.
        """
        ...

    def see(self, product: Product) -> None:
        """Take a product that was just computed; its arrays are views."""
        ...


class _Tensor(ctypes.Structure):
    """A node of the graph, or a weight."""


_TensorPointer = ctypes.POINTER(_Tensor)
_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", _TensorPointer * 10),
    ("view_src", _TensorPointer),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


@dataclass(frozen=True, slots=True)
class _Tail:
    """The node after which the graph holds nothing but an unneeded product and what comes of it."""

    name: bytes
    weight: LoadedWeight


class _TailStudy:
    """Looks at one graph, node by node, for where later ones may end.

    The kv cache and recurrent states are written by nodes, too: so the graph may only end where
    every node that is left descends from the unneeded product. A node is known again by its name,
    which must be its maker's and no number.
    """

    def __init__(self, unneeded: Collection[str]) -> None:
        self._unneeded = frozenset(unneeded)
        self._names: Counter[bytes] = Counter()
        self._previous = b""
        self._descendants: set[int] = set()
        self._tail: _Tail | None = None
        self._is_possible = True

    def add(self, node: _Tensor, weight: LoadedWeight | None) -> None:
        """Look at the next node, and the weight where it is a product of one."""
        sources = [ctypes.addressof(source.contents) for source in node.src if source]
        if self._descendants:
            self._is_possible &= not self._descendants.isdisjoint(sources)
            self._descendants.add(ctypes.addressof(node))
        elif weight is not None and weight.name in self._unneeded:
            inputs = node.src[1].contents
            is_plain = inputs.type == _F32 and inputs.nb[0] == 4 and inputs.name == self._previous
            self._is_possible &= is_plain and not inputs.name.startswith((b"node_", b"leaf_"))
            self._tail = _Tail(bytes(inputs.name), weight)
            self._descendants.add(ctypes.addressof(node))
        self._names[bytes(node.name)] += 1
        self._previous = bytes(node.name)

    def result(self) -> _Tail | None:
        """Return where later graphs may end, or `None` where they have to run to theirs."""
        is_found = self._tail is not None and self._names[self._tail.name] == 1
        return self._tail if is_found and self._is_possible else None


class Observation:
    """A watcher as llama.cpp takes it; must live as long as the context it is given to.

    Args:
        watcher: Who watches. What it raises ends the decode call and is raised by it.
        unneeded: Weights whose product nobody needs where the graph ends with it. From the second
            graph on, only what enters it is computed and shown: the logits are then garbage.

    Raises:
        UnsupportedError: This ggml lays its tensors out in another way.
    """

    def __init__(self, watcher: Watcher, unneeded: Collection[str] = ()) -> None:
        base = base_library()
        if base.ggml_tensor_overhead() != ctypes.sizeof(_Tensor) + _OBJECT_BYTES:
            raise UnsupportedError(
                "this llama.cpp keeps its tensors in a way that llmedge does not know",
                "pip install 'llama-cpp-python==0.3.36'",
            )
        self._watcher = watcher
        self._base = base
        self._mul_mat, self._mul_mat_id, self._get_rows = _op_numbers(
            base, "MUL_MAT", "MUL_MAT_ID", "GET_ROWS"
        )
        self._study: _TailStudy | None = _TailStudy(unneeded) if unneeded else None
        self._tail: _Tail | None = None
        self._error: BaseException | None = None
        self.callback: Any = library().ggml_backend_sched_eval_callback(self._call)

    @property
    def stops_early(self) -> bool:
        """Whether an unneeded product at the end of the graph is no longer computed."""
        return self._tail is not None

    def end_decode(self) -> None:
        """Take note that a decode call has ended, and raise what the watcher raised in it."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self._study is not None:
            self._tail, self._study = self._study.result(), None

    def _call(self, address: int, asks: bool, _: int | None) -> bool:  # noqa: FBT001 - C calls it
        node = _Tensor.from_address(address)
        try:
            if self._tail is not None and node.name == self._tail.name:
                return asks or self._show_last(node, self._tail)
            if asks and self._study is not None:
                weight = node.src[0].contents if node.op == self._mul_mat else None
                self._study.add(node, weight and self._weight(weight))
            if node.op in (self._mul_mat, self._mul_mat_id):
                return self._wants(node) if asks else self._show(node)
            if asks and node.op == self._get_rows:
                self._meet(node.src[0].contents)
            return not asks
        except BaseException as error:  # noqa: BLE001 - it may not cross C; `end_decode` has it
            self._error = error
            return False

    def _wants(self, node: _Tensor) -> bool:
        inputs = node.src[1].contents
        if inputs.type != _F32 or inputs.nb[0] != 4:
            return False
        weight = self._weight(node.src[0].contents)
        n_rows = inputs.ne[2] if node.op == self._mul_mat_id else inputs.ne[1]
        return bool(weight.name) and self._watcher.wants(weight, n_rows)

    def _meet(self, rows: _Tensor) -> None:
        weight = self._weight(rows)
        if weight.name.endswith(".weight"):  # not a choice among activations
            self._watcher.wants(weight, 0)

    def _show(self, node: _Tensor) -> bool:
        inputs = node.src[1].contents
        experts = node.src[2].contents if node.op == self._mul_mat_id else None
        self._watcher.see(
            Product(
                weight=self._weight(node.src[0].contents),
                inputs=self._array(inputs, np.dtype(np.float32)),
                input_key=(inputs.data, bytes(inputs.name)),
                experts=None if experts is None else self._array(experts, np.dtype(np.int32))[0, 0],
            )
        )
        return True

    def _show_last(self, node: _Tensor, tail: _Tail) -> bool:
        """Show what would enter the unneeded product, and end the graph before it."""
        if self._watcher.wants(tail.weight, node.ne[1]):
            inputs = self._array(node, np.dtype(np.float32))
            self._watcher.see(Product(tail.weight, inputs, (node.data, bytes(node.name)), None))
        return False

    def _weight(self, tensor: _Tensor) -> LoadedWeight:
        # A copy for another backend is called `CPU#blk.0.attn_q.weight#0`.
        name = tensor.name.decode("utf-8", "replace")
        parts = name.split("#")
        name = parts[1] if len(parts) == 3 else name
        is_host = bool(self._base.ggml_backend_buffer_is_host(tensor.buffer))
        return LoadedWeight(name, tensor.type, tuple(tensor.ne), tensor.data, is_host)

    def _array(self, tensor: _Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a tensor's values as `(ne3, ne2, ne1, ne0)`, in place where that is possible."""
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        n_bytes = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 4
        if self._base.ggml_backend_buffer_is_host(tensor.buffer):
            memory: Any = (ctypes.c_uint8 * n_bytes).from_address(tensor.data)
        else:
            memory = (ctypes.c_uint8 * n_bytes)()
            self._base.ggml_backend_tensor_get(
                ctypes.byref(tensor), ctypes.addressof(memory), 0, n_bytes
            )
        return np.ndarray(shape, dtype, memory, strides=strides)


def _op_numbers(base: Any, *names: str) -> list[int]:
    """Ask the library for the numbers of operations: they change from version to version."""
    known = {base.ggml_op_name(number): number for number in range(64)}
    return [known[name.encode()] for name in names]
