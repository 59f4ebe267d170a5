import json

import pytest

from llmedge.core.errors import UsageError
from llmedge.engine.generation import Constraint
from llmedge.serve import schema
from llmedge.serve.constraints import (
    ResponseFormat,
    json_schema_constraint,
    request_constraint,
    require_depth,
)

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
BY_SCHEMA = Constraint("json_schema", json.dumps(SCHEMA, separators=(",", ":")))


def nested(depth: int) -> object:
    value: object = {}
    for place in range(depth):
        value = [value] if place % 2 else {"a": value}
    return value


def test_what_says_nothing_leaves_the_answer_free():
    assert request_constraint(schema.SamplingFields()) is None
    assert request_constraint(schema.SamplingFields(grammar="")) is None
    assert request_constraint(schema.SamplingFields(), schema.PlainFormat()) is None


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        (schema.JsonObjectFormat(), Constraint("json_object")),
        (schema.JsonObjectFormat(SCHEMA), BY_SCHEMA),
        (schema.JsonObjectFormat({}), Constraint("json_schema", "{}")),
        (schema.JsonSchemaFormat(schema.NamedSchema(SCHEMA, "x", strict=True)), BY_SCHEMA),
    ],
)
def test_a_response_format_is_json_any_or_by_a_schema(
    given: ResponseFormat, constraint: Constraint
):
    assert request_constraint(schema.SamplingFields(), given) == constraint


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"json_schema": SCHEMA}, BY_SCHEMA),
        ({"json_schema": {}}, Constraint("json_schema", "{}")),
        ({"regex": "a+"}, Constraint("regex", "a+")),
        ({"regex": ""}, Constraint("regex", "")),
        ({"grammar": 'root ::= "a"'}, Constraint("gbnf", 'root ::= "a"')),
        ({"grammar": '# c\n  my-rule  ::= "a"'}, Constraint("gbnf", '# c\n  my-rule  ::= "a"')),
        ({"grammar": 'start: "a"'}, Constraint("lark", 'start: "a"')),
        ({"grammar": 'start: "x ::= y"'}, Constraint("lark", 'start: "x ::= y"')),
    ],
)
def test_each_language_is_told_by_its_field_or_its_form(
    fields: dict[str, object], constraint: Constraint
):
    assert request_constraint(schema.SamplingFields(**fields)) == constraint


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"regex": "a", "grammar": 'start: "a"'}, None),
        ({"json_schema": SCHEMA}, schema.JsonObjectFormat()),
        ({"regex": ""}, schema.JsonSchemaFormat(schema.NamedSchema(SCHEMA))),
    ],
)
def test_only_one_can_be_given(fields: dict[str, object], given: ResponseFormat):
    with pytest.raises(UsageError, match="only one of response_format, json_schema"):
        request_constraint(schema.SamplingFields(**fields), given)


def test_one_that_is_too_long_is_refused_and_named():
    longest = schema.SamplingFields(regex="a" * 65536)
    assert request_constraint(longest)
    with pytest.raises(UsageError, match="the regex has 65537 characters, not up to 65536"):
        request_constraint(schema.SamplingFields(regex="a" * 65537))
    with pytest.raises(UsageError, match="the json_schema has"):
        request_constraint(schema.SamplingFields(json_schema={"title": "a" * 65536}))


def test_what_is_nested_too_deep_is_refused():
    require_depth(nested(63), "it")
    require_depth("a", "it")
    with pytest.raises(UsageError, match="it is nested deeper than 64"):
        require_depth(nested(64), "it")
    with pytest.raises(UsageError, match="the JSON schema is nested"):
        json_schema_constraint(nested(100_000))


def test_text_of_any_script_stays_as_it_is():
    assert json_schema_constraint({"const": "पुणे"}).text == '{"const":"पुणे"}'
