"""What is done for a request before it is computed: rendering, tokenizing, setting up its sampler.

Works beside the thread that steps, and shares nothing with it that changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import ContextLengthError, UnsupportedError, UsageError
from llmedge.engine.generation import ChatPrompt, Generation, Prompt, TextPrompt, TokenPrompt
from llmedge.engine.llama_backend import LlamaSampler
from llmedge.engine.messages import (
    PieceList,
    Pieces,
    Question,
    Render,
    ReplyValue,
    Text,
    Tokenize,
    Tokens,
)
from llmedge.engine.reasoning import ReasoningWatch
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.constraint import ConstraintFactory
from llmedge.runtime.generation import StopMatcher
from llmedge.runtime.lora import require_scale
from llmedge.runtime.vocab import Vocab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.engine.backend import Adapters
    from llmedge.engine.engine import AdapterInfo
    from llmedge.runtime.context import Context

# Long runs of spaces are one token in some vocabularies; whole texts of them are not.
_MAX_CHARS_PER_TOKEN = 32
_PLACE = re.compile(r"\{(query|document)\}")
# So few are tokenized in milliseconds, and then the error says how many tokens they are.
_ALWAYS_COUNTED_CHARS = 1 << 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is understood.

    Attributes:
        request: As it came.
        tokens: Its prompt.
        adapters: LoRA adapters to compute it with, in the order of their numbers.
        sampler: Chooses its tokens.
        matcher: Finds its stop texts.
    """

    request: Generation
    tokens: list[int]
    adapters: Adapters
    sampler: LlamaSampler
    matcher: StopMatcher


