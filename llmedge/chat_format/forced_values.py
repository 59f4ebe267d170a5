"""Rules for arguments that are not written as JSON: between tags, or in Gemma's notation.

A JSON schema says more than these notations can be held to: `pattern`, lengths, bounds and `$ref`
are not followed within them; what they leave open is any value.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from llmedge.chat_format import schemas

if TYPE_CHECKING:
    from llmedge.chat_format.read_tags import Tags
    from llmedge.chat_format.schemas import JsonObject

_NUMBER = r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/"
_SCALARS = {
    "integer": "/-?(0|[1-9][0-9]*)/",
    "number": _NUMBER,
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_DEFINITIONS = ("$defs", "definitions")
_MAX_DEPTH = 16


class Rules(Protocol):
    """Where rules are added."""

    def rule(self, name: str, body: str) -> str:
        """Add a rule and return its name."""
        ...

    def literal(self, text: str) -> str:
        """Return a text as terms."""
        ...

    def until(self, name: str, end: str) -> str:
        """Add a rule of any text up to an end, and return its name."""
        ...


def tagged_arguments(rules: Rules, name: str, schema: JsonObject, style: Tags) -> str:
    """Add rules for arguments between tags, in the schema's order; return the name of theirs."""
    shared = {word: schema[word] for word in _DEFINITIONS if word in schema}
    terms: list[str] = []
    for place, (key, value) in enumerate(schemas.properties(schema).items()):
        rule, inner = f"{name}_{place}", schemas.as_object(value)
        kinds = schemas.types(inner)
        if not kinds or kinds == frozenset({"string"}):
            body = rules.literal(style.key + key + style.text_key_end)
            values = schemas.choices(inner)
            if values and kinds:
                texts = (rules.literal(str(choice) + style.value_end) for choice in values)
                body += f" ({' | '.join(texts)})"
            else:
                body += " " + rules.until(f"{rule}_text", style.value_end)
        else:
            whole = json.dumps({**shared, **inner}, ensure_ascii=False)
            rules.rule(f"{rule}_json", f"%json {whole}")
            body = rules.literal(style.key + key + style.json_key_end)
            body += f" {rule}_json {rules.literal(style.value_end)}"
        rules.rule(rule, body)
        terms.append(rule if key in schemas.required(schema) else f"{rule}?")
    return rules.rule(name, " ".join(terms) or '""')


def gemma_object(rules: Rules, name: str, schema: JsonObject, quote: str) -> str:
    """Add rules for arguments in Gemma's notation, keys sorted; return the name of theirs."""
    return _Gemma(rules, name, quote).object(name, schema, 0)


class _Gemma:
    def __init__(self, rules: Rules, prefix: str, quote: str) -> None:
        self._rules, self._prefix, self._quote = rules, prefix, quote
        self._has_any = False

    def object(self, name: str, schema: JsonObject, depth: int) -> str:
        keys = sorted(schemas.properties(schema))
        members: list[str] = []
        for place, key in enumerate(keys):
            value = self._value(f"{name}_{place}", schemas.properties(schema)[key], depth + 1)
            members.append(
                self._rules.rule(
                    f"{name}_{place}_member", f"{self._rules.literal(key + ':')} {value}"
                )
            )
        is_required = [key in schemas.required(schema) for key in keys]
        for place in reversed(range(len(keys))):
            # What may follow once a member stands before it.
            after = f" {name}_{place + 1}_after" if place + 1 < len(keys) else ""
            body = f'("," {members[place]})' + ("" if is_required[place] else "?") + after
            self._rules.rule(f"{name}_{place}_after", body)
        starts: list[str] = []
        for place in range(len(keys)):
            after = f" {name}_{place + 1}_after" if place + 1 < len(keys) else ""
            starts.append(members[place] + after)
            if is_required[place]:
                break
        inner = f"({' | '.join(starts)})" if starts else ""
        if inner and not any(is_required):
            inner += "?"
        return self._rules.rule(name, f'"{{" {inner} "}}"')

    def _value(self, name: str, schema: object, depth: int) -> str:
        rules = schemas.as_object(schema)
        values = schemas.choices(rules)
        if values:
            terms = [self._literal(choice) for choice in values]
            return self._rules.rule(name, " | ".join(terms))
        types = sorted(schemas.types(rules))
        if not types or depth > _MAX_DEPTH:
            return self._any()
        terms = [self._typed(f"{name}_{kind}", kind, rules, depth) for kind in types]
        return self._rules.rule(name, " | ".join(terms))

    def _typed(self, name: str, kind: str, schema: JsonObject, depth: int) -> str:
        if kind in _SCALARS:
            return self._rules.rule(name, _SCALARS[kind])
        if kind == "string":
            return self._text(name)
        if kind == "array":
            item = self._value(f"{name}_item", schema.get("items"), depth + 1)
            return self._rules.rule(name, f'"[" ({item} ("," {item})*)? "]"')
        if kind == "object" and schemas.properties(schema):
            return self.object(name, schema, depth)
        return self._any()

    def _text(self, name: str) -> str:
        inner = self._rules.until(f"{name}_text", self._quote)
        return self._rules.rule(name, f"{self._rules.literal(self._quote)} {inner}")

    def _literal(self, value: object) -> str:
        if isinstance(value, str):
            return f"({self._rules.literal(self._quote + value + self._quote)})"
        return self._rules.literal(json.dumps(value))

    def _any(self) -> str:
        name = f"{self._prefix}_any"
        if self._has_any:
            return name
        self._has_any = True
        key = self._rules.rule(f"{self._prefix.upper()}_KEY", r"/[A-Za-z0-9_.-]+/")
        text = self._text(f"{name}_string")
        scalar = self._rules.rule(f"{name}_scalar", f'{_NUMBER} | "true" | "false" | "null"')
        member = f'{key} ":" {name}'
        self._rules.rule(f"{name}_object", f'"{{" ({member} ("," {member})*)? "}}"')
        self._rules.rule(f"{name}_array", f'"[" ({name} ("," {name})*)? "]"')
        return self._rules.rule(name, f"{text} | {scalar} | {name}_object | {name}_array")
