import re

import llguidance
import pytest

from llmedge.chat_format.detect import FamilyName
from llmedge.chat_format.forced import call_grammar, marks
from llmedge.chat_format.forms import FORMS, Call, write_calls
from llmedge.chat_format.tools import Tool, ToolChoice
from tests.chat_format.outputs import SAMPLES, TIME, TOOLS, format_of

TOOL = Tool(
    "get_weather",
    "",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "share": {"type": ["number", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city"],
    },
)
FULL = {"city": 'पुणे\n"x"', "days": 3, "exact": True, "share": None, "tags": ["a", "b"], "unit": "C"}
ONE = [Call("get_weather", FULL)]
TWO = [*ONE, Call("get_time", {})]
WRONG = {
    "an unknown tool": [Call("get_rain", {"city": "a"})],
    "nothing that is required": [Call("get_weather", {"days": 3})],
    "a wrong type": [Call("get_weather", {"city": "a", "days": "b"})],
    "a value not listed": [Call("get_weather", {"city": "a", "unit": "K"})],
    "an unknown argument": [Call("get_time", {"zone": "a"})],
}
TIME_ONLY = Tool(
    "get_time", "", {"type": "object", "properties": {}, "additionalProperties": False}
)


class Bytes:
    """A tokenizer whose tokens are bytes, and marks where a vocabulary has them as tokens."""

    def __init__(self, found: tuple[str, ...]) -> None:
        self.marks = {mark: 257 + place for place, mark in enumerate(found)}
        self.tokens = [b"<eos>", *(bytes([value]) for value in range(256)), *map(str.encode, found)]
        self.special_token_ids = [0, *self.marks.values()]
        self.eos_token_id, self.bos_token_id = 0, None
        longest_first = sorted(found, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if found else None

    def __call__(self, text: str | bytes) -> list[int]:
        return [value + 1 for value in (text.encode() if isinstance(text, str) else text)]

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = []
        for piece in self._split.split(text) if self._split else [text]:
            tokens += [self.marks[piece]] if piece in self.marks else self(piece)
        return tokens


class Judge:
    """Tells whether a grammar takes a text, whole."""

    def __init__(self, family: FamilyName, *, has_tokens: bool) -> None:
        self.format = format_of(family)
        self._bytes = Bytes(marks(self.format) if has_tokens else ())
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(self._bytes))

    @property
    def tokens(self) -> dict[str, int]:
        return self._bytes.marks

    def grammar(self, choice: ToolChoice, *, is_reasoning: bool = False) -> str | None:
        tools = (TOOL, TIME_ONLY)
        return call_grammar(
            self.format, tools, choice, tokens=self.tokens, is_reasoning=is_reasoning
        )

    def takes(self, grammar: str | None, text: str) -> bool:
        assert grammar
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        assert not matcher.get_error(), matcher.get_error()
        tokens = self._bytes.encode(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.fixture(params=[False, True], ids=["letters", "tokens"])
def has_tokens(request: pytest.FixtureRequest) -> bool:
    return request.param


each_family = pytest.mark.parametrize("family", sorted(FORMS))
REQUIRED = ToolChoice("required")


@each_family
def test_a_forced_call_is_in_the_familys_form(family: FamilyName, has_tokens: bool):
    judge = Judge(family, has_tokens=has_tokens)
    grammar = judge.grammar(REQUIRED)
    assert judge.takes(grammar, write_calls(family, ONE))
    assert not judge.takes(grammar, write_calls(family, ONE)[:-1])
    assert not judge.takes(grammar, "Hello")
    assert not judge.takes(grammar, "")
    for name, calls in WRONG.items():
        assert not judge.takes(grammar, write_calls(family, calls)), name


@each_family
def test_several_calls_are_forced_where_they_may_be(family: FamilyName, has_tokens: bool):
    judge = Judge(family, has_tokens=has_tokens)
    two = write_calls(family, TWO)
    assert judge.takes(judge.grammar(REQUIRED), two) == (FORMS[family].between is not None)
    assert not judge.takes(judge.grammar(ToolChoice("required", parallel=False)), two)


@each_family
def test_a_named_tool_is_the_only_one(family: FamilyName, has_tokens: bool):
    judge = Judge(family, has_tokens=has_tokens)
    grammar = judge.grammar(ToolChoice("required", "get_time", parallel=False))
    assert judge.takes(grammar, write_calls(family, TWO[1:]))
    assert not judge.takes(grammar, write_calls(family, ONE))


@each_family
def test_reasoning_may_come_before_a_forced_call(family: FamilyName, has_tokens: bool):
    judge = Judge(family, has_tokens=has_tokens)
    reasoning = judge.format.reasoning
    assert reasoning
    end = "<|end|><|start|>assistant" if family == "gpt_oss" else reasoning.end
    call = write_calls(family, ONE)
    assert judge.takes(judge.grammar(REQUIRED), f"{reasoning.start}So <b>\nthen{end}{call}")
    inside = judge.grammar(REQUIRED, is_reasoning=True)
    assert judge.takes(inside, f"So <b>\nthen{end}{call}")
    assert not judge.takes(inside, call)


@each_family
def test_a_call_that_is_begun_is_held_to_its_form(family: FamilyName, has_tokens: bool):
    judge = Judge(family, has_tokens=has_tokens)
    grammar = judge.grammar(ToolChoice())
    if not FORMS[family].trigger:
        assert grammar is None
        return
    assert judge.takes(grammar, "Hello <b>\n\nworld")
    assert judge.takes(grammar, f"Hello\n{write_calls(family, ONE)}")
    assert judge.takes(grammar, write_calls(family, TWO))
    for name, calls in WRONG.items():
        assert not judge.takes(grammar, f"Hello\n{write_calls(family, calls)}"), name


@pytest.mark.parametrize(
    "name",
    [
        *("one call", "two calls", "text before", "qwen3-coder, two"),
        *("deepseek v3.2", "deepseek v4", "gemma, JSON", "gemma 4", "mistral", "mistral 11"),
        *("mistral with ids in between", "granite", "nemotron", "apriel", "deepseek r1"),
        *("deepseek v3.1", "function gemma"),
    ],
)
def test_what_models_write_fits_the_grammar(name: str):
    sample = next(sample for sample in SAMPLES if sample.name == name)
    judge = Judge(sample.family, has_tokens=True)
    grammar = call_grammar(judge.format, TOOLS, ToolChoice(), tokens=judge.tokens)
    assert judge.takes(grammar, sample.text)


@pytest.mark.parametrize("name", ["llama", "gpt-oss", "none"])
def test_what_models_write_fits_the_grammar_of_forced_calls(name: str):
    sample = next(sample for sample in SAMPLES if sample.name == name)
    judge = Judge(sample.family, has_tokens=True)
    grammar = call_grammar(judge.format, TOOLS, REQUIRED, tokens=judge.tokens)
    assert judge.takes(grammar, sample.text.removesuffix("<|call|>"))


def test_nothing_is_constrained_where_no_call_is_wanted():
    known = format_of("hermes")
    assert call_grammar(known, TOOLS, ToolChoice("none")) is None
    assert call_grammar(known, (), ToolChoice("auto")) is None


def test_references_within_a_schema_are_followed():
    schema = {
        "type": "object",
        "properties": {"where": {"$ref": "#/$defs/place"}},
        "required": ["where"],
        "$defs": {
            "place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
        },
    }
    judge = Judge("hermes", has_tokens=False)
    grammar = call_grammar(judge.format, (Tool("go", "", schema), TIME), REQUIRED)
    assert judge.takes(grammar, write_calls("hermes", [Call("go", {"where": {"x": 1}})]))
    assert not judge.takes(grammar, write_calls("hermes", [Call("go", {"where": {"x": "1"}})]))


@each_family
def test_reasoning_that_is_cut_short_is_closed_in_every_grammar(
    family: FamilyName, has_tokens: bool
):
    judge = Judge(family, has_tokens=has_tokens)
    form = judge.format
    if form.reasoning is None:
        assert form.closing(may_call=True) == ""
        return
    closing = form.closing(may_call=True)
    for mode in ("required", "auto"):
        for is_open in (True, False):
            if is_open and family == "gpt_oss":
                continue  # its template never opens reasoning
            grammar = judge.grammar(ToolChoice(mode), is_reasoning=is_open)
            if grammar is None:
                continue
            start = "" if is_open else form.reasoning.start
            for thought in ("", "It may\nrain."):
                assert judge.takes(grammar, start + thought + closing + write_calls(family, ONE))
