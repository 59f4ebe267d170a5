"""A model's chat template: messages to the prompt it was trained on, in a sandbox.

The template comes with the model and is not trusted: it runs in a sandbox with a budget, and its
output is bounded. The extensions are those that transformers gives to
templates, so that what is rendered is what the model saw.

Source: transformers `utils/chat_template_utils.py` for names and rendering rules.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.exceptions import SecurityError

from llmedge.core.errors import (
    ContextLengthError,
    IntegrityError,
    UnsupportedError,
    UsageError,
)
from llmedge.runtime.template_sandbox import MAX_TEXT, BudgetSandbox

if TYPE_CHECKING:
    from jinja2.parser import Parser

    from llmedge.runtime.model import Model

_MAX_TEMPLATE_CHARS = 1 << 20
_MAX_WORDS = 1000  # of a template's own, in an error

Message = Mapping[str, Any]


class _MessageRefused(Exception):  # noqa: N818 - the template speaks
    """The template called `raise_exception`."""


class ChatTemplate:
    """Renders messages into a prompt.

    Args:
        source: The Jinja source.
        bos: Text of the token that begins a text, given to the template.
        eos: Text of the token that ends a text, given to the template.

    Raises:
        IntegrityError: The source is no Jinja template.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        if len(source) > _MAX_TEMPLATE_CHARS:
            raise IntegrityError(f"the chat template has {len(source)} characters")
        self.source = source
        self._bos, self._eos = bos, eos
        self._environment = _environment()
        try:
            self._template = self._environment.compile_counted(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError) as error:
            raise IntegrityError(
                f"the model's chat template is broken: {str(error)[:_MAX_WORDS]}",
                "give a prompt without a template through /v1/completions",
            ) from None

    @classmethod
    def of_model(cls, model: Model) -> ChatTemplate:
        """Take the template from a model's metadata.

        Raises:
            UnsupportedError: The model has none: it was not trained to chat, or lost it.
        """
        source = model.header.text("tokenizer.chat_template")
        if not source:
            raise UnsupportedError(
                f"{model.path.name} has no chat template",
                "use /v1/completions, or convert the checkpoint again with its template",
            )
        vocab = model.vocab
        return cls(source, bos=vocab.text(vocab.bos), eos=vocab.text(vocab.eos))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a conversation.

        Args:
            messages: Mappings with `role` and `content`, first to last.
            add_generation_prompt: End with the start of the assistant's turn.
            variables: Further variables of the template, such as `enable_thinking`.

        Raises:
            UsageError: The template refuses these messages, in its own words.
            ContextLengthError: The messages are longer than any context.
            IntegrityError: The template fails or makes too much text.
        """
        n_given = sum(len(str(message.get("content", ""))) for message in messages)
        if n_given > MAX_TEXT // 2:
            raise ContextLengthError(f"the messages have {n_given} characters")
        parts: list[str] = []
        n_chars = 0
        self._environment.start()
        try:
            for part in self._template.generate(
                {
                    "tools": None,
                    "documents": None,
                    **(variables or {}),
                    "messages": [dict(message) for message in messages],
                    "add_generation_prompt": add_generation_prompt,
                    "bos_token": self._bos,
                    "eos_token": self._eos,
                }
            ):
                parts.append(part)
                n_chars += len(part)
                if n_chars > MAX_TEXT:
                    raise IntegrityError(f"the chat template makes more than {MAX_TEXT} characters")
        except _MessageRefused as error:
            words = str(error)[:_MAX_WORDS]
            raise UsageError(f"the model's chat template refuses the messages: {words}") from None
        except IntegrityError:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code: anything may come out of it
            raise IntegrityError(
                f"the model's chat template fails: {type(error).__name__}: "
                f"{str(error)[:_MAX_WORDS]}",
                "check the messages' roles and contents, or use /v1/completions",
            ) from None
        return "".join(parts)

    def tokenize(self, model: Model, messages: Sequence[Message], **options: Any) -> list[int]:
        """Render a conversation and turn it into tokens, with `bos` exactly once."""
        vocab = model.vocab
        tokens = vocab.tokenize(self.render(messages, **options), parse_special=True)
        if vocab.adds_bos and vocab.bos is not None and not vocab.starts_with_bos(tokens):
            tokens.insert(0, vocab.bos)
        return tokens


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: marks assistant text for training; renders as is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> BudgetSandbox:
    environment = BudgetSandbox([_GenerationTag, jinja2.ext.loopcontrols])
    # jinja2 annotates these two with the values it ships; any callable may be added.
    filters: dict[str, Any] = environment.filters
    functions: dict[str, Any] = environment.globals
    filters["tojson"] = _to_json
    functions["raise_exception"] = _refuse
    functions["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the filter's signature in transformers
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Render JSON as transformers does: no HTML escapes, text as it is."""
    if indent is not None and abs(indent) > 16:
        raise SecurityError("tojson was called with a large indent")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: object) -> NoReturn:
    raise _MessageRefused(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern)
