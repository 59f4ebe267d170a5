"""llama.cpp's quantizer in a child process: planned, watched, and killed without a trace.

The library has no progress callback and no way to stop, writes its file as it goes and aborts the
process on some inputs. So it runs in a child that reads its log, and the file is the caller's to
throw away.
"""

from __future__ import annotations

import ctypes
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmedge.core.closable import Closable
from llmedge.core.errors import IntegrityError, ResourceError, UnsupportedError, UsageError
from llmedge.gguf.quant_types import BY_NAME
from llmedge.host.child import Child, ChildDied, Talk
from llmedge.runtime.library import collected_errors, library, log_listener, native_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llmedge.gguf.reader import Header, TensorInfo

# Bounds what the library keeps of one tensor; its own default is 8 GiB, far beyond an edge device.
# The output is the same to the byte.
MAX_BUFFER_BYTES = 256 << 20
_MAX_TEXT_BYTES = 127


@dataclass(frozen=True, slots=True)
class QuantizerOptions:
    """What to do with a file.

    Attributes:
        ftype: The mix's number in llama.cpp.
        n_threads: Threads to compute with.
        allow_requantize: Accept tensors that are quantized already.
        max_buffer_bytes: Bound of the rows kept in memory at once.
        imatrix: The file of an importance matrix.
        expects_imatrix: Plan as if there were an importance matrix; for plans only.
        types: Quant types of single tensors, by name, instead of what the mix gives them.
        is_pure: Give every tensor the mix's own type, where `types` does not say otherwise.
        metadata: Keys and values to add to the file; texts of at most 127 bytes.
    """

    ftype: int
    n_threads: int
    allow_requantize: bool = False
    max_buffer_bytes: int = MAX_BUFFER_BYTES
    imatrix: Path | None = None
    expects_imatrix: bool = False
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    is_pure: bool = False
    metadata: Mapping[str, str | int | float] = field(
        default_factory=dict[str, "str | int | float"]
    )


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor.

    Attributes:
        name: Its name.
        source_type: The quant type it has, GGML's spelling in capitals.
        target_type: The quant type it gets.
        wanted_type: What the mix wanted, where its rows do not fit that type's blocks.
        n_bytes: Its size afterwards.
    """

    name: str
    source_type: str
    target_type: str
    wanted_type: str | None
    n_bytes: int

    @property
    def is_fallback(self) -> bool:
        """Whether it gets another type than the mix wanted."""
        return self.wanted_type is not None


class Quantizer(Closable):
    """One run of the quantizer: `plan` first, then `run`, in a child of its own.

    Args:
        header: The source file's.
        options: What to do.
    """

    def __init__(self, header: Header, options: QuantizerOptions) -> None:
        self._header = header
        self._child = Child(_quantize, header.path, options)

    def plan(self) -> tuple[TensorPlan, ...]:
        """Return what would become of each tensor; nothing is written.

        Raises:
            IntegrityError: llama.cpp refuses the file or crashes on it.
            UnsupportedError: The importance matrix does not fit the model.
        """
        talk = self._messages()
        targets, wanted = next(talk)
        tensors = self._header.tensors
        if set(targets) != {tensor.name for tensor in tensors}:
            raise IntegrityError(
                f"llama.cpp planned {len(targets)} of {len(tensors)} tensors of {self._header.path}"
            )
        return tuple(_tensor_plan(tensor, targets, wanted) for tensor in tensors)

    def run(self, target: Path, on_tensor: Callable[[str], None]) -> None:
        """Write the quantized file; call `plan` first.

        Args:
            target: Where to write; replaced when it exists, partial after an error.
            on_tensor: Called with each tensor's name when it is done.

        Raises:
            ResourceError: The file could not be written: most often, the disk is full.
            IntegrityError: llama.cpp refuses the file or crashes on it.
            UnsupportedError: The mix wants an importance matrix, or one that fits the model.
        """
        self._child.say(native_path(target))
        for names in self._messages():
            for name in names:
                on_tensor(name)

    def close(self) -> None:
        """End the child, wherever it is."""
        self._child.close()

    def _messages(self) -> Any:
        try:
            yield from self._child.messages()
        except ChildDied as death:
            if death.cause == "SIGKILL":
                raise ResourceError(
                    "the quantizer was killed: most likely the system ran out of memory",
                    "close other programs, or use a smaller --max-buffer",
                ) from None
            raise IntegrityError(
                f"llama.cpp's quantizer ended by {death.cause} on {self._header.path}: "
                f"{death.stderr}",
                "the file is damaged: get it again, or convert it again",
            ) from None


def _tensor_plan(tensor: TensorInfo, targets: dict[str, str], wanted: dict[str, str]) -> TensorPlan:
    source = tensor.quant_type.name
    target = targets[tensor.name] or source
    n_bytes = BY_NAME[target].row_bytes(tensor.n_weights)
    return TensorPlan(tensor.name, source, target, wanted.get(tensor.name), n_bytes)


class _LogReader:
    """Reads the quantizer's log: which tensor becomes what, and which is done.

    Source: src/llama-quant.cpp of llama.cpp, `LLAMA_LOG_INFO("[%4d/%4d] …`.
    """

    _TENSOR = re.compile(r"\[ *\d+/ *\d+\] (.+?) +- \[[^]]*\], type = +\w+, (.*)")
    _TARGET = re.compile(r"converting to (\w+) |\((\w+)\)\s*$")
    _FALLBACK = re.compile(r"warning: (.+?) +- ncols .*\(required for type +(\w+)\)")

    def __init__(self, on_tensor: Callable[[str, str], None]) -> None:
        self._on_tensor = on_tensor
        self._line = ""
        self.wanted: dict[str, str] = {}

    def feed(self, _: int, text: str) -> None:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if match := self._TENSOR.match(line):
                target = self._TARGET.search(match[2])
                name = (target[1] or target[2]).upper() if target else ""
                self._on_tensor(match[1], name)
            elif match := self._FALLBACK.match(line):
                self.wanted[match[1]] = match[2].upper()


class _Outbox:
    """Tells the parent of finished tensors, a few times a second: each message costs both sides."""

    _INTERVAL_S = 0.1

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._names: list[str] = []
        self._sent_at = time.monotonic()

    def add(self, name: str) -> None:
        self._names.append(name)
        if time.monotonic() - self._sent_at > self._INTERVAL_S:
            self.send()

    def send(self) -> None:
        if self._names:
            self._talk.say(self._names)
        self._names, self._sent_at = [], time.monotonic()


def _quantize(talk: Talk, source: Path, options: QuantizerOptions) -> None:
    """Run in the child: a dry run, then the real one when the parent names a target."""
    targets: dict[str, str] = {}
    reader = _LogReader(targets.__setitem__)
    with log_listener(reader.feed):
        _call(source, b"unused", options, dry_run=True)
    talk.say((targets, reader.wanted))
    target = talk.hear()
    outbox = _Outbox(talk)
    with log_listener(_LogReader(lambda name, _: outbox.add(name)).feed):
        _call(source, target, options, dry_run=False)
    outbox.send()


def _call(source: Path, target: Any, options: QuantizerOptions, *, dry_run: bool) -> None:
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = options.ftype
    params.nthread = options.n_threads
    params.allow_requantize = options.allow_requantize
    params.max_buf_size = options.max_buffer_bytes
    params.dry_run = dry_run
    params.pure = options.is_pure
    if options.types:
        params.tt_overrides = _type_array(lib, options.types)
    if options.metadata:
        params.kv_overrides = _metadata_array(lib, options.metadata)
    if options.imatrix is not None or (options.expects_imatrix and dry_run):
        # numpy is loaded where it is needed alone: 16 MiB beside a quantizer of bounded memory.
        from llmedge.runtime.imatrix_argument import imatrix_argument

        params.imatrix = imatrix_argument(lib, options.imatrix)
    with collected_errors() as errors:
        code = lib.llama_model_quantize(native_path(source), target, ctypes.byref(params))
    if code != 0:
        raise _quantize_error(source, errors, code)


def _type_array(lib: Any, types: Mapping[str, str]) -> Any:
    """Return tensors' types as llama.cpp takes them: expressions that match one name each."""
    array = (lib.llama_model_tensor_override * (len(types) + 1))()  # it ends in an empty entry
    for entry, (name, type_name) in zip(array, types.items(), strict=False):
        escaped = re.sub(r"([^A-Za-z0-9_])", r"\\\1", name)
        entry.pattern = f"^{escaped}$".encode()
        entry.type = BY_NAME[type_name].id
    return array