class Clerk:
    """Prepares requests to one context's model.

    Args:
        context: Nothing is computed with it here.
        adapters: LoRA adapters that were loaded with the model.
    """

    def __init__(self, context: Context, adapters: tuple[AdapterInfo, ...] = ()) -> None:
        self._adapters = adapters
        self._context = context
        self._model = context.model
        # The vocabulary of the stepping thread has a buffer that belongs to that thread.
        self._vocab = Vocab(context.model)
        self._n_ctx = context.n_ctx
        self._n_vocab = self._vocab.n_tokens
        self._constraints = ConstraintFactory.of_vocab(self._vocab)
        self._template: ChatTemplate | None = None

    def prepare(self, request: Generation) -> Prepared:
        """Turn a request into tokens and a sampler.

        Raises:
            UsageError: It cannot be meant.
            ContextLengthError: Its prompt leaves no room for an answer.
            UnsupportedError: The model has no chat template, or was loaded without an adapter.
        """
        adapters = self._chosen_adapters(request.adapters)
        tokens = self._tokens(request.prompt)
        if len(tokens) >= self._n_ctx:
            raise ContextLengthError(
                f"the prompt has {len(tokens)} tokens, the context holds {self._n_ctx}",
                "shorten the prompt, or start with a larger --ctx",
                n_prompt=len(tokens),
                n_ctx=self._n_ctx,
            )
        matcher = StopMatcher(request.stop)
        constraint = None
        if request.constraint is not None:
            constraint = self._constraints.compile(request.constraint.kind, request.constraint.text)
        limit = request.reasoning
        sampler = LlamaSampler(
            self._context,
            request.sampling,
            constraint,
            request.n_logprobs,
            ReasoningWatch(limit, self._inside(limit.closing)) if limit else None,
            tells_after=request.tells_chances_after,
        )
        return Prepared(request, tokens, adapters, sampler, matcher)

    def answer(self, question: Question) -> ReplyValue:
        """Answer what needs no decode.

        Raises:
            LlmedgeError: There is no answer, and why.
        """
        match question:
            case Tokenize():
                self._refuse_hopeless(len(question.text))
                return Tokens(
                    self._vocab.tokenize(
                        question.text,
                        add_special=question.add_special,
                        parse_special=question.parse_special,
                    )
                )
            case Pieces():
                return PieceList(self._vocab.pieces(question.tokens))
            case Render():
                return Text(self._render(question.prompt))

    def texts(self, given: Sequence[str | list[int]]) -> list[list[int]]:
        """Return the tokens of texts to embed, with those around a text that the model wants.

        Raises:
            UsageError: A text has no tokens, or a token is not known.
            ContextLengthError: A text is longer than the context.
        """
        return [self._fitting(self._text(text), f"text {at}") for at, text in enumerate(given)]

    def pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """Return the tokens of a query with each document, as the model's file wants them.

        Raises:
            UsageError: A pair has no tokens.
            ContextLengthError: A pair is longer than the context.
        """
        return [
            self._fitting(self._pair(query, document), f"document {at} with the query")
            for at, document in enumerate(documents)
        ]

    def _text(self, text: str | list[int]) -> list[int]:
        return self._tokens(TextPrompt(text) if isinstance(text, str) else TokenPrompt(text))

    def _pair(self, query: str, document: str) -> list[int]:
        self._refuse_hopeless(len(query) + len(document))
        template = self._model.header.text("tokenizer.chat_template.rerank")
        if template is None:
            return self._vocab.tokenize_pair(query, document)
        given = {"{query}": query, "{document}": document}
        text = _PLACE.sub(lambda place: given[place[0]], template)
        return self._vocab.tokenize(text, parse_special=True)

    def _fitting(self, tokens: list[int], what: str) -> list[int]:
        if not tokens:
            raise UsageError(f"{what} is empty")
        if len(tokens) > self._n_ctx:
            raise ContextLengthError(
                f"{what} has {len(tokens)} tokens, the context holds {self._n_ctx}",
                "shorten the text, or start with a larger --ctx where the model was trained for it",
            )
        return tokens

    def _chosen_adapters(self, wanted: tuple[tuple[str | int, float], ...]) -> Adapters:
        """Return the adapters that count, in one order: what is equal must be found equal."""
        scales = {} if wanted else {adapter.name: adapter.scale for adapter in self._adapters}
        names = [adapter.name for adapter in self._adapters]
        for key, scale in wanted:
            if isinstance(key, int):
                name = names[key] if 0 <= key < len(names) else None
            else:
                name = key if key in names else None
            if name is None:
                listed = ", ".join(f"{at} ({name})" for at, name in enumerate(names)) or "none"
                raise UnsupportedError(
                    f"the model was loaded without adapter {key!r}; there are: {listed}",
                    "llmedge serve MODEL --lora FILE",
                )
            if name in scales:
                raise UsageError(f"adapter {name!r} is named twice")
            scales[name] = require_scale(scale, name)
        return tuple((name, scales[name]) for name in names if scales.get(name))

    def _tokens(self, prompt: Prompt) -> list[int]:
        match prompt:
            case ChatPrompt():
                text = self._render(prompt)
                self._refuse_hopeless(len(text))
                tokens = self._vocab.tokenize(text, parse_special=True)
                # Templates may write the first token themselves.
                bos = self._vocab.bos
                if self._vocab.adds_bos and bos is not None and tokens[:1] != [bos]:
                    tokens.insert(0, bos)
                return tokens
            case TextPrompt():
                self._refuse_hopeless(len(prompt.text))
                return self._vocab.tokenize(prompt.text, add_special=True, parse_special=True)
            case _:
                self._require_known(prompt.tokens)
                return list(prompt.tokens)

    def _inside(self, text: str) -> list[int]:
        """Return the tokens that write exactly this text in the middle of another."""
        data = text.encode()
        # SentencePiece begins each text with a space, and some vocabularies join line breaks.
        for before in ("", "\n", "."):
            tokens = self._vocab.tokenize(before + text, parse_special=True)
            pieces = [self._vocab.piece(token, special=True) for token in tokens]
            for first in range(min(len(tokens), 4)):
                if b"".join(pieces[first:]) == data:
                    return tokens[first:]
        raise UnsupportedError(f"the vocabulary has no tokens that write {text!r}")

    def _render(self, prompt: ChatPrompt) -> str:
        self._refuse_hopeless(sum(len(str(m.get("content") or "")) for m in prompt.messages))
        if self._template is None:
            self._template = ChatTemplate.of_model(self._model)
        variables = {**prompt.arguments, "tools": prompt.tools}
        rendered = self._template.render(
            prompt.messages, add_generation_prompt=not prompt.continues, variables=variables
        )
        return _left_open(rendered, prompt) if prompt.continues else rendered

    def _refuse_hopeless(self, n_chars: int) -> None:
        """Refuse a text that no vocabulary makes short enough, before it is tokenized.

        Tokenizing megabytes takes seconds, and nothing can stop it.
        """
        if n_chars > max(_MAX_CHARS_PER_TOKEN * self._n_ctx, _ALWAYS_COUNTED_CHARS):
            raise ContextLengthError(
                f"the prompt has {n_chars} characters, the context holds {self._n_ctx} tokens",
                "shorten the prompt, or start with a larger --ctx",
                n_ctx=self._n_ctx,
            )

    def _require_known(self, tokens: list[int]) -> None:
        wrong = next((token for token in tokens if not 0 <= token < self._n_vocab), None)
        if wrong is not None:
            raise UsageError(f"token {wrong} is not one of the {self._n_vocab} of the vocabulary")


def _left_open(rendered: str, prompt: ChatPrompt) -> str:
    """Cut what a template writes after the last message, so that the model goes on with it."""
    content = prompt.messages[-1].get("content") if prompt.messages else None
    if not isinstance(content, str) or not content.strip():
        raise UsageError("there is no last message to go on with: its content is no text")
    given, stripped = content.lstrip(), content.strip()
    at = rendered.rfind(stripped)
    if at < 0:
        raise UsageError("the chat template changes the last message: it cannot be gone on with")
    # Some templates strip a message, some do not.
    kept = given if rendered.startswith(given, at) else stripped
    return rendered[: at + len(kept)]
