"""How each family writes calls: one table, for what is written and for what is forced.

`{name}`, `{arguments}` and `{id}` stand for themselves in a form; every other text is literal.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from llmedge.chat_format.read_tags import (
    DEEPSEEK_V3_2,
    DEEPSEEK_V4,
    GLM,
    QWEN3_CODER,
    SEED_OSS,
    Tags,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmedge.chat_format.detect import FamilyName
    from llmedge.chat_format.schemas import JsonObject

Notation: TypeAlias = Literal["json", "gemma"] | Tags

PLACES = re.compile(r"(\{name\}|\{arguments\}|\{id\})")


@dataclass(frozen=True, slots=True)
class Form:
    """How calls are written.

    Attributes:
        call: One call.
        first: What stands before the first.
        between: What stands between two; `None` where only one can be made.
        last: What stands after the last.
        trigger: The beginning by which a call is told from text, if there is a clear one.
        notation: How arguments are written.
        quote: What stands around text in Gemma's notation.
    """

    call: str
    first: str = ""
    between: str | None = ""
    last: str = ""
    trigger: str = ""
    notation: Notation = "json"
    quote: str = '"'


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made.

    Attributes:
        name: The tool's name.
        arguments: Its arguments.
        id: What its result is told by.
    """

    name: str
    arguments: JsonObject
    id: str = "000000000"


_OBJECT = '{"name": "{name}", "arguments": {arguments}}'
_FENCED = "{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"


def _tagged(style: Tags, first: str = "", last: str = "") -> Form:
    opening = style.openings[1 if first else 0]
    closings = style.closings[:1] if last else style.closings
    call = opening + "{name}" + style.name_end + "{arguments}" + "".join(closings)
    trigger = style.openings[0].split("\n")[0]
    return Form(call, first, "" if first else "\n", last, trigger, style)


FORMS: dict[FamilyName, Form] = {
    "hermes": Form(f"<tool_call>\n{_OBJECT}\n</tool_call>", between="\n", trigger="<tool_call>"),
    "qwen3_coder": _tagged(QWEN3_CODER),
    "seed_oss": _tagged(SEED_OSS),
    "glm": _tagged(GLM),
    "llama": Form('{"name": "{name}", "parameters": {arguments}}', between="; "),
    "gemma": Form(
        '{"name": "{name}", "parameters": {arguments}}', "```json\n", "\n", "\n```", "```json"
    ),
    "function_gemma": Form(
        "<start_function_call>call:{name}{arguments}<end_function_call>",
        trigger="<start_function_call>",
        notation="gemma",
        quote="<escape>",
    ),
    "gemma4": Form(
        "<|tool_call>call:{name}{arguments}<tool_call|>",
        trigger="<|tool_call>",
        notation="gemma",
        quote='<|"|>',
    ),
    "mistral": Form(_OBJECT, "[TOOL_CALLS][", ", ", "]", "[TOOL_CALLS]"),
    "mistral_v11": Form("[TOOL_CALLS]{name}[ARGS]{arguments}", trigger="[TOOL_CALLS]"),
    "mistral_call_id": Form(
        "[TOOL_CALLS]{name}[CALL_ID]{id}[ARGS]{arguments}", trigger="[TOOL_CALLS]"
    ),
    "nemotron_v2": Form(_OBJECT, "<TOOLCALL>[", ", ", "]</TOOLCALL>", "<TOOLCALL>"),
    "apriel": Form(_OBJECT, "<tool_calls>[", ", ", "]</tool_calls>", "<tool_calls>"),
    "granite": Form(_OBJECT, "<|tool_call|>[", ", ", "]", "<|tool_call|>"),
    "gpt_oss": Form(
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}",
        between=None,
    ),
    "deepseek_r1": Form(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{_FENCED}",
        "<｜tool▁calls▁begin｜>",
        "\n",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜>",
    ),
    "deepseek": Form(
        "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜>",
    ),
    "deepseek_v3_2": _tagged(
        DEEPSEEK_V3_2, "<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>"
    ),
    "deepseek_v4": _tagged(DEEPSEEK_V4, "<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"),
    "none": Form(_OBJECT, between="\n"),
}


def write_calls(family: FamilyName, calls: Sequence[Call]) -> str:
    """Write calls as the family does: what its parser reads back."""
    form = FORMS[family]
    texts = [_written(form, call) for call in calls]
    return form.first + (form.between or "").join(texts) + form.last


def _written(form: Form, call: Call) -> str:
    values = {"{name}": call.name, "{id}": call.id, "{arguments}": _arguments(form, call.arguments)}
    return "".join(values.get(piece, piece) for piece in PLACES.split(form.call))


def _arguments(form: Form, arguments: JsonObject) -> str:
    if form.notation == "gemma":
        return _gemma(arguments, form.quote)
    if form.notation == "json":
        return json.dumps(arguments, ensure_ascii=False)
    style = form.notation
    return "".join(_tagged_argument(style, name, value) for name, value in arguments.items())


def _tagged_argument(style: Tags, name: str, value: object) -> str:
    is_text = isinstance(value, str)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    end = style.text_key_end if is_text else style.json_key_end
    return f"{style.key}{name}{end}{text}{style.value_end}"


def _gemma(value: object, quote: str) -> str:
    if isinstance(value, str):
        return quote + value + quote
    if isinstance(value, dict):
        members = cast("Mapping[str, object]", value)
        return "{" + ",".join(f"{k}:{_gemma(members[k], quote)}" for k in sorted(members)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_gemma(item, quote) for item in cast("list[object]", value)) + "]"
    return json.dumps(value)
