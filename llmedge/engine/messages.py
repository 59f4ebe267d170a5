"""What parent and child of an engine say to each other: msgpack, tagged by name, one frame each.

Nothing is unpickled on either side, and what does not decode is an error: a child that was taken
over by a hostile model can send wrong text, and no more than that.

msgspec reads the annotations at run time: what they name is imported for it, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from llmedge.core import errors
from llmedge.core.errors import ContextLengthError, LlmedgeError, UsageError
from llmedge.engine.engine import Embedding, EngineStats, ModelInfo, Score  # noqa: TC001
from llmedge.engine.generation import ChatPrompt, Delta, Finished, Generation, Progress, Started
from llmedge.engine.scheduler import SchedulerOptions  # noqa: TC001
from llmedge.runtime.context import ContextOptions  # noqa: TC001
from llmedge.runtime.model import ModelOptions  # noqa: TC001

MAX_FRAME_BYTES = 1 << 30
_ERRORS: dict[str, type[LlmedgeError]] = {
    error.__name__: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, LlmedgeError)
}


class LoadLora(msgspec.Struct, frozen=True):
    """A LoRA adapter to load with the model.

    Attributes:
        path: Its file, as `os.fsencode` writes it.
        scale: How strongly it is added where a request does not say it.
    """

    path: bytes
    scale: float = 1.0


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first word to a child: which model, and how.

    Attributes:
        path: The GGUF file, as `os.fsencode` writes it: it may be no UTF-8.
        model_id: The model's id on the endpoint.
        model: How to load it.
        context: How to run it; `n_seq_max` counts the sequences that are remembered, too.
        scheduler: How to share it out.
        n_draft: Most tokens to guess ahead; 0 guesses none.
        draft_path: The GGUF file of a model that guesses them, written as `path` is; empty guesses
            by prompt lookup.
        loras: Adapters to load with it.
        cache_dir: Where states of sequences lie between two processes, written as `path` is; empty
            keeps none.
        max_cache_bytes: Most bytes of the files there.
    """

    path: bytes
    model_id: str
    model: ModelOptions
    context: ContextOptions
    scheduler: SchedulerOptions
    n_draft: int = 0
    draft_path: bytes = b""
    loras: tuple[LoadLora, ...] = ()
    cache_dir: bytes = b""
    max_cache_bytes: int = 0


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Begin a request."""

    id: int
    request: Generation


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Nobody waits for this request any more; it is not answered."""

    id: int


class Limit(msgspec.Struct, frozen=True, tag=True):
    """Run so many requests at once from now on; not answered.

    Attributes:
        n_slots: See `Engine.limit`.
        forgets: Give up what is kept for later requests, too.
    """

    n_slots: int
    forgets: bool = False


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Keep what the next process can use, and end; not answered."""


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """Turn text into tokens."""

    id: int
    text: str
    add_special: bool
    parse_special: bool


class Pieces(msgspec.Struct, frozen=True, tag=True):
    """Return the bytes of tokens."""

    id: int
    tokens: list[int]


class Render(msgspec.Struct, frozen=True, tag=True):
    """Apply the chat template."""

    id: int
    prompt: ChatPrompt


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Turn texts, or their tokens, into vectors."""

    id: int
    texts: list[str | list[int]]


class Rerank(msgspec.Struct, frozen=True, tag=True):
    """Score documents against a query."""

    id: int
    query: str
    documents: list[str]


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An `LlmedgeError` on its way: of one request, or of the load.

    Attributes:
        kind: The class's name; another than those known is a bug in the child.
        message: What is wrong.
        hint: What to do next.
        n_prompt: Tokens of a prompt that is too long.
        n_ctx: Tokens that the context holds.
    """

    kind: str
    message: str
    hint: str = ""
    n_prompt: int | None = None
    n_ctx: int | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """Take an error apart; one that is not ours is a bug, and goes by `RuntimeError`."""
        if isinstance(error, LlmedgeError):
            message = error.message.encode("utf-8", "replace").decode()
            failed = cls(type(error).__name__, message, error.hint)
            if isinstance(error, ContextLengthError):
                return msgspec.structs.replace(failed, n_prompt=error.n_prompt, n_ctx=error.n_ctx)
            return failed
        return cls("RuntimeError", f"in the engine: {type(error).__name__}: {error}")

    def error(self) -> Exception:
        """Return what was raised, to be raised again."""
        if self.kind == ContextLengthError.__name__:
            counts = {"n_prompt": self.n_prompt, "n_ctx": self.n_ctx}
            return ContextLengthError(self.message, self.hint, **counts)
        known = _ERRORS.get(self.kind)
        return RuntimeError(self.message) if known is None else known(self.message, self.hint)


class Embeddings(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Of `Embed`."""

    value: list[Embedding]


class Scores(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Of `Rerank`."""

    value: list[Score]


Answer: TypeAlias = Started | Progress | Delta | Finished | Failed | Embeddings | Scores


class Loading(msgspec.Struct, frozen=True, tag=True):
    """The load goes on.

    Attributes:
        share: What is done of it, 0 to 1.
    """

    share: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is there; requests are answered from now on."""

    info: ModelInfo


class GaveUp(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded, or llama.cpp failed while computing; the child ends."""

    reason: Failed


class Stepped(msgspec.Struct, frozen=True, tag=True):
    """Everything that came of one step, in one frame; also the sign that the child is alive.

    Attributes:
        answers: Per request, in order.
        stats: The counters after the step, where they are due.
    """

    answers: list[tuple[int, Answer]] = []
    stats: EngineStats | None = None


class Text(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Of `Render`."""

    value: str


class Tokens(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Of `Tokenize`."""

    value: list[int]


class PieceList(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Of `Pieces`."""

    value: list[bytes]


ReplyValue: TypeAlias = Text | Tokens | PieceList


class Reply(msgspec.Struct, frozen=True, tag=True):
    """The answer to a question.

    Attributes:
        id: The question's.
        value: What was asked for, or why there is none.
    """

    id: int
    value: Failed | ReplyValue


Question: TypeAlias = Tokenize | Pieces | Render
Paper: TypeAlias = Submit | Embed | Rerank
Entry: TypeAlias = Callable[[], Answer | None]
ToChild: TypeAlias = (
    Load | Submit | Cancel | Limit | Stop | Tokenize | Pieces | Render | Embed | Rerank
)
ToParent: TypeAlias = Loading | Loaded | GaveUp | Stepped | Reply

_encoder = msgspec.msgpack.Encoder()
_of_parent: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_of_child: msgspec.msgpack.Decoder[ToParent] = msgspec.msgpack.Decoder(ToParent)


def encode(message: ToChild | ToParent) -> bytes:
    """Return a message as one frame's bytes.

    Raises:
        UsageError: It holds what no text and no number of 64 bits is, or is nested too deeply.
    """
    try:
        return _encoder.encode(message)
    except (UnicodeEncodeError, OverflowError, RecursionError, TypeError) as error:
        raise UsageError(f"the request cannot be passed on: {error}") from None


def decode_for_child(data: bytes) -> ToChild:
    """Read what the parent said.

    Raises:
        msgspec.DecodeError: It is no message.
    """
    return _of_parent.decode(data)


def decode_for_parent(data: bytes) -> ToParent:
    """Read what the child said.

    Raises:
        msgspec.DecodeError: It is no message.
    """
    return _of_child.decode(data)
