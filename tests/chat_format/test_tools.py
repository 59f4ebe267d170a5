import pytest

from llmedge.chat_format.tools import (
    MAX_DEPTH,
    MAX_SCHEMA_CHARS,
    MAX_TOOLS,
    Tool,
    ToolChoice,
    parse_tool_choice,
    parse_tools,
)
from llmedge.core.errors import UsageError

EMPTY = {"type": "object", "properties": {}}


def function(name: object = "f", **more: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **more}}


def test_tools_are_read_in_both_of_openais_forms():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    flat = {"type": "function", "name": "g", "parameters": schema, "description": None}
    assert parse_tools([function(description="d"), flat]) == (
        Tool("f", "d", EMPTY),
        Tool("g", "", schema),
    )
    assert Tool("f").to_json() == function(description="", parameters=EMPTY)


def test_a_schema_without_a_type_is_one_of_an_object():
    assert Tool("f", "", {"properties": {}}).parameters == EMPTY


def nested(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"a": schema}
    return schema


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        (["f"], r"tools\[0\] is no object"),
        ([{"type": "web_search"}], "of type 'web_search'"),
        ([{"type": "function", "function": 1}], "function is no object"),
        ([function(None)], "has no name"),
        ([function("a b")], "'a b' is no name"),
        ([function("x" * 65)], "is no name"),
        ([function(description=1)], "is no text"),
        ([function(description="d" * 20_000)], "has 20000 characters"),
        ([function(parameters=[])], "are no JSON schema"),
        ([function(parameters={"type": "array"})], "of type 'array', not 'object'"),
        ([function(parameters={"properties": []})], "properties of tool f's parameters"),
        ([function(parameters={"properties": nested(MAX_DEPTH)})], "nested deeper than"),
        ([function(parameters={"title": "x" * MAX_SCHEMA_CHARS})], "at most 65536 are taken"),
        ([function(parameters={"default": float("nan")})], "are no JSON"),
        ([function(), function()], "two tools are named 'f'"),
        ([function(f"f{n}") for n in range(MAX_TOOLS + 1)], "129 tools were given"),
    ],
)
def test_malformed_tools_are_refused(tools, words):
    with pytest.raises(UsageError, match=words):
        parse_tools(tools)


def test_a_choice_is_read():
    tools = parse_tools([function("f"), function("g")])
    assert parse_tool_choice(None, tools) == ToolChoice("auto")
    assert parse_tool_choice(None, ()) == ToolChoice("none")
    assert parse_tool_choice("auto", tools, parallel=False) == ToolChoice("auto", parallel=False)
    assert parse_tool_choice("none", tools) == ToolChoice("none")
    assert parse_tool_choice("required", tools) == ToolChoice("required")
    named = ToolChoice("required", "g", parallel=False)
    assert parse_tool_choice(function("g"), tools) == named
    assert parse_tool_choice({"type": "function", "name": "g"}, tools) == named


@pytest.mark.parametrize("value", ["any", 1, {}, {"type": "custom", "name": "f"}, function("h")])
def test_a_choice_that_cannot_be_meant_is_refused(value):
    with pytest.raises(UsageError, match="tool_choice"):
        parse_tool_choice(value, parse_tools([function("f")]))


def test_a_call_cannot_be_required_without_tools():
    with pytest.raises(UsageError, match="no tools were given"):
        parse_tool_choice("required", ())
