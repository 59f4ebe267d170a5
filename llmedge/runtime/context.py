"""A context: the kv cache, the compute buffers and the logits of one model."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmedge.core import interrupts
from llmedge.core.errors import (
    EngineError,
    IntegrityError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.core.units import format_mib
from llmedge.gguf.memory import KvCacheOptions, estimate_memory, kv_type
from llmedge.host.cpu import read_cpu
from llmedge.host.memory import read_memory
from llmedge.host.native import byte_test
from llmedge.runtime.handle import Handle
from llmedge.runtime.library import collected_errors, last_error, library, library_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmedge.runtime.batch import Batch
    from llmedge.runtime.model import Model
    from llmedge.runtime.observer import Observation

_KEEP_DATA = False  # cells are overwritten before they are read
_MAX_TOKENS = 1 << 27  # far below where the library's 32 bits wrap around
# Source: include/llama.h `enum llama_pooling_type`.
POOLING = {"model": -1, "mean": 1, "cls": 2, "last": 3, "rank": 4}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """How to run a model; the same words in serve, chat, bench and evaluate.

    Attributes:
        n_ctx: Tokens of context over all sequences; 0 takes what the model was trained for.
        n_batch: Tokens that one decode call may carry.
        n_ubatch: Tokens computed at once; less takes less memory and more time.
        n_seq_max: Sequences that share the kv cache.
        type_k: Type of the keys in the kv cache.
        type_v: Type of the values in the kv cache.
        flash_attention: `auto`, `on` or `off`.
        n_threads: Threads; `None` takes the performance cores within the limits.
        n_outputs_max: Tokens of one decode call that may want logits, whose memory is set aside; 0
            means all of them.
        pooling: `None` gives logits; otherwise each sequence gives one embedding: as the `model`
            was trained for, the `mean` of its tokens, the first (`cls`) or the `last` one's; or
            the scores of its classifier (`rank`).
    """

    n_ctx: int = 4096
    n_batch: int = 512
    n_ubatch: int = 512
    n_seq_max: int = 1
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attention: str = "auto"
    n_threads: int | None = None
    n_outputs_max: int = 0
    pooling: str | None = None


class DecodeResult(enum.Enum):
    """What became of a decode call. Source: include/llama.h `llama_decode`."""

    OK = 0
    NO_KV_SLOT = 1
    """The kv cache has no room; nothing was changed."""
    ABORTED = 2
    """`abort` was called; what was computed before stays in the kv cache."""


class Context(Handle):
    """Decodes batches of one model. Not for several threads at once, except `abort`.

    Attributes:
        model: The model it runs.
        n_threads: Threads in use.
    """

    def __init__(
        self,
        model: Model,
        options: ContextOptions | None = None,
        observation: Observation | None = None,
    ) -> None:
        """Allocate the kv cache and the compute buffers.

        Args:
            model: The model to run.
            options: How to run it.
            observation: Who watches its products of weights and activations.

        Raises:
            UsageError: An option that cannot be meant.
            ResourceError: The memory is not there.
        """
        chosen = options or ContextOptions()
        lib = library()
        _require_memory(model, chosen)
        self._abort_flag = ctypes.create_string_buffer(2)
        # llama.cpp asks at every graph node: a Python callback would cost a tenth of the speed.
        self._abort_callback = ctypes.cast(byte_test(), lib.ggml_abort_callback)
        params, self.n_threads = _context_params(lib, model, chosen)
        params.abort_callback = self._abort_callback
        params.abort_callback_data = ctypes.addressof(self._abort_flag)
        self._observation = observation
        if observation is not None:
            params.cb_eval = observation.callback
        with collected_errors() as errors:
            pointer = lib.llama_init_from_model(model.pointer, params)
        if not pointer:
            reason = errors[-1] if errors else "no reason given"
            raise ResourceError(
                f"no context of {chosen.n_ctx} tokens for {model.path.name}: {reason}",
                "try a smaller --ctx, or --type-k q8_0 --type-v q8_0",
            )
        super().__init__(pointer, lib.llama_free, owner=model)
        self.model = model
        self._memory = lib.llama_get_memory(pointer)
        self._n_outputs = 0
        self._n_outputs_max = chosen.n_outputs_max

    @property
    def n_ctx(self) -> int:
        """Tokens of context, padded."""
        return int(library().llama_n_ctx(self.pointer))

    @property
    def n_batch(self) -> int:
        """Tokens that one decode call may carry."""
        return int(library().llama_n_batch(self.pointer))

    @property
    def has_memory(self) -> bool:
        """Whether it remembers earlier batches; an encoder sees each by itself, and whole."""
        return bool(self._live_memory())

    @property
    def n_seq_max(self) -> int:
        """Sequences that may share the kv cache."""
        return int(library().llama_n_seq_max(self.pointer))

    @property
    def n_outputs_max(self) -> int:
        """Tokens of one decode call that may want logits."""
        return self._n_outputs_max or self.n_batch

    def decode(self, batch: Batch) -> DecodeResult:
        """Run a batch through the model.

        Raises:
            EngineError: llama.cpp failed; the context should be closed.
            IntegrityError: The batch carries a token that the model does not have.
        """
        # The hot path: nothing but the call, or the idle threads of OpenMP fall asleep.
        with self._lock:
            interrupts.hold()
            try:
                code = library().llama_decode(self.pointer, batch.pointer)
            finally:
                interrupts.release()
        if self._observation is not None:
            self._observation.end_decode()
        self._n_outputs = batch.n_outputs if code == 0 else 0
        if code == 0:
            return DecodeResult.OK
        if code in (1, 2):
            return DecodeResult(code)
        reason = last_error() or f"code {code}"
        if code == -1:
            raise IntegrityError(f"llama.cpp refuses the batch: {reason}")
        raise EngineError(f"llama.cpp failed while computing: {reason}")

    def abort(self) -> None:
        """Make a decode call in another thread end as `ABORTED`, at the next graph node."""
        self._abort_flag[0] = b"\x01"

    def clear_abort(self) -> None:
        """Let decode calls run again."""
        self._abort_flag[0] = b"\x00"

    def logits(self) -> NDArray[np.float32]:
        """Return the last batch's logits as a view, `(n_outputs, n_vocab)`, in batch order.

        The view is llama.cpp's own memory: valid until the next `decode` or `close`. Copy what is
        needed longer.

        Raises:
            EngineError: The last batch asked for no logits or did not succeed.
        """
        if self._n_outputs == 0:
            raise EngineError("the last batch has no logits")
        rows = library().llama_get_logits(self.pointer)
        shape = (self._n_outputs, self.model.vocab.n_tokens)
        return np.ctypeslib.as_array(rows, shape=shape)

    def embedding(self, seq_id: int) -> NDArray[np.float32]:
        """Return a copy of the embedding of a sequence of the last batch.

        It is `(n_embd,)`, or where the context pools by `rank` `(n_labels,)`.

        Raises:
            EngineError: The last batch did not have the sequence, or the context does not pool.
        """
        lib = library()
        row = lib.llama_get_embeddings_seq(self.pointer, seq_id)
        if not row:
            raise EngineError(f"the last batch has no embedding of sequence {seq_id}")
        is_rank = lib.llama_pooling_type(self.pointer) == POOLING["rank"]
        count = lib.llama_model_n_cls_out if is_rank else lib.llama_model_n_embd_out
        return np.ctypeslib.as_array(row, shape=(int(count(self.model.pointer)),)).copy()

    def logits_at(self, index: int) -> NDArray[np.float32]:
        """Return the logits of the token at a batch index, `(n_vocab,)`; a view as in `logits`.

        Writing into it changes what samplers see.

        Raises:
            EngineError: That token asked for no logits, or the last batch did not succeed.
        """
        row = library().llama_get_logits_ith(self.pointer, index) if self._n_outputs else None
        if not row:
            raise EngineError(f"token {index} of the last batch has no logits")
        return np.ctypeslib.as_array(row, shape=(self.model.vocab.n_tokens,))

    def likeliest(self, index: int) -> int:
        """Return the likeliest token at a batch index.

        Raises:
            EngineError: That token asked for no logits, or the last batch did not succeed.
        """
        return int(self.logits_at(index).argmax())

    def clear(self) -> None:
        """Forget all sequences."""
        library().llama_memory_clear(self._live_memory(), _KEEP_DATA)

    def remove(self, seq_id: int, first: int, last: int = -1) -> bool:
        """Forget the positions `first` to before `last` of a sequence; -1 means to its end.

        Returns:
            Whether that was possible: recurrent state cannot be cut.
        """
        return bool(library().llama_memory_seq_rm(self._live_memory(), seq_id, first, last))

    def copy(self, source: int, target: int, first: int, last: int) -> None:
        """Let a sequence hold the positions `first` to before `last` of another, too.

        The cells are shared: this takes no memory and no time worth naming.
        """
        library().llama_memory_seq_cp(self._live_memory(), source, target, first, last)

    def first_position(self, seq_id: int) -> int:
        """Return the first position from which all layers hold all that follow; -1 if empty.

        Layers with a sliding window forget what is before it.
        """
        return int(library().llama_memory_seq_pos_min(self._live_memory(), seq_id))

    def next_position(self, seq_id: int = 0) -> int:
        """Return the position that the sequence's next token takes."""
        return int(library().llama_memory_seq_pos_max(self._live_memory(), seq_id)) + 1

    def save_state(self, seq_id: int = 0) -> bytes:
        """Return one sequence's kv cache as bytes, for `restore_state` of the same model."""
        lib = library()
        size = int(lib.llama_state_seq_get_size(self.pointer, seq_id))
        buffer = (ctypes.c_uint8 * size)()
        with self._lock:
            written = int(lib.llama_state_seq_get_data(self.pointer, buffer, size, seq_id))
        return bytes(memoryview(buffer)[:written])

    def restore_state(self, state: bytes, seq_id: int = 0) -> None:
        """Put a saved sequence back, replacing what the sequence holds.

        Raises:
            IntegrityError: The bytes are not a state of this model and these options.
        """
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        with self._lock:
            read = int(library().llama_state_seq_set_data(self.pointer, buffer, len(state), seq_id))
        if read == 0 or read != len(state):
            raise IntegrityError(f"{len(state)} bytes are not a saved state of this context")

    def _live_memory(self) -> Any:
        _ = self.pointer  # raises when closed
        return self._memory


