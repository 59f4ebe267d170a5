"""What the endpoint wants from whatever runs a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from llmedge.engine.generation import ChatPrompt, Event, Generation

EngineState: TypeAlias = Literal["loading", "ready", "restarting", "failed", "closed"]


class AdapterInfo(msgspec.Struct, frozen=True):
    """A LoRA adapter that is loaded with a model.

    Attributes:
        name: What requests call it; its place in the list is its number.
        scale: How strongly it is added where a request does not say it.
    """

    name: str
    scale: float = 1.0


class ModelInfo(msgspec.Struct, frozen=True):
    """A model that is loaded.

    Attributes:
        id: Its store reference or file stem, never a path.
        created: When its file was written, in Unix seconds.
        description: llama.cpp's words for it: `llama 135M Q4_1`.
        architecture: llama.cpp's name: `gemma3`.
        quant: Its mix: `Q4_K_M`.
        languages: Codes that its metadata names.
        n_ctx: Tokens of context that one request may use.
        n_ctx_train: Tokens that it was trained for.
        n_vocab: Size of the vocabulary.
        n_embd: Length of an embedding.
        n_params: Weights.
        size_bytes: Bytes of all tensors.
        n_slots: Requests that are answered at once.
        chat_template: Its source; "" where it has none.
        bos: Text of the token that begins a text.
        eos: Text of the token that ends one.
        can_generate: Whether it continues text.
        can_embed: Whether it was trained to turn texts into vectors.
        can_rerank: Whether it was trained to score documents.
        adapters: LoRA adapters that are loaded with it.
    """

    id: str
    created: int = 0
    description: str = ""
    architecture: str = ""
    quant: str = ""
    languages: tuple[str, ...] = ()
    n_ctx: int = 0
    n_ctx_train: int = 0
    n_vocab: int = 0
    n_embd: int = 0
    n_params: int = 0
    size_bytes: int = 0
    n_slots: int = 1
    chat_template: str = ""
    bos: str = ""
    eos: str = ""
    can_generate: bool = True
    can_embed: bool = False
    can_rerank: bool = False
    adapters: tuple[AdapterInfo, ...] = ()


class Embedding(msgspec.Struct, frozen=True):
    """One text as a vector.

    Attributes:
        values: `(n_embd,)`, not normalised.
        n_tokens: Tokens of the text.
    """

    values: list[float]
    n_tokens: int


class Score(msgspec.Struct, frozen=True):
    """How well one document answers a query; larger is better."""

    value: float
    n_tokens: int


class EngineStats(msgspec.Struct, frozen=True):
    """An engine at one moment; the counters begin anew with each process.

    Attributes:
        n_running: Requests that are being answered.
        n_waiting: Requests that wait for a slot.
        n_paused: Requests that were set aside for lack of room in the kv cache.
        n_cells: Tokens that the kv cache can hold.
        n_cells_used: Tokens that it holds.
        n_cells_cached: Of these, tokens of requests that have ended, kept for the next.
        n_prompt_tokens: Tokens of prompts, those found in the cache included.
        n_cached_tokens: Of these, tokens that were found there.
        n_generated_tokens: Tokens generated.
        n_computed_tokens: Tokens that went through the model, of prompts and answers.
        n_steps: Decode calls.
        n_pauses: Times that a request was set aside.
        n_slots: Requests that may run at once now.
        step_s: Seconds in decode calls.
        sampling_s: Seconds in sampling.
        draft_s: Seconds of a draft model.
        resident_bytes: The process's resident memory.
        energy_j: Joules used in steps, as far as they were measured; `None` where nothing is.
    """

    n_running: int = 0
    n_waiting: int = 0
    n_paused: int = 0
    n_cells: int = 0
    n_cells_used: int = 0
    n_cells_cached: int = 0
    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0
    n_generated_tokens: int = 0
    n_computed_tokens: int = 0
    n_steps: int = 0
    n_pauses: int = 0
    n_slots: int = 0
    step_s: float = 0.0
    sampling_s: float = 0.0
    draft_s: float = 0.0
    resident_bytes: int = 0
    energy_j: float | None = None


class Engine(Protocol):
    """Runs one model.

    Each method raises an `LlmedgeError`: of the request where that is at fault, and `EngineError`
    where the process that runs the model ended, however it ended; the next request may work again.
    """

    @property
    def info(self) -> ModelInfo:
        """The model."""
        ...

    @property
    def state(self) -> EngineState:
        """What the next request can expect."""
        ...

    @property
    def n_restarts(self) -> int:
        """Times that the process was started again."""
        ...

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Run a request: one `Started`, any number of `Progress` and `Delta`, one `Finished`.

        Closing the iterator, or cancelling who waits for it, stops the computation at once.
        """
        ...

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turn text into tokens."""
        ...

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of tokens; control tokens as they are written."""
        ...

    async def render(self, prompt: ChatPrompt) -> str:
        """Return what the model's chat template makes of messages."""
        ...

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> list[Embedding]:
        """Turn texts, or their tokens, into vectors."""
        ...

    async def rerank(self, query: str, documents: Sequence[str]) -> list[Score]:
        """Score documents against a query."""
        ...

    async def stats(self) -> EngineStats:
        """Return the counters of this moment."""
        ...

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        """Change how many requests run at once, until it is changed again or the process ends.

        Those that run go on. Returns at once, and does nothing where no process runs.

        Args:
            n_slots: At least one, and no more than the engine was started with.
            forgets: Give up what is kept for later requests, too.
        """
        ...

    def close(self) -> None:
        """Stop what runs, end the process and give all memory back; twice is harmless."""
        ...
