import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.chat_format.schemas import (
    as_list,
    as_object,
    choices,
    is_object,
    properties,
    required,
    type_of,
    type_of_text,
    types,
)

NOT_OBJECTS = (None, 1, "a", [], [("a", 1)], True)


def test_what_is_no_object_or_no_list_is_an_empty_one():
    assert as_object({"a": 1}) == {"a": 1}
    assert as_list([1]) == [1]
    assert all(as_object(value) == {} for value in NOT_OBJECTS)
    assert all(as_list(value) == [] for value in (None, "ab", {"a": 1}, (1, 2)))


def test_a_schema_names_its_properties_and_those_that_must_be_there():
    schema = {"properties": {"a": {"type": "string"}, "b": True}, "required": ["a"]}
    assert properties(schema) == {"a": {"type": "string"}, "b": True}
    assert required(schema) == {"a"}
    assert properties({"properties": ["a"]}) == {}
    assert required({"required": "ab"}) == frozenset()


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"enum": ["C", 1, None]}, ["C", 1, None]),
        ({"const": 5}, [5]),
        ({"const": None}, [None]),
        ({"enum": ["a", ["b"]]}, []),
        ({"const": {"a": 1}}, []),
        ({"enum": []}, []),
        ({"type": "string"}, []),
    ],
)
def test_only_scalars_are_choices(schema: dict[str, object], found: list[object]):
    assert choices(schema) == found


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "integer"}, {"integer"}),
        ({"type": ["number", "null"]}, {"number", "null"}),
        ({"anyOf": [{"type": "string"}, {"oneOf": [{"type": "null"}]}]}, {"string", "null"}),
        ({"oneOf": [{"type": "array"}, {"const": 1}]}, {"array", "integer"}),
        ({"enum": ["C", True, 1.5]}, {"string", "boolean", "number"}),
        ({"type": "string", "enum": [1]}, {"string"}),
    ],
)
def test_a_schema_says_which_types_it_allows(schema: dict[str, object], found: set[str]):
    assert types(schema) == found


@pytest.mark.parametrize(
    "schema",
    [{}, {"$ref": "#/$defs/a"}, {"anyOf": [{"type": "string"}, {}]}, {"anyOf": ["string"]}],
)
def test_a_schema_that_leaves_the_type_open_names_none(schema: dict[str, object]):
    assert types(schema) == frozenset()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"a": 1}', "object"),
        (" [1] ", "array"),
        ('"a"', "string"),
        ("true", "boolean"),
        ("1", "integer"),
        ("1.0", "number"),
        ("null", "null"),
    ],
)
def test_a_text_has_the_type_of_its_json(text: str, kind: str):
    assert type_of_text(text) == kind
    assert is_object(text) == (kind == "object")


@pytest.mark.parametrize(
    "text", ["", "word", "{'a': 1}", "NaN", "[Infinity]", "1 2", "True", "[" * 100_000, "1" * 5000]
)
def test_what_is_no_json_has_no_type(text: str):
    assert type_of_text(text) == ""
    assert not is_object(text)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_what_a_value_is_a_schema_of_it_allows(value: object):
    assert types({"const": value}) == {type_of(value)}
