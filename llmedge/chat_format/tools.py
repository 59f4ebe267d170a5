"""Tools that a request offers, checked before anything is done with them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

from llmedge.chat_format.schemas import JsonObject, as_object
from llmedge.core.errors import UsageError

ToolMode: TypeAlias = Literal["auto", "none", "required"]

MAX_TOOLS = 128
MAX_SCHEMA_CHARS = 1 << 16
MAX_DESCRIPTION_CHARS = 1 << 14
MAX_DEPTH = 32

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_EMPTY: JsonObject = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask for.

    Attributes:
        name: Letters, digits, `_`, `-` and `.`, at most 64.
        description: What it does, for the model.
        parameters: JSON schema of its arguments, of an object.
    """

    name: str
    description: str = ""
    parameters: JsonObject = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        """Check what was given.

        Raises:
            UsageError: The name, the schema or a size is not what it must be.
        """
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name[:80]!r} is no name for a tool",
                "use 1 to 64 letters, digits, '_', '-' or '.'",
            )
        if len(self.description) > MAX_DESCRIPTION_CHARS:
            raise UsageError(
                f"the description of tool {self.name} has {len(self.description)} characters; "
                f"at most {MAX_DESCRIPTION_CHARS} are taken"
            )
        object.__setattr__(self, "parameters", _checked(self.name, self.parameters))

    def to_json(self) -> dict[str, object]:
        """Return it as chat templates want it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may, must or must not call a tool.

    Attributes:
        mode: `required` forces a call.
        name: The tool that it must be; only with `required`.
        parallel: Several calls may be made at once.
    """

    mode: ToolMode = "auto"
    name: str | None = None
    parallel: bool = True


def parse_tools(values: Sequence[object]) -> tuple[Tool, ...]:
    """Turn tools as OpenAI's clients send them into checked ones.

    Raises:
        UsageError: One of them is malformed, two share a name, or there are too many.
    """
    if len(values) > MAX_TOOLS:
        raise UsageError(f"{len(values)} tools were given; at most {MAX_TOOLS} are taken")
    tools = tuple(_tool(place, value) for place, value in enumerate(values))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two tools are named {name!r}")
    return tools


def parse_tool_choice(value: object, tools: Sequence[Tool], *, parallel: bool = True) -> ToolChoice:
    """Turn `tool_choice` as OpenAI's clients send it into a choice among the tools.

    Raises:
        UsageError: It is none of auto, none, required or one of the tools.
    """
    if value is None:
        return ToolChoice("auto" if tools else "none", parallel=parallel)
    if value == "auto" or value == "none":
        return ToolChoice("auto" if value == "auto" else "none", parallel=parallel)
    if value == "required":
        if not tools:
            raise UsageError("tool_choice is 'required', but no tools were given")
        return ToolChoice("required", parallel=parallel)
    name = _chosen_name(value)
    if name is None:
        raise UsageError(
            f"tool_choice cannot be {str(value)[:80]!r}",
            'use "auto", "none", "required" or {"type": "function", "function": {"name": …}}',
        )
    if name not in {tool.name for tool in tools}:
        raise UsageError(f"tool_choice names {name[:80]!r}, which is not among the tools")
    return ToolChoice("required", name, parallel=False)


def _chosen_name(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return None
    choice = cast("JsonObject", value)
    name = as_object(choice.get("function", choice)).get("name")
    return name if isinstance(name, str) and choice.get("type", "function") == "function" else None


def _tool(place: int, value: object) -> Tool:
    if not isinstance(value, Mapping):
        raise UsageError(f"tools[{place}] is no object")
    outer = cast("JsonObject", value)
    kind = outer.get("type", "function")
    if kind != "function":
        raise UsageError(f"tools[{place}] is of type {str(kind)[:80]!r}; only 'function' is known")
    inner = outer.get("function", outer)
    if not isinstance(inner, Mapping):
        raise UsageError(f"tools[{place}].function is no object")
    function = cast("JsonObject", inner)
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str):
        raise UsageError(f"tools[{place}] has no name")
    if not isinstance(description, str | None):
        raise UsageError(f"the description of tool {name[:80]} is no text")
    return Tool(name, description or "", cast("JsonObject", function.get("parameters")))


def _checked(name: str, schema: object) -> JsonObject:
    if schema is None:
        return _EMPTY
    if not isinstance(schema, Mapping):
        raise UsageError(f"the parameters of tool {name} are no JSON schema")
    parameters = dict(cast("JsonObject", schema))
    if not parameters:
        return _EMPTY
    if parameters.setdefault("type", "object") != "object":
        raise UsageError(
            f"the parameters of tool {name} are of type {str(parameters['type'])[:80]!r}, "
            "not 'object'"
        )
    if not isinstance(parameters.setdefault("properties", {}), Mapping):
        raise UsageError(f"the properties of tool {name}'s parameters are no object")
    if _depth(parameters) > MAX_DEPTH:
        raise UsageError(f"the parameters of tool {name} are nested deeper than {MAX_DEPTH}")
    try:
        n_chars = len(json.dumps(parameters, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the parameters of tool {name} are no JSON: {error}") from None
    if n_chars > MAX_SCHEMA_CHARS:
        raise UsageError(
            f"the parameters of tool {name} have {n_chars} characters; "
            f"at most {MAX_SCHEMA_CHARS} are taken"
        )
    return parameters


def _depth(value: object) -> int:
    """Count the levels, without recursion: the value is a stranger's."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        below: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                below.extend(cast("JsonObject", item).values())
            elif isinstance(item, list | tuple):
                below.extend(cast("Sequence[object]", item))
        level = below
    return depth
