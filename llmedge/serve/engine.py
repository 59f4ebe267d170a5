"""What the endpoint wants from whatever runs the model.

`in_process.InProcessEngine` implements it on a thread; an engine in a process of its own can take
its place without a change here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from llmedge.runtime.generation import GenerationOptions, GenerationReport


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that is served.

    Attributes:
        id: Its store reference or file stem, never a path.
        created: When its file was written, in Unix seconds.
        description: llama.cpp's words for it: `llama 135M Q4_1`.
        n_ctx: Tokens of context that a request may use.
        n_ctx_train: Tokens that it was trained for.
        n_params: Weights.
        size_bytes: Bytes of all tensors.
    """

    id: str
    created: int
    description: str
    n_ctx: int
    n_ctx_train: int
    n_params: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages for the model's chat template."""

    messages: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text to continue as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Generation:
    """One request."""

    prompt: ChatPrompt | TextPrompt
    options: GenerationOptions


@dataclass(frozen=True, slots=True)
class Started:
    """The request was understood and has room; nothing is computed yet."""

    n_prompt: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The next part of the text: whole characters."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end, with what it took."""

    report: GenerationReport


Event: TypeAlias = Started | Delta | Finished


class Engine(Protocol):
    """Runs one model."""

    @property
    def info(self) -> ModelInfo:
        """The model."""
        ...

    @property
    def is_healthy(self) -> bool:
        """Whether the next request can be expected to work."""
        ...

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Run a request: one `Started`, any number of `Delta`, one `Finished`.

        Closing the iterator, or cancelling who waits for it, stops the computation at once.

        Raises:
            LlmedgeError: Before `Started` when the request is at fault; later when the engine is.
        """
        ...

    def close(self) -> None:
        """Stop what runs and free the model; twice is harmless."""
        ...
