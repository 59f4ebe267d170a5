"""Rules for arguments that are not JSON, judged by llguidance itself."""

import itertools
import json

import llguidance
import pytest

from llmedge.chat_format.forced_values import gemma_object, tagged_arguments
from llmedge.chat_format.read_tags import DEEPSEEK_V3_2, QWEN3_CODER
from tests.chat_format.test_forced import Bytes

QUOTE = "<q>"


class WrittenRules:
    """Rules as text; no name may be given twice."""

    def __init__(self) -> None:
        self.bodies: dict[str, str] = {"TEXT": "/(.|\\n)*/"}

    def rule(self, name: str, body: str) -> str:
        assert name not in self.bodies
        self.bodies[name] = body
        return name

    def literal(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def until(self, name: str, end: str) -> str:
        self.rule(f"{name}_end[lazy]", f"TEXT {self.literal(end)}")
        return self.rule(name, f"{name}_end")

    def take(self, text: str) -> bool:
        """Tell whether the rule of arguments takes a text, whole."""
        rules = [f"{name}: {body}" for name, body in self.bodies.items()]
        grammar = "\n".join(["%llguidance {}", "start: arguments", *rules, ""])
        alphabet = Bytes(())
        tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(alphabet))
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        assert not matcher.get_error(), matcher.get_error()
        tokens = alphabet.encode(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def gemma(schema: dict[str, object]) -> WrittenRules:
    rules = WrittenRules()
    assert gemma_object(rules, "arguments", schema, QUOTE) == "arguments"
    return rules


def tagged(schema: dict[str, object], style=QWEN3_CODER) -> WrittenRules:
    rules = WrittenRules()
    assert tagged_arguments(rules, "arguments", schema, style) == "arguments"
    return rules


def parameter(name: str, value: str) -> str:
    return f"<parameter={name}>\n{value}\n</parameter>\n"


def test_tagged_arguments_stand_in_the_schemas_order_and_optional_ones_may_be_left_out():
    kinds = {"b": {"type": "string"}, "a": {"type": "integer"}}
    rules = tagged({"properties": kinds, "required": ["b"]})
    text, number = parameter("b", "any <b>\ntext"), parameter("a", "-3")
    assert rules.take(text)
    assert rules.take(text + number)
    for wrong in ("", number, number + text, text + text, text + parameter("c", "1")):
        assert not rules.take(wrong)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer"}, ["0", "-12"], ["a", "1.5", ""]),
        ({"type": "string", "enum": ["C", "F"]}, ["C", "F"], ["K", '"C"', ""]),
        ({"enum": [1, "a"]}, ["1", '"a"'], ["2", "a"]),
        ({"$ref": "#/$defs/x"}, ["anything"], []),
        ({"type": ["string", "null"]}, ['"a"', "null"], ["a"]),
        ({"type": "array", "items": {"$ref": "#/$defs/x"}}, ["[1]"], ['["a"]']),
    ],
)
def test_a_tagged_value_is_held_to_its_type(
    schema: dict[str, object], right: list[str], wrong: list[str]
):
    whole = {"properties": {"a": schema}, "required": ["a"], "$defs": {"x": {"type": "integer"}}}
    rules = tagged(whole)
    assert all(rules.take(parameter("a", value)) for value in right)
    assert not any(rules.take(parameter("a", value)) for value in wrong)


def test_text_and_json_are_told_apart_where_the_style_does():
    kinds = {"a": {"type": "string"}, "b": {"type": "integer"}}
    rules = tagged({"properties": kinds, "required": ["a", "b"]}, DEEPSEEK_V3_2)
    first, second = (
        f'<｜DSML｜parameter name="{name}" string="{{}}">1</｜DSML｜parameter>\n' for name in "ab"
    )
    assert rules.take(first.format("true") + second.format("false"))
    assert not rules.take(first.format("false") + second.format("false"))
    assert not rules.take(first.format("true") + second.format("true"))


def test_without_properties_there_is_nothing_to_write():
    assert tagged({}).take("")
    assert not tagged({}).take("a")
    assert gemma({}).take("{}")
    assert not gemma({}).take("{a:1}")


@pytest.mark.parametrize("required", [[], ["a"], ["b"], ["c"], ["a", "c"], ["a", "b", "c"]])
def test_gemmas_keys_are_sorted_and_its_commas_stand_between_what_is_there(required: list[str]):
    names = ("c", "a", "b")
    rules = gemma(
        {"properties": {name: {"type": "integer"} for name in names}, "required": required}
    )
    for n in range(4):
        for chosen in itertools.permutations("abc", n):
            is_right = list(chosen) == sorted(chosen) and set(required) <= set(chosen)
            assert rules.take("{" + ",".join(f"{name}:1" for name in chosen) + "}") == is_right
    for wrong in ("{,}", "{a:1,b:1,c:1,}", "{a:1b:1,c:1}", "a:1,b:1,c:1"):
        assert not rules.take(wrong)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer"}, ["0", "-12"], ["01", "1.5", ""]),
        ({"type": "number"}, ["1", "-0.5e+3"], [".5", "NaN"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "1"]),
        ({"type": "null"}, ["null"], ["None"]),
        ({"type": "string"}, ["<q>पुणे, {<q>", "<q><q>"], ['"a"', "a", "<q>a"]),
        ({"enum": ["C", 1, None]}, ["<q>C<q>", "1", "null"], ["C", "<q>K<q>", "2"]),
        ({"type": ["integer", "null"]}, ["1", "null"], ["<q>1<q>"]),
        ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1]", "[1,2]"], ["[1,]", "[a]"]),
        (
            {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            ["{x:1}"],
            ["{}", "{y:1}", "{x:1,y:1}"],
        ),
    ],
)
def test_a_value_in_gemmas_notation_is_held_to_its_type(
    schema: dict[str, object], right: list[str], wrong: list[str]
):
    rules = gemma({"properties": {"k": schema}, "required": ["k"]})
    assert all(rules.take(f"{{k:{value}}}") for value in right)
    assert not any(rules.take(f"{{k:{value}}}") for value in wrong)


def test_what_the_schema_leaves_open_is_any_value_in_gemmas_notation():
    kinds = {"a": {}, "b": {"type": "array"}, "c": {"type": "object"}, "d": {"$ref": "#"}}
    rules = gemma({"properties": kinds})
    anything = "{x:[1,<q>a<q>,{}],y-z:null}"
    assert rules.take(f"{{a:{anything},b:[{anything},true],c:{anything},d:-1.5}}")
    assert not rules.take("{a:word}")
    assert not rules.take("{b:{}}")


def test_a_schema_nested_very_deep_is_any_value_in_its_depths():
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(30):
        schema = {"type": "object", "properties": {"k": schema}, "required": ["k"]}
    rules = gemma(schema)
    assert rules.take("{k:" * 30 + "1" + "}" * 30)
    assert rules.take("{k:" * 30 + "<q>a<q>" + "}" * 30)
    assert not rules.take("{k:" * 3 + "1" + "}" * 3)