def _require_memory(model: Model, options: ContextOptions) -> None:
    """Refuse a kv cache that this machine's memory cannot hold, before llama.cpp asks for it.

    The system may promise memory that it does not have and kill the process later.
    """
    n_ctx = options.n_ctx or model.n_ctx_train
    wanted = KvCacheOptions(
        n_ctx, options.type_k, options.type_v, options.n_ubatch, options.n_seq_max
    )
    try:
        n_bytes = estimate_memory(model.header, wanted).kv_cache_bytes
    except UnsupportedError:
        return  # not modelled: llama.cpp's own failure is caught
    available = read_memory().available_bytes
    if n_bytes > available and not library_info().can_offload:
        raise ResourceError(
            f"a context of {n_ctx} tokens takes {format_mib(n_bytes)} for {model.path.name}, "
            f"{format_mib(available)} are available",
            "try a smaller --ctx, or --type-k q8_0 --type-v q8_0",
        )


def _context_params(lib: Any, model: Model, options: ContextOptions) -> tuple[Any, int]:
    if options.n_ctx < 0 or options.n_batch < 1 or options.n_ubatch < 1 or options.n_seq_max < 1:
        raise UsageError(
            f"context {options.n_ctx}, batch {options.n_batch}, micro-batch {options.n_ubatch} and "
            f"slots {options.n_seq_max} must be positive"
        )
    if options.flash_attention not in FLASH_ATTENTION:
        raise UsageError(
            f"unknown flash attention mode {options.flash_attention!r}",
            f"known: {', '.join(FLASH_ATTENTION)}",
        )
    if max(options.n_ctx, options.n_batch, options.n_ubatch) > _MAX_TOKENS:
        raise UsageError(f"contexts and batches hold at most {_MAX_TOKENS} tokens")
    if options.pooling is not None and options.pooling not in POOLING:
        raise UsageError(f"unknown pooling {options.pooling!r}", f"known: {', '.join(POOLING)}")
    n_threads = options.n_threads or read_cpu().default_threads
    params = lib.llama_context_default_params()
    params.n_ctx = options.n_ctx or model.n_ctx_train
    params.n_batch = options.n_batch
    params.n_ubatch = min(options.n_ubatch, options.n_batch)
    params.n_seq_max = options.n_seq_max
    params.n_outputs_max = options.n_outputs_max
    params.n_threads = params.n_threads_batch = n_threads
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.type_k, params.type_v = kv_type(options.type_k).id, kv_type(options.type_v).id
    if options.pooling is not None:
        params.embeddings = True
        params.pooling_type = POOLING[options.pooling]
    params.swa_full = False  # a sliding window needs its window, not the whole context
    params.kv_unified = True
    params.no_perf = True
    return params, n_threads
