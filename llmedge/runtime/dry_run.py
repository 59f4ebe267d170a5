"""Would llama.cpp load this model? Its header is enough to know: no weight is needed.

The library reads names, shapes and settings, plans its computation, and takes no memory for
tensors. It runs in a process of its own, over a file that has its full length and nothing behind
the header.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, ResourceError
from llmedge.host.child import Child, ChildDied, ChildTimedOut
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.library import log_listener
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from llmedge.gguf.memory import KvCacheOptions
    from llmedge.gguf.reader import Header
    from llmedge.host.child import Talk

_SILENCE_S = 300.0
_N_CTX = 64
_WITHOUT_WEIGHTS = ModelOptions(load_mode="read", repack=False, without_weights=True)
# Source: `sched_reserve` in src/llama-context.cpp of llama.cpp, and its output buffer.
_BUFFER = re.compile(r"(?:compute|output) buffer size = +([0-9.]+) MiB")
_HINT = "the checkpoint lacks something, or its config.json is of another model: get it again"


def check_header(header: bytes, n_bytes: int) -> None:
    """Let llmedge's own llama.cpp read a model's header.

    Args:
        header: Everything before the weights.
        n_bytes: Length of the whole file.

    Raises:
        IntegrityError: llama.cpp would refuse the file or crash on it; it says why.
    """
    with tempfile.TemporaryDirectory(prefix="llmedge-") as folder:
        path = Path(folder) / "model.gguf"
        with path.open("wb") as file:
            file.write(header)
            file.truncate(n_bytes)  # a hole: it takes no disk
        with Child(_load, path) as child:
            try:
                child.wait(_SILENCE_S)
            except ChildDied as death:
                last = death.stderr.splitlines()[-1:] or ["no message"]
                assertion = last[0].rpartition("/llama.cpp/")[2]
                raise _refused(f"it ends by {death.cause}: {assertion}") from None
            except ChildTimedOut:
                raise _refused(f"it hangs for {_SILENCE_S:.0f} s") from None
            except (IntegrityError, ResourceError) as error:
                raise _refused(error.message.rpartition(": ")[2]) from None


def compute_buffer_bytes(header: Header, options: KvCacheOptions) -> int:
    """Return what llmedge's llama.cpp sets aside to compute with, beside weights and kv cache.

    Nothing of the weights is read, and no memory of that size is taken.

    Raises:
        IntegrityError: llama.cpp refuses the file or crashes on it.
    """
    with Child(_reserve, header.path, options) as child:
        try:
            return child.wait(_SILENCE_S)
        except ChildDied as death:
            raise IntegrityError(
                f"planning {header.path} ended by {death.cause}", "convert the model again"
            ) from None


def _reserve(talk: Talk, path: Path, options: KvCacheOptions) -> int:
    """Run in the child: make a context without memory, and read what it says it would take."""
    del talk
    log: list[str] = []
    context = ContextOptions(
        n_ctx=options.n_ctx,
        n_batch=options.n_ubatch,
        n_ubatch=options.n_ubatch,
        n_seq_max=options.n_seq_max,
        type_k=options.type_k,
        type_v=options.type_v,
    )
    with (
        log_listener(lambda _, text: log.append(text)),
        Model.load(path, _WITHOUT_WEIGHTS) as model,
        Context(model, context),
    ):
        sizes = _BUFFER.findall("".join(log))
    return int(sum(map(float, sizes)) * (1 << 20))


def _refused(why: str) -> IntegrityError:
    return IntegrityError(f"llama.cpp would not load the converted model: {why}", _HINT)


def _load(talk: Talk, path: Path) -> None:
    """Run in the child."""
    del talk
    # A context, too: llama.cpp builds its graph for it, which has assertions of its own.
    small = ContextOptions(n_ctx=_N_CTX, n_batch=_N_CTX, n_ubatch=_N_CTX, n_threads=1)
    with Model.load(path, _WITHOUT_WEIGHTS) as model, Context(model, small):
        pass