def _metadata_array(lib: Any, metadata: Mapping[str, str | int | float]) -> Any:
    array = (lib.llama_model_kv_override * (len(metadata) + 1))()  # it ends in an empty key
    for entry, (key, value) in zip(array, metadata.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, str):
            entry.tag, entry.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, clipped(value)
        elif isinstance(value, int):
            entry.tag, entry.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            entry.tag, entry.value.val_f64 = lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
    return array


def clipped(text: str) -> bytes:
    """Return a text as UTF-8, cut to what llama.cpp takes for a metadata value."""
    return text.encode()[:_MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()


def _quantize_error(source: Path, errors: list[str], code: int) -> Exception:
    reason = errors[-1].rpartition("failed to quantize:")[2].strip() if errors else f"code {code}"
    if "requantizing" in reason:
        return UsageError(
            f"{source} is quantized already ({reason}); quantizing it again loses more",
            "start from a 16-bit file, or accept the loss with --allow-requantize",
        )
    if reason.startswith(("this quantization requires an im", "Missing importance", "imatrix ")):
        return UnsupportedError(
            f"{source} cannot be quantized with this importance matrix, or without one: {reason}",
            "compute one with this very model, or take a mix that does without, such as Q4_K_M",
        )
    if "iostream error" in reason or "failed to write" in reason:
        return ResourceError(f"the file could not be written ({reason})", "is the disk full?")
    return IntegrityError(f"llama.cpp cannot quantize {source}: {reason}")
