"""A loaded model: its weights, metadata and sizes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core import interrupts
from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.gguf.reader import Header, read_header
from llmedge.runtime.handle import Handle
from llmedge.runtime.library import collected_errors, library, native_path
from llmedge.runtime.vocab import Vocab

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Source: include/llama.h `enum llama_load_mode`.
LOAD_MODES = {"auto": -1, "read": 0, "mmap": 1, "mlock": 2, "mmap+mlock": 3, "direct": 4}


_MAX_CTX_TRAIN = 1 << 27


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How to load a model.

    Attributes:
        load_mode: `auto` (mmap where the system has it), `read`, `mmap`, `mlock`, `mmap+mlock`,
            `direct`.
        n_gpu_layers: Layers to offload; negative means all that fit a GPU build, 0 none.
        repack: Whether weights may be copied into the layout that the CPU's fastest kernels want.
        vocab_only: Load no weights.
        check_tensors: Validate every weight while loading.
        without_weights: Read names, shapes and settings and stop there; no context can be made.
    """

    load_mode: str = "auto"
    n_gpu_layers: int = -1
    repack: bool = True
    vocab_only: bool = False
    check_tensors: bool = False
    without_weights: bool = False


class Model(Handle):
    """A model in memory. Open with `Model.load`; contexts made from it close with it.

    Attributes:
        path: The file.
        header: Its header.
        vocab: Its vocabulary.
    """

    def __init__(self, pointer: object, header: Header) -> None:
        super().__init__(pointer, library().llama_model_free)
        self.path = header.path
        self.header = header
        self.vocab = Vocab(self)

    @classmethod
    def load(
        cls,
        path: Path,
        options: ModelOptions | None = None,
        on_progress: Callable[[float], bool] | None = None,
    ) -> Model:
        """Load a file whose header is sound.

        The header is checked in Python first. A file from elsewhere should pass
        `first_load.ensure_loads` before it is loaded into this process.

        Args:
            path: The GGUF file.
            options: How to load it.
            on_progress: Takes the share done, 0 to 1; returning `False` stops the load.

        Raises:
            IntegrityError: The file is damaged, or llama.cpp refuses it.
            UnsupportedError: The file is one part of several.
            UsageError: An unknown load mode, or the load was stopped.
        """
        chosen = options or ModelOptions()
        header = read_header(path)
        require_whole_model(header)
        if chosen.load_mode not in LOAD_MODES:
            raise UsageError(
                f"unknown load mode {chosen.load_mode!r}", f"known: {', '.join(LOAD_MODES)}"
            )
        lib = library()
        params = lib.llama_model_default_params()
        params.load_mode = LOAD_MODES[chosen.load_mode]
        params.n_gpu_layers = chosen.n_gpu_layers
        params.use_extra_bufts = chosen.repack
        params.vocab_only = chosen.vocab_only
        params.check_tensors = chosen.check_tensors
        params.no_alloc = chosen.without_weights
        goes_on = True

        def report(share: float, _: int | None) -> bool:
            nonlocal goes_on
            goes_on = not interrupts.is_pending() and (on_progress is None or on_progress(share))
            return goes_on

        callback = lib.llama_progress_callback(report)
        params.progress_callback = callback
        with collected_errors() as errors:
            pointer = lib.llama_model_load_from_file(native_path(path), params)
        if not pointer:
            if not goes_on:
                raise UsageError(f"loading {path} was stopped")
            raise load_error(path, errors)
        return cls(pointer, header)

    @property
    def n_ctx_train(self) -> int:
        """Tokens of context that the model was trained for.

        Raises:
            IntegrityError: The file claims an impossible number.
        """
        n_ctx = int(library().llama_model_n_ctx_train(self.pointer))
        if not 1 <= n_ctx <= _MAX_CTX_TRAIN:
            raise IntegrityError(
                f"{self.path} claims a context of {n_ctx} tokens", "convert the model again"
            )
        return n_ctx

    @property
    def n_layers(self) -> int:
        """Transformer layers."""
        return int(library().llama_model_n_layer(self.pointer))

    @property
    def n_params(self) -> int:
        """Weights."""
        return int(library().llama_model_n_params(self.pointer))

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return int(library().llama_model_size(self.pointer))

    @property
    def description(self) -> str:
        """llama.cpp's words for it: `llama 135M Q4_1`."""
        buffer = ctypes.create_string_buffer(256)
        library().llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def can_rewind(self) -> bool:
        """Whether a sequence can be cut back to any position: not with recurrent state."""
        lib = library()
        is_recurrent = lib.llama_model_is_recurrent(self.pointer)
        return not (is_recurrent or lib.llama_model_is_hybrid(self.pointer))

    @property
    def window(self) -> int:
        """Tokens that the layers with a sliding window look back; 0 without such layers."""
        return int(library().llama_model_n_swa(self.pointer))

    @property
    def can_generate(self) -> bool:
        """Whether it is a decoder that predicts the next token."""
        lib = library()
        return bool(lib.llama_model_has_decoder(self.pointer)) and not bool(
            lib.llama_model_has_encoder(self.pointer)
        )


def require_whole_model(header: Header) -> None:
    """Refuse what is no model, and a model that is split over several files.

    Raises:
        UnsupportedError: It is an importance matrix, or one part of several.
    """
    if header.text("general.type") == "imatrix":
        raise UnsupportedError(
            f"{header.path} is an importance matrix, not a model",
            f"`llmedge quantize MODEL --imatrix {header.path}` uses it",
        )
    parts = header.number("split.count") or 1
    if parts > 1:
        raise UnsupportedError(
            f"{header.path} is one of {parts} parts of a split model",
            "join them with `llama-gguf-split --merge` first",
        )


def load_error(path: Path, errors: list[str]) -> IntegrityError:
    """Build the error for a file that llama.cpp refuses, quoting its first reason."""
    reasons = [line for line in errors if "error loading model:" in line] or errors
    reason = (
        reasons[0].rpartition("error loading model:")[2].strip() if reasons else "no reason given"
    )
    return IntegrityError(
        f"llama.cpp cannot load {path}: {reason}",
        "download or convert the model again, or update llama-cpp-python for a new architecture",
    )
