"""The first load of a file from elsewhere, in a child process: a crash there is an error here.

A sound header does not make a file harmless: wrong hyperparameters or a wrong vocabulary can end
llama.cpp by a signal. A file is therefore loaded, tokenized with and decoded once in a process of
its own, with a limit on its memory and time. That it went well is remembered by the file's place,
size and time, so that it happens once.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import Header, read_header
from llmedge.host.child import Child, ChildDied, ChildTimedOut, Talk
from llmedge.runtime.batch import Batch
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.embedding import Embedder, is_causal, trained_pooling
from llmedge.runtime.library import library_info
from llmedge.runtime.model import Model, require_whole_model

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_TRIAL_TEXT = "Hello, नमस्ते, வணக்கம் 123 🙂\n"
_TRIAL_CTX = 256
_SILENCE_S = 60.0
_SLOWEST_DISK_BYTES_PER_S = 5e6
# The interpreter, numpy's thread buffers and the libraries: address space, not memory.
_BASE_ADDRESS_BYTES = 6 << 30


def ensure_loads(path: Path, state_dir: Path) -> Header:
    """Make sure that a file can be loaded into this process.

    Args:
        path: The GGUF file.
        state_dir: Where it is remembered.

    Raises:
        IntegrityError: The header is damaged, llama.cpp refuses the file, crashes or hangs on it,
            or computes no finite logits.
        UnsupportedError: The file is one part of several.
    """
    header = read_header(path)
    require_whole_model(header)
    mark = _mark(path, state_dir)
    if not _is_there(mark):
        _try_in_child(header)
        remember(path, state_dir)
    return header


def require_text(header: Header) -> None:
    """Make sure that a model predicts text.

    Raises:
        UnsupportedError: It makes embeddings: each of its tokens sees those after it.
    """
    if not is_causal(header):
        raise UnsupportedError(
            f"{header.path.name} ({header.architecture}) makes embeddings and no text",
            "choose a model that answers",
        )


def remember(path: Path, state_dir: Path) -> None:
    """Remember that a file loads; for files that llmedge wrote itself, too."""
    mark = _mark(path, state_dir)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:  # a read-only home: the trial runs again next time
        _log.debug("not remembered: %s", error)


def _mark(path: Path, state_dir: Path) -> Path:
    status = path.stat()
    facts = (str(path.resolve()), status.st_size, status.st_mtime_ns, library_info().commit)
    name = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
    return state_dir / "loads" / name


def _is_there(mark: Path) -> bool:
    try:
        return mark.exists()
    except OSError:  # a folder that may not be entered: the trial runs again
        return False


def _try_in_child(header: Header) -> None:
    silence_s = _SILENCE_S + header.file_bytes / _SLOWEST_DISK_BYTES_PER_S
    max_address_bytes = _BASE_ADDRESS_BYTES + 3 * header.file_bytes
    hint = "the file is damaged or made to do harm: do not use it, get it again from its source"
    with Child(_try_load, header.path, max_address_bytes=max_address_bytes) as child:
        try:
            child.wait(silence_s)
        except ChildDied as death:
            last = death.stderr.splitlines()[-1:] or ["no message"]
            raise IntegrityError(
                f"loading {header.path} ended a trial process by {death.cause}: {last[0]}", hint
            ) from None
        except ChildTimedOut:
            raise IntegrityError(
                f"loading {header.path} hung for {silence_s:.0f} s in a trial process", hint
            ) from None


def _try_load(talk: Talk, path: Path) -> None:
    """Run in the child: load, tokenize and decode a few tokens."""
    del talk
    with Model.load(path) as model:
        tokens = model.vocab.tokenize(_TRIAL_TEXT, add_special=True)[:_TRIAL_CTX] or [0]
        model.vocab.detokenize(tokens, special=True)
        _try_template(model)
        if not model.can_generate:
            return
        _check_context_size(model.header)
        if trained_pooling(model.header) is not None or not is_causal(model.header):
            _try_embedding(model, tokens)
            return
        with (
            Context(model, ContextOptions(n_ctx=_TRIAL_CTX)) as context,
            Batch(_TRIAL_CTX) as batch,
        ):
            batch.fill(tokens, 0, n_logits=len(tokens))
            result = context.decode(batch)
            if result is not DecodeResult.OK or not np.isfinite(context.logits()).all():
                raise IntegrityError(
                    f"{path} loads but computes no finite numbers ({result.name})",
                    "convert the original checkpoint again",
                )


def _try_embedding(model: Model, tokens: list[int]) -> None:
    """Compute one vector; where the file does not say how it is pooled, by the mean."""
    pooling = trained_pooling(model.header) or "mean"
    embedder = Embedder(model, pooling, n_tokens=_TRIAL_CTX)
    (vector,) = embedder.embed([tokens[: embedder.n_tokens]])
    embedder.close()
    if not np.isfinite(vector).all():
        raise IntegrityError(
            f"{model.path} loads but computes no finite numbers",
            "convert the original checkpoint again",
        )


def _try_template(model: Model) -> None:
    """Render the chat template once, where it can do no harm; whether it is needed is not known."""
    try:
        ChatTemplate.of_model(model).render([{"role": "user", "content": _TRIAL_TEXT}])
    except UnsupportedError:
        return  # there is none
    except LlmedgeError as error:
        _log.debug("the chat template fails: %s", error)


def _check_context_size(header: Header) -> None:
    """Refuse hyperparameters that ask for a kv cache out of all proportion to the weights."""
    try:
        memory = estimate_memory(header, KvCacheOptions(n_ctx=_TRIAL_CTX))
    except UnsupportedError:  # an architecture that is not modelled is not suspect
        return
    if memory.kv_cache_bytes > 64 * header.file_bytes:
        raise IntegrityError(
            f"{header.path} asks for {memory.kv_cache_bytes} bytes of kv cache for "
            f"{_TRIAL_CTX} tokens, with {header.file_bytes} bytes of file"
        )
