"""Texts as models of each family write them, with what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from llmedge.chat_format.detect import ChatFormat, FamilyName, ReasoningMarks, detect
from llmedge.chat_format.parser import ChatParser
from llmedge.chat_format.parts import (
    CallArguments,
    CallEnded,
    CallStarted,
    Content,
    Part,
    Reasoning,
)
from llmedge.chat_format.tools import Tool

WEATHER = Tool(
    "get_weather",
    "Tells the weather.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer", "description": "How many."},
            "options": {"type": "object", "properties": {"tags": {"type": "array"}}},
            "exact": {"type": "boolean", "description": "Whether."},
        },
        "required": ["city"],
    },
)
TIME = Tool("get_time", "Tells the time.")
TOOLS = (WEATHER, TIME)
HARD = '{"city": "पुणे \\"x\\" {]", "days": 3, "options": {"tags": [1, {"b": null}]}}'

THINK = ReasoningMarks("<think>", "</think>", "\n</think>\n\n")
_OWN = {
    "gpt_oss": "<|channel|>analysis<|message|> functions.",
    "gemma4": "<|tool_call>x<tool_call|>",
}


def format_of(family: FamilyName) -> ChatFormat:
    """Return a family's format, with reasoning."""
    if family in _OWN:
        return detect(_OWN[family])
    return ChatFormat(family, THINK)


def parse(
    family: FamilyName,
    *pieces: str,
    tools: tuple[Tool, ...] = TOOLS,
    is_reasoning: bool = False,
) -> list[Part]:
    """Parse a text that comes in pieces, and join the parts."""
    parser = ChatParser(format_of(family), tools, is_reasoning=is_reasoning)
    parts: list[Part] = []
    for piece in pieces:
        parts += parser.feed(piece)
    return joined(parts + parser.finish())


def joined(parts: list[Part]) -> list[Part]:
    done: list[Part] = []
    for part in parts:
        last = done[-1] if done else None
        if isinstance(part, Content | Reasoning) and type(last) is type(part):
            done[-1] = type(part)(last.text + part.text)
        elif isinstance(part, CallArguments) and isinstance(last, CallArguments):
            assert last.index == part.index
            done[-1] = CallArguments(part.index, last.text + part.text)
        else:
            done.append(part)
    return done


def calls(*given: tuple[str, str], whole: bool = True) -> list[Part]:
    """Return the parts of calls; the last is whole or not."""
    parts: list[Part] = []
    for index, (name, arguments) in enumerate(given):
        parts.append(CallStarted(index, name))
        parts += [CallArguments(index, arguments)] if arguments else []
        parts.append(CallEnded(index, whole or index < len(given) - 1))
    return parts


@dataclass(frozen=True)
class Sample:
    name: str
    family: FamilyName
    text: str
    parts: list[Part]


_OBJECT = f'{{"name": "get_weather", "arguments": {HARD}}}'
_LLAMA = f'{{"name": "get_weather", "parameters": {HARD}}}'
_TIME = '{"name": "get_time", "arguments": {}}'
_HERMES = f"<tool_call>\n{_OBJECT}\n</tool_call>"
_QWEN = (
    '<tool_call>\n<function=get_weather>\n<parameter=city>\nपुणे "x" {]\n</parameter>\n'
    '<parameter=days>\n3\n</parameter>\n<parameter=options>\n{"tags": [1, {"b": null}]}\n'
    "</parameter>\n</function>\n</tool_call>"
)
_GLM = (
    '<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>पुणे "x" {]</arg_value>\n'
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>options</arg_key>\n"
    '<arg_value>{"tags": [1, {"b": null}]}</arg_value>\n</tool_call>'
)
_SEED = (
    "<seed:tool_call>\n<function=get_weather>\n"
    '<parameter=city>पुणे "x" {]</parameter>\n<parameter=days>3</parameter>\n'
    "<parameter=options>{'tags': [1, {'b': None}]}</parameter>\n</function>\n</seed:tool_call>"
)
_DSML = (
    '<｜DSML｜invoke name="get_weather">\n'
    '<｜DSML｜parameter name="city" string="true">पुणे "x" {]</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="options" string="false">{"tags": [1, {"b": null}]}'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
)
_GEMMA4 = (
    '<|tool_call>call:get_weather{city:<|"|>पुणे "x" {]<|"|>,days:3,'
    "options:{tags:[1,{b:null}]}}<tool_call|>"
)
_ONE = calls(("get_weather", HARD))
_TWO = calls(("get_weather", HARD), ("get_time", "{}"))
_R1 = f"function<｜tool▁sep｜>get_weather\n```json\n{HARD}\n```"
_OSS = f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{HARD}"

