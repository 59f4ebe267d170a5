"""What a JSON schema says about the values it allows, as far as parsing and forcing ask."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias, cast

JsonObject: TypeAlias = Mapping[str, object]

_TYPES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def as_object(value: object) -> JsonObject:
    """Return an object; an empty one for anything else."""
    return cast("JsonObject", value) if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[object]:
    """Return a list; an empty one for anything else."""
    return cast("list[object]", value) if isinstance(value, list) else []


def properties(schema: JsonObject) -> JsonObject:
    """Return the properties that a schema names."""
    return as_object(schema.get("properties"))


def required(schema: JsonObject) -> frozenset[str]:
    """Return the names of those that must be there."""
    return frozenset(map(str, as_list(schema.get("required"))))


def choices(schema: JsonObject) -> list[object]:
    """Return the values that a schema lists; none where it lists none, or one that is no scalar."""
    values = as_list(schema.get("enum")) or ([schema["const"]] if "const" in schema else [])
    return [] if any(isinstance(value, dict | list) for value in values) else values


def types(schema: JsonObject) -> frozenset[str]:
    """Return the types that a schema allows; empty where it does not say."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(map(str, as_list(cast("object", kind))))
    members = as_list(schema.get("anyOf")) or as_list(schema.get("oneOf"))
    if members:
        found = [types(as_object(member)) for member in members]
        return frozenset(name for names in found for name in names) if all(found) else frozenset()
    return frozenset(type_of(value) for value in choices(schema))


def type_of(value: object) -> str:
    """Return the name that JSON schema has for a value's type."""
    return _TYPES[type(value)]


def is_object(text: str) -> bool:
    """Tell whether a text is one JSON object, strictly read."""
    return type_of_text(text) == "object"


def type_of_text(text: str) -> str:
    """Return the type of the JSON that a text is; "" if it is none."""
    try:
        return type_of(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return ""


def _refuse(name: str) -> None:
    """Take no NaN and no Infinity, which are no JSON."""
    raise ValueError(name)
