"""The wire types of llama-server's own routes, of embeddings and of rerank.

Source: llama.cpp tools/server/README.md; OpenAI API reference, Embeddings; Jina and Cohere API
references, Rerank; text-embeddings-inference, `/rerank`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from llmedge.serve.schema import SamplingFields


class TextWithMedia(msgspec.Struct):
    """A prompt that may come with images or sound; those are refused."""

    prompt_string: str
    multimodal_data: Any = None


class NativeCompletionRequest(SamplingFields, kw_only=True):
    """`POST /completion`.

    A prompt is a text, tokens, or both in a row; a list of such is answered with a list.
    """

    prompt: str | TextWithMedia | list[str | int | list[str | int] | TextWithMedia]
    n_predict: int | None = None
    n_probs: int | None = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """`POST /tokenize`."""

    content: str
    model: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """`POST /detokenize`."""

    tokens: list[int]
    model: str | None = None


class TemplatePart(msgspec.Struct):
    """A part of a message's content; all but text is refused."""

    type: str
    text: str = ""


class TemplateFunction(msgspec.Struct):
    """A function with the arguments of a call, as JSON text."""

    name: str
    arguments: str


class TemplateCall(msgspec.Struct, omit_defaults=True):
    """A call that the model made."""

    function: TemplateFunction
    id: str | None = None


class TemplateMessage(msgspec.Struct):
    """One message of a conversation, in OpenAI's form."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TemplatePart] | None = None
    reasoning_content: str | None = None
    tool_calls: list[TemplateCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class TemplateRequest(msgspec.Struct, kw_only=True):
    """`POST /apply-template`."""

    messages: list[TemplateMessage]
    model: str | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """`POST /v1/embeddings`."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class Document(msgspec.Struct):
    """A document that is not just its text."""

    text: str


class RerankRequest(msgspec.Struct, kw_only=True):
    """`POST /v1/rerank`; `texts` and `return_text` are text-embeddings-inference's words."""

    query: str
    documents: list[str | Document] | None = None
    texts: list[str | Document] | None = None
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    return_text: bool | None = None


class ContextSettings(msgspec.Struct):
    """What a generation has unless it says otherwise."""

    n_ctx: int
    params: dict[str, Any]


class Modalities(msgspec.Struct):
    """What can be sent beside text."""

    vision: bool = False
    audio: bool = False


class Props(msgspec.Struct, kw_only=True):
    """`GET /props`."""

    model_alias: str
    total_slots: int
    default_generation_settings: ContextSettings
    chat_template: str
    bos_token: str
    eos_token: str
    modalities: Modalities
    build_info: str


class Slot(msgspec.Struct):
    """One of `GET /slots`."""

    id: int
    n_ctx: int
    is_processing: bool


class LoadedAdapter(msgspec.Struct):
    """One of `GET /lora-adapters`."""

    id: int
    name: str
    path: str
    scale: float


class ChatTokens(msgspec.Struct):
    """The answer to `POST /v1/chat/completions/input_tokens`."""

    input_tokens: int


class TokenPiece(msgspec.Struct):
    """A token and its text, or its bytes where they are no text alone."""

    id: int
    piece: str | list[int]


class TokenizeAnswer(msgspec.Struct):
    """The answer to `POST /tokenize`."""

    tokens: list[int | TokenPiece]


class DetokenizeAnswer(msgspec.Struct):
    """The answer to `POST /detokenize`."""

    content: str


class TemplateAnswer(msgspec.Struct):
    """The answer to `POST /apply-template`."""

    prompt: str


class PromptUsage(msgspec.Struct):
    """Tokens of a request that generates nothing."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(msgspec.Struct):
    """One vector: numbers, or in base64 their 32 bits each, little end first."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingList(msgspec.Struct, kw_only=True):
    """The answer to `POST /v1/embeddings`."""

    data: list[EmbeddingItem]
    model: str
    usage: PromptUsage
    object: Literal["list"] = "list"


class RankedDocument(msgspec.Struct):
    """A document's place in the list that was sent, and its score."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RerankAnswer(msgspec.Struct, kw_only=True):
    """The answer to `POST /v1/rerank` with `documents`."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: PromptUsage
    object: Literal["list"] = "list"


class RankedText(msgspec.Struct):
    """As `RankedDocument`, where the request said `texts`."""

    index: int
    score: float
    text: str | UnsetType = UNSET