SAMPLES = [
    Sample("text", "hermes", "Hello,\n\nworld! \n", [Content("Hello,\n\nworld! \n")]),
    Sample("one call", "hermes", _HERMES, _ONE),
    Sample("two calls", "hermes", f"{_HERMES}\n<tool_call>\n{_TIME}\n</tool_call>", _TWO),
    Sample("list", "hermes", f"<tool_call>[{_OBJECT}, {_TIME}]</tool_call>", _TWO),
    Sample("text before", "hermes", f"Let me see.\n\n{_HERMES}", [Content("Let me see."), *_ONE]),
    Sample(
        "reasoning before",
        "hermes",
        f"<think>\nA <tool_call>?\n</think>\n\nNow.\n{_HERMES}",
        [Reasoning("A <tool_call>?"), Content("Now."), *_ONE],
    ),
    Sample("text after", "hermes", f"{_HERMES}\nDone.", [*_ONE, Content("Done.")]),
    Sample(
        "cut off in the arguments",
        "hermes",
        _HERMES[:70],
        calls(("get_weather", HARD[: 70 - _HERMES.index(HARD)]), whole=False),
    ),
    Sample("cut off in the name", "hermes", _HERMES[:26], [Content('<tool_call>\n{"name": "get_')]),
    Sample("cut off in the mark", "hermes", "a <tool_ca", [Content("a <tool_ca")]),
    Sample(
        "not a call",
        "hermes",
        'A <tool_call> is {"name": 1} </tool_call>.',
        [Content('A <tool_call> is {"name": 1} </tool_call>.')],
    ),
    Sample(
        "a call after what is none",
        "hermes",
        f"A <tool_call>is <tool_call>{_TIME}",
        [Content("A <tool_call>is"), *calls(("get_time", "{}"))],
    ),
    Sample(
        "arguments first",
        "hermes",
        '<tool_call>{"arguments": {"a": 1}, "id": [1], "name": "f"}</tool_call>',
        calls(("f", '{"a": 1}')),
    ),
    Sample(
        "arguments as text",
        "hermes",
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"\\u00e9\\"}"}</tool_call>',
        calls(("f", '{"a": "é"}')),
    ),
    Sample(
        "line break in a string",
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "1\n2\t"}}</tool_call>',
        calls(("f", '{"a": "1\\n2\\t"}')),
    ),
    Sample(
        "a brace too many",
        "hermes",
        '<tool_call>\n{"name": "f", "arguments": {}}}\n</tool_call>',
        calls(("f", "{}")),
    ),
    Sample(
        "a brace too few",
        "hermes",
        '<tool_call>\n{"name": "f", "arguments": {}\n</tool_call>',
        calls(("f", "{}")),
    ),
    Sample(
        "brackets that do not match",
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": ]}}</tool_call>',
        [*calls(("f", '{"a": '), whole=False), Content("]}}</tool_call>")],
    ),
    Sample(
        "keys without quotes",
        "hermes",
        '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>',
        calls(("f", "{a: 1}"), whole=False),
    ),
    Sample("qwen3-coder", "qwen3_coder", _QWEN, _ONE),
    Sample(
        "qwen3-coder, two",
        "qwen3_coder",
        f"Ok.\n{_QWEN}\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
        [Content("Ok."), *_TWO],
    ),
    Sample(
        "qwen3-coder, several lines",
        "qwen3_coder",
        "<function=get_weather><parameter=city>\n\na\n\nb\n\n</parameter></function>",
        calls(("get_weather", '{"city": "\\na\\n\\nb\\n"}')),
    ),
    Sample(
        "qwen3-coder, a boolean as Python writes it",
        "qwen3_coder",
        "<function=get_weather>\n<parameter=exact>\nTrue\n</parameter>\n</function>",
        calls(("get_weather", '{"exact": true}')),
    ),
    Sample(
        "qwen3-coder, cut off",
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nNew <par",
        calls(("get_weather", '{"city": "New <par'), whole=False),
    ),
    Sample(
        "qwen3-coder, not a call",
        "qwen3_coder",
        "Write <function= a b> and <tool_call>.",
        [Content("Write <function= a b> and <tool_call>.")],
    ),
    Sample("glm", "glm", f"{_GLM}<tool_call>get_time</tool_call>", _TWO),
    Sample("glm, bare", "glm", _GLM.replace("\n", ""), _ONE),
    Sample("glm, not a call", "glm", "A <tool_call> b", [Content("A <tool_call> b")]),
    Sample("seed-oss", "seed_oss", _SEED, _ONE),
    Sample(
        "deepseek v3.2",
        "deepseek_v3_2",
        f"Hm.\n\n<｜DSML｜function_calls>\n{_DSML}"
        '<｜DSML｜invoke name="get_time">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        [Content("Hm."), *_TWO],
    ),
    Sample(
        "deepseek v4",
        "deepseek_v4",
        f"<｜DSML｜tool_calls>\n{_DSML}</｜DSML｜tool_calls>",
        _ONE,
    ),
    Sample("llama", "llama", _LLAMA, _ONE),
    Sample("llama, marked", "llama", f"<|python_tag|>{_LLAMA}", _ONE),
    Sample("llama, two", "llama", f"{_LLAMA}; {_TIME}", _TWO),
    Sample("llama, two lines", "llama", f"{_LLAMA}\n{_TIME}", _TWO),
    Sample(
        "llama, not a call",
        "llama",
        '{"name": "nobody", "parameters": {}}',
        [Content('{"name": "nobody", "parameters": {}}')],
    ),
    Sample("llama, JSON", "llama", '{"city": [1, 2]}', [Content('{"city": [1, 2]}')]),
    Sample("llama, code", "llama", "<|python_tag|>1 + 1", [Content("<|python_tag|>1 + 1")]),
    Sample("gemma, JSON", "gemma", f"Ok:\n```json\n{_LLAMA}\n```", [Content("Ok:"), *_ONE]),
    Sample("gemma, list", "gemma", f"```json\n[{_LLAMA},\n {_TIME}]\n```\n", _TWO),
    Sample(
        "gemma, Python",
        "gemma",
        "```tool_code\nget_weather(city='a\\'(', days=3, options={'tags': [None]})\n```",
        calls(("get_weather", '{"city": "a\'(", "days": 3, "options": {"tags": [null]}}')),
    ),
    Sample(
        "gemma, Python list",
        "gemma",
        '[get_weather(city="a"), get_time()]',
        calls(("get_weather", '{"city": "a"}'), ("get_time", "{}")),
    ),
    Sample(
        "gemma, printed",
        "gemma",
        "```tool_code\nprint(get_time())\n```",
        calls(("get_time", "{}")),
    ),
    Sample(
        "gemma, other code",
        "gemma",
        "So:\n```python\nget_weather = len('x')\n```\nand `get_time()`",
        [Content("So:\n```python\nget_weather = len('x')\n```\nand `get_time()`")],
    ),
    Sample(
        "gemma, no literal",
        "gemma",
        "```python\nget_weather(city=here)\n```",
        [Content("```python\nget_weather(city=here)\n```")],
    ),
    Sample("gemma 4", "gemma4", _GEMMA4, _ONE),
    Sample(
        "gemma 4, two after reasoning",
        "gemma4",
        f"<|channel>thought\nI'm\nthinking\n<channel|>Ok{_GEMMA4}"
        "<|tool_call>call:get_time{}<tool_call|>",
        [Reasoning("I'm\nthinking"), Content("Ok"), *_TWO],
    ),
    Sample(
        "gemma 4, cut off",
        "gemma4",
        _GEMMA4[:43],
        calls(("get_weather", '{"city": "पुणे'), whole=False),
    ),
    Sample(
        "gemma 4, malformed",
        "gemma4",
        "<|tool_call>call:f{a:}<tool_call|>",
        [*calls(("f", '{"a": '), whole=False), Content("}<tool_call|>")],
    ),
    Sample(
        "function gemma",
        "function_gemma",
        "<start_function_call>call:get_weather{city:<escape>a<escape>,exact:true}"
        "<end_function_call>",
        calls(("get_weather", '{"city": "a", "exact": true}')),
    ),
    Sample("mistral", "mistral", f"[TOOL_CALLS][{_OBJECT}, {_TIME}]", _TWO),
    Sample(
        "mistral, with ids",
        "mistral",
        f'[TOOL_CALLS] [{_TIME[:-1]}, "id": "a23456789"}}]',
        calls(("get_time", "{}")),
    ),
    Sample("mistral, text", "mistral", "A [TOOL_CALLS] b", [Content("A [TOOL_CALLS] b")]),
    Sample(
        "mistral 11",
        "mistral_v11",
        f"Hi.[TOOL_CALLS]get_weather[ARGS]{HARD}[TOOL_CALLS]get_time[ARGS]{{}}",
        [Content("Hi."), *_TWO],
    ),
    Sample(
        "mistral with ids in between",
        "mistral_call_id",
        f"[TOOL_CALLS]get_weather[CALL_ID]a23456789[ARGS]{HARD}",
        _ONE,
    ),
    Sample(
        "granite",
        "granite",
        f"<think>Hm.</think>\n<|tool_call|>[{_OBJECT}, {_TIME}]",
        [Reasoning("Hm."), *_TWO],
    ),
    Sample("nemotron", "nemotron_v2", f"<TOOLCALL>[{_OBJECT}, {_TIME}]</TOOLCALL>", _TWO),
    Sample("apriel", "apriel", f"<tool_calls>[{_OBJECT}]</tool_calls>", _ONE),
    Sample("gpt-oss", "gpt_oss", f"{_OSS}<|call|>", _ONE),
    Sample(
        "gpt-oss, the receiver first",
        "gpt_oss",
        f" to=functions.get_weather<|channel|>commentary json<|message|>{HARD}",
        _ONE,
    ),
    Sample(
        "gpt-oss, all channels",
        "gpt_oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        f"<|message|>Let me see.<|end|><|start|>assistant{_OSS}",
        [Reasoning("Hm."), Content("Let me see."), *_ONE],
    ),
    Sample(
        "gpt-oss, an answer",
        "gpt_oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        [Reasoning("Hm."), Content("Yes.")],
    ),
    Sample("gpt-oss, bare text", "gpt_oss", "assistant is <b>.", [Content("assistant is <b>.")]),
    Sample(
        "gpt-oss, no name",
        "gpt_oss",
        " to=functions.<|message|>{}",
        [Content(" to=functions.<|message|>{}")],
    ),
    Sample("gpt-oss, half a header", "gpt_oss", "<|channel|>ana", []),
    Sample(
        "gpt-oss, a tool of its own",
        "gpt_oss",
        "<|channel|>commentary to=python<|message|>1 + 1",
        [Content("<|channel|>commentary to=python<|message|>1 + 1")],
    ),
    Sample(
        "deepseek r1",
        "deepseek_r1",
        f"<think>Hm.</think>Ok.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{_R1}"
        "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [Reasoning("Hm."), Content("Ok."), *_TWO],
    ),
    Sample(
        "deepseek v3.1",
        "deepseek",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{HARD}"
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        _TWO,
    ),
    Sample(
        "deepseek, not a call",
        "deepseek",
        "A <｜tool▁calls▁begin｜>b",
        [Content("A <｜tool▁calls▁begin｜>b")],
    ),
    Sample("none", "none", f"{_OBJECT}\n{_TIME}", _TWO),
    Sample("none, text", "none", "[1] is <tool_call>", [Content("[1] is <tool_call>")]),
]
