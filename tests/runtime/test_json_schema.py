import json

import pytest

from llmedge.core.errors import UsageError
from llmedge.runtime.json_schema import UNSUPPORTED_KEYWORDS, check_schema, unsupported_keywords


@pytest.mark.parametrize("keyword", sorted(UNSUPPORTED_KEYWORDS))
def test_a_keyword_that_cannot_be_forced_is_named_wherever_it_stands(keyword: str):
    part = {"type": "array", keyword: True}
    assert unsupported_keywords(part) == [keyword]
    for schema in (
        part,
        {"properties": {"a": part}},
        {"items": part},
        {"prefixItems": [{}, part]},
        {"$defs": {"x": {"anyOf": [{}, part]}}},
        {"additionalProperties": part},
    ):
        with pytest.raises(UsageError, match=keyword.replace("$", r"\$")):
            check_schema(json.dumps(schema))


def test_a_property_or_a_value_may_have_the_name_of_a_keyword():
    check_schema('{"properties": {"not": {"type": "string"}, "if": {"const": {"not": 1}}}}')
    check_schema('{"enum": [{"uniqueItems": true}], "default": {"contains": 1}, "title": "x"}')


def test_many_patterns_are_taken_unless_they_are_joined():
    patterns = [{"type": "string", "pattern": f"^a{n}$"} for n in range(20)]
    check_schema(json.dumps({"anyOf": patterns}))
    check_schema(json.dumps({"properties": {f"p{n}": part for n, part in enumerate(patterns)}}))
    with pytest.raises(UsageError, match="20 patterns"):
        check_schema(json.dumps({"allOf": patterns}))


def test_a_schema_of_thousands_of_properties_is_refused():
    check_schema(json.dumps({"properties": {f"p{n}": {} for n in range(1000)}}))
    with pytest.raises(UsageError, match="1001"):
        check_schema(json.dumps({"properties": {f"p{n}": {} for n in range(1001)}}))
