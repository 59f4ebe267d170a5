"""A model's chat template: messages to the prompt it was trained on, in a sandbox.

The template comes with the model and is not trusted: it runs in jinja2's immutable sandbox, cannot
make large strings, and its output is bounded. The extensions are those that transformers gives to
templates, so that what is rendered is what the model saw.

Source: transformers `utils/chat_template_utils.py` for names and rendering rules.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.exceptions import SecurityError

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from jinja2.parser import Parser

    from llmedge.runtime.model import Model

_MAX_OUTPUT_CHARS = 4 << 20
_MAX_TEMPLATE_CHARS = 1 << 20
_MAX_REPEAT = 10_000
# Filters that pad or wrap to any width; no template in use needs them.
_REMOVED_FILTERS = ("center", "wordwrap", "urlize", "xmlattr", "pprint")

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
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError) as error:
            raise IntegrityError(
                f"the model's chat template is broken: {error}",
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
            IntegrityError: The template fails or makes too much text.
        """
        parts: list[str] = []
        n_chars = 0
        try:
            for part in self._template.generate(
                {
                    **(variables or {}),
                    "messages": [dict(message) for message in messages],
                    "add_generation_prompt": add_generation_prompt,
                    "bos_token": self._bos,
                    "eos_token": self._eos,
                }
            ):
                parts.append(part)
                n_chars += len(part)
                if n_chars > _MAX_OUTPUT_CHARS:
                    raise IntegrityError(
                        f"the chat template makes more than {_MAX_OUTPUT_CHARS} characters"
                    )
        except _MessageRefused as error:
            raise UsageError(f"the model's chat template refuses the messages: {error}") from None
        except IntegrityError:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code: anything may come out of it
            raise IntegrityError(
                f"the model's chat template fails: {type(error).__name__}: {error}",
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


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """jinja2's sandbox, which also refuses to build large values out of small ones."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        is_repeat = operator == "*" and not (_is_number(left) and _is_number(right))
        is_format = operator == "%" and isinstance(left, str)
        if is_format or (is_repeat and _repeats_too_much(left, right)):
            raise SecurityError(f"`{operator}` would make a large value")
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError("`**` would make a large value")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        # Padding methods of strings (`ljust`, `zfill` …) are called with a width.
        if isinstance(getattr(target, "__self__", None), str) and any(
            isinstance(arg, int) and abs(arg) > _MAX_REPEAT for arg in args
        ):
            raise SecurityError("a string method was called with a large number")
        return super().call(context, target, *args, **kwargs)


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    for name in _REMOVED_FILTERS:
        environment.filters.pop(name, None)
    # jinja2 annotates these two with the values it ships; any callable may be added.
    filters: dict[str, Any] = environment.filters
    functions: dict[str, Any] = environment.globals
    filters["tojson"] = _to_json
    filters["indent"] = _indent_filter(filters["indent"])
    functions["raise_exception"] = _refuse
    functions["strftime_now"] = _strftime_now
    functions.pop("lipsum", None)
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


def _indent_filter(original: Callable[..., str]) -> Callable[..., str]:
    def indent(text: str, width: int | str = 4, *args: Any, **kwargs: Any) -> str:
        if isinstance(width, int) and width > 64:
            raise SecurityError("indent was called with a large width")
        return original(text, width, *args, **kwargs)

    return indent


def _refuse(message: object) -> NoReturn:
    raise _MessageRefused(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_small(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= 1000


def _repeats_too_much(left: Any, right: Any) -> bool:
    value, n = (left, right) if isinstance(right, int) else (right, left)
    return not isinstance(n, int) or n * max(1, len(value)) > _MAX_REPEAT
