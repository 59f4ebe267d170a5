"""The wire types of llama-server's own routes, of embeddings and of rerank.

Source: llama.cpp tools/server/README.md; OpenAI API reference, Embeddings; Jina and Cohere API
references, Rerank; text-embeddings-inference, `/rerank`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


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
