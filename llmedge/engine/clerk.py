"""What is done for a request before it is computed: rendering, tokenizing, setting up its sampler.

Works beside the thread that steps, and shares nothing with it that changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import ContextLengthError, UnsupportedError, UsageError
from llmedge.engine.generation import ChatPrompt, Generation, Prompt, TextPrompt
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
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.constraint import ConstraintFactory
from llmedge.runtime.generation import StopMatcher
from llmedge.runtime.vocab import Vocab

if TYPE_CHECKING:
    from llmedge.runtime.context import Context

# Long runs of spaces are one token in some vocabularies; whole texts of them are not.
_MAX_CHARS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is understood.

    Attributes:
        request: As it came.
        tokens: Its prompt.
        sampler: Chooses its tokens.
        matcher: Finds its stop texts.
    """

    request: Generation
    tokens: list[int]
    sampler: LlamaSampler
    matcher: StopMatcher


class Clerk:
    """Prepares requests to one context's model.

    Args:
        context: Nothing is computed with it here.
    """

    def __init__(self, context: Context) -> None:
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
            UnsupportedError: The model has no chat template, or an adapter is asked for.
        """
        if request.adapters:
            raise UnsupportedError(
                f"the model was loaded without adapter {request.adapters[0][0]!r}"
            )
        tokens = self._tokens(request.prompt)
        if len(tokens) >= self._n_ctx:
            raise ContextLengthError(
                f"the prompt has {len(tokens)} tokens, the context holds {self._n_ctx}",
                "shorten the prompt, or start with a larger --ctx",
            )
        matcher = StopMatcher(request.stop)
        constraint = None
        if request.constraint is not None:
            constraint = self._constraints.compile(request.constraint.kind, request.constraint.text)
        sampler = LlamaSampler(self._context, request.sampling, constraint, request.n_logprobs)
        return Prepared(request, tokens, sampler, matcher)

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
            case _:
                raise UnsupportedError("this engine generates text only")

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
        if n_chars > _MAX_CHARS_PER_TOKEN * self._n_ctx:
            raise ContextLengthError(
                f"the prompt has {n_chars} characters, the context holds {self._n_ctx} tokens",
                "shorten the prompt, or start with a larger --ctx",
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
