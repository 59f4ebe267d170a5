"""Looks through a JSON schema for what would be ignored, or compiled for minutes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Keywords that say what a value may be, and that llguidance does not force. Most of them it
# refuses; the older ones it would take for annotations.
# Source: JSON Schema drafts 3 to 2020-12, and llguidance 1.9.
UNSUPPORTED_KEYWORDS = frozenset(
    {
        *("not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains"),
        *("dependencies", "dependentRequired", "dependentSchemas", "propertyNames"),
        *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor"),
        *("$recursiveRef", "$recursiveAnchor", "divisibleBy", "disallow", "extends"),
    }
)
# A value that must match several patterns is matched against their product: ten of them take
# half a second, fifteen do not end.
_MAX_JOINED_PATTERNS = 6
_MAX_PROPERTIES = 1000
# llguidance's own reader goes a little deeper.
_MAX_DEPTH = 100
_SCHEMAS = ("additionalItems", "additionalProperties", "items")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")


def check_schema(text: str) -> None:
    """Refuse a schema that could not be kept as it is written.

    Raises:
        UsageError: It is no JSON object, is too large, or has a keyword that cannot be forced.
    """
    try:
        schema: Any = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a JSON schema is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UsageError(f"a JSON schema must be an object, not {json.dumps(schema)[:40]}")
    n_properties = n_patterns = 0
    joins = False
    for part in _walk(cast("dict[str, Any]", schema)):
        unknown = unsupported_keywords(part)
        if unknown:
            raise UsageError(
                f"the JSON schema keyword {unknown[0]!r} cannot be forced on a text",
                "leave it out, and check the answer for it",
            )
        n_properties += len(part.get("properties") or ())
        n_patterns += ("pattern" in part) + len(part.get("patternProperties") or ())
        joins = joins or "allOf" in part or ("$ref" in part and "pattern" in part)
    if n_properties > _MAX_PROPERTIES:
        raise UsageError(
            f"a JSON schema has {n_properties} properties", f"at most {_MAX_PROPERTIES} are taken"
        )
    if joins and n_patterns > _MAX_JOINED_PATTERNS:
        raise UsageError(
            f"a JSON schema joins {n_patterns} patterns by allOf",
            f"at most {_MAX_JOINED_PATTERNS} are taken: write them as one",
        )


def unsupported_keywords(schema: dict[str, Any]) -> list[str]:
    """Return the keywords of one schema, without those inside it, that cannot be forced."""
    return sorted(UNSUPPORTED_KEYWORDS & schema.keys())


def _walk(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema and all that are written inside it; values of `const` and such are none."""
    waiting: list[tuple[Any, int]] = [(root, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise UsageError(f"a JSON schema is nested more than {_MAX_DEPTH} deep")
        if not isinstance(value, dict):
            continue
        part = cast("dict[str, Any]", value)
        _check_shapes(part)
        yield part
        inner: list[Any] = [part[name] for name in _SCHEMAS if name in part]
        for name in _LISTS_OF_SCHEMAS:
            if isinstance(part.get(name), list):
                inner += part[name]
        for name in _MAPS_OF_SCHEMAS:
            inner += (part.get(name) or {}).values()
        waiting += [(schema, depth + 1) for schema in inner]


def _check_shapes(part: dict[str, Any]) -> None:
    for name in _MAPS_OF_SCHEMAS:
        if not isinstance(part.get(name, {}), dict):
            raise UsageError(f"a JSON schema's {name!r} must be an object")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
