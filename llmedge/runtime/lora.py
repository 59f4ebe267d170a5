"""LoRA adapters beside a loaded model: checked, loaded, and added to what a context computes."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.gguf.reader import Header, read_header
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, DecodeResult
from llmedge.runtime.handle import Handle
from llmedge.runtime.library import collected_errors, library, native_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmedge.runtime.model import Model

MAX_LORAS = 16
MAX_SCALE = 100.0
_TYPES = ("F32", "F16", "BF16", "Q8_0")
_ANOTHER = "it was made for another model: `llmedge convert BASE --adapter FOLDER --adapter-only`"


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """An adapter to load.

    Attributes:
        path: Its GGUF file.
        scale: How strongly it is added where a request does not say it.
    """

    path: Path
    scale: float = 1.0

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.path.stem


class Lora(Handle):
    """An adapter in memory. Open with `Lora.load`; closes with its model.

    Attributes:
        name: What requests call it.
    """

    def __init__(self, pointer: object, model: Model, name: str) -> None:
        super().__init__(pointer, library().llama_adapter_lora_free, owner=model)
        self.name = name

    @classmethod
    def load(cls, model: Model, path: Path) -> Lora:
        """Load an adapter, before any context of the model is made.

        llama.cpp sizes a context's graphs by the adapters that are there by then.

        Raises:
            NotFoundError: There is no such file.
            IntegrityError: It is damaged, or does not fit the model.
            UnsupportedError: It is no LoRA adapter, or of a kind that is not computed here.
        """
        _require_fit(read_header(path), model.header)
        with collected_errors() as errors:
            pointer = library().llama_adapter_lora_init(model.pointer, native_path(path))
        if not pointer:
            reason = errors[-1].rpartition("failed to apply lora adapter:")[2] if errors else ""
            raise IntegrityError(
                f"llama.cpp cannot add the adapter {path}: {reason.strip() or 'no reason given'}",
                _ANOTHER,
            )
        return cls(pointer, model, path.stem)


def set_loras(context: Context, chosen: Sequence[tuple[Lora, float]]) -> None:
    """Let a context compute with these adapters and scales, and no others, from now on."""
    pointers = [lora.pointer for lora, _ in chosen]
    array = (library().llama_adapter_lora_p_ctypes * max(1, len(chosen)))(*pointers)
    scales = (ctypes.c_float * max(1, len(chosen)))(*(scale for _, scale in chosen))
    library().llama_set_adapters_lora(context.pointer, array, len(chosen), scales)


def try_lora(context: Context, lora: Lora) -> None:
    """Compute one token with an adapter, so that one that cannot be computed with is met at once.

    What the context holds is forgotten.

    Raises:
        IntegrityError: It makes what is no number.
    """
    context.clear()
    set_loras(context, [(lora, 1.0)])
    with Batch(1) as batch:
        batch.fill([context.model.vocab.bos or 0], 0)
        result = context.decode(batch)
        if result is not DecodeResult.OK or not np.isfinite(context.logits()).all():
            raise IntegrityError(
                f"adapter {lora.name!r} computes no finite numbers ({result.name})",
                "convert it again from its source",
            )
    context.clear()
    set_loras(context, [])


def require_scale(scale: float, name: str) -> float:
    """Return a scale that can be meant.

    Raises:
        UsageError: It cannot.
    """
    if not math.isfinite(scale) or abs(scale) > MAX_SCALE:
        raise UsageError(
            f"the scale of adapter {name!r} is {scale:g}, not from -{MAX_SCALE:g} to {MAX_SCALE:g}"
        )
    return scale


def _require_fit(adapter: Header, base: Header) -> None:
    """Refuse what llama.cpp would meet with an abort, or silently compute wrong."""
    path = adapter.path
    if adapter.text("general.type") != "adapter" or adapter.text("adapter.type") != "lora":
        raise UnsupportedError(
            f"{path} is not a LoRA adapter",
            "`llmedge convert BASE --adapter FOLDER --adapter-only` makes one",
        )
    if adapter.architecture != base.architecture:
        raise IntegrityError(
            f"{path} is an adapter for {adapter.architecture}, {base.path.name} is "
            f"{base.architecture}",
            _ANOTHER,
        )
    if "adapter.alora.invocation_tokens" in adapter.metadata:
        raise UnsupportedError(f"{path} is an activated LoRA adapter, which is not supported")
    shapes = {tensor.name: tensor.shape for tensor in base.tensors}
    for tensor in adapter.tensors:
        name, _, part = tensor.name.rpartition(".lora_")
        if part not in ("a", "b") or not name:
            raise UnsupportedError(f"{path} has the tensor {tensor.name}, which is not added")
        if name not in shapes:
            raise IntegrityError(f"{path} changes {name}, which {base.path.name} lacks", _ANOTHER)
        if len(shapes[name]) != len(tensor.shape) or shapes[name][2:] != tensor.shape[2:]:
            raise IntegrityError(
                f"{path} has {tensor.name} of shape {list(tensor.shape)} for a matrix of "
                f"{list(shapes[name])}",
                _ANOTHER,
            )
        if tensor.quant_type.name not in _TYPES:
            raise UnsupportedError(f"{path} stores {tensor.name} as {tensor.quant_type.name}")
    if not adapter.tensors:
        raise IntegrityError(f"{path} adds to no matrix", _ANOTHER)
