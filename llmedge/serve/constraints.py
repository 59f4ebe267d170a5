"""What a request says that its answer must be."""

from __future__ import annotations

import re
from typing import TypeAlias, cast

import msgspec

from llmedge.core.errors import UsageError
from llmedge.engine.generation import Constraint
from llmedge.serve import schema

ResponseFormat: TypeAlias = (
    schema.PlainFormat | schema.JsonObjectFormat | schema.JsonSchemaFormat | None
)

_MAX_CONSTRAINT_CHARS = 1 << 16
_MAX_DEPTH = 64
# llama.cpp's grammars define by ::=, Lark's by a colon.
_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)


def request_constraint(
    request: schema.SamplingFields, response_format: ResponseFormat = None
) -> Constraint | None:
    """Return what a request says that its answer must be.

    Raises:
        UsageError: It says so twice, or at too great length.
    """
    found = _format_constraints(response_format)
    if request.json_schema is not None:
        found.append(json_schema_constraint(request.json_schema))
    if request.regex is not None:
        found.append(Constraint("regex", request.regex))
    if request.grammar:
        kind = "gbnf" if _GBNF_RULE.search(request.grammar) else "lark"
        found.append(Constraint(kind, request.grammar))
    if len(found) > 1:
        raise UsageError("only one of response_format, json_schema, grammar and regex can be given")
    if found and len(found[0].text) > _MAX_CONSTRAINT_CHARS:
        raise UsageError(
            f"the {found[0].kind} has {len(found[0].text)} characters, not up to "
            f"{_MAX_CONSTRAINT_CHARS}"
        )
    return found[0] if found else None


def _format_constraints(given: ResponseFormat) -> list[Constraint]:
    if isinstance(given, schema.JsonSchemaFormat):
        return [json_schema_constraint(given.json_schema.schema)]
    if isinstance(given, schema.JsonObjectFormat):
        # llama-server takes a schema here, too.
        has_schema = given.schema is not None
        return [json_schema_constraint(given.schema) if has_schema else Constraint("json_object")]
    return []


def json_schema_constraint(value: object) -> Constraint:
    """Return the constraint that a JSON schema is.

    Raises:
        UsageError: It is nested too deep.
    """
    require_depth(value, "the JSON schema")
    return Constraint("json_schema", msgspec.json.encode(value).decode())


def require_depth(value: object, name: str) -> None:
    """Make sure that a client's JSON is not nested too deep for what works on it.

    Raises:
        UsageError: It is.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += cast("dict[str, object]", item).values()
            elif isinstance(item, list):
                below += cast("list[object]", item)
        if not below:
            return
        level = below
    raise UsageError(f"{name} is nested deeper than {_MAX_DEPTH}")
