"""Which family's form a model writes, told by the content of its chat template, never by a name.

A table of rules: the first whose marks are all in the template, and none of its foreign ones, says
the family. What no rule knows is `none`: an answer is plain text, and a call can still be forced,
as JSON. ChatML without a form of its own is read as Hermes, which those models were tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FamilyName: TypeAlias = Literal[
    "hermes",
    "qwen3_coder",
    "seed_oss",
    "glm",
    "llama",
    "gemma",
    "function_gemma",
    "gemma4",
    "mistral",
    "mistral_v11",
    "mistral_call_id",
    "granite",
    "nemotron_v2",
    "apriel",
    "gpt_oss",
    "deepseek_r1",
    "deepseek",
    "deepseek_v3_2",
    "deepseek_v4",
    "none",
]


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What stands around reasoning.

    Attributes:
        start: What opens it, where the template did not.
        end: What closes it.
        end_text: What to write to close it at once: the mark with the layout around it.
    """

    start: str
    end: str
    end_text: str


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What a model writes between the lines.

    Attributes:
        family: How it writes calls.
        reasoning: The marks of its reasoning; `None` where it has none.
    """

    family: FamilyName
    reasoning: ReasoningMarks | None = None

    def opens_reasoning(self, prompt: str) -> bool:
        """Tell whether a rendered prompt ends inside of reasoning."""
        return self.reasoning is not None and prompt.rstrip().endswith(
            self.reasoning.start.rstrip()
        )

    def closing(self, *, may_call: bool) -> str:
        """Return what to write to close reasoning at once; "" where there is none.

        Args:
            may_call: What follows may be a call, so that it must not begin as content.
        """
        if self.reasoning is None:
            return ""
        is_harmony = self.family == "gpt_oss" and may_call
        return HARMONY_TURN if is_harmony else self.reasoning.end_text


@dataclass(frozen=True, slots=True)
class _Rule:
    family: FamilyName
    marks: tuple[str, ...]
    foreign: tuple[str, ...] = ()


_RULES = (
    _Rule("gpt_oss", ("<|channel|>", "<|message|>", "functions.")),
    _Rule("gemma4", ("<|tool_call>", "<tool_call|>")),
    _Rule("function_gemma", ("<start_function_call>", "<end_function_call>")),
    _Rule("deepseek_v4", ("｜DSML｜", "tool_calls>"), ("function_calls>",)),
    _Rule("deepseek_v3_2", ("｜DSML｜", "function_calls>")),
    _Rule("deepseek_r1", ("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "```json")),
    _Rule("deepseek", ("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>")),
    _Rule("mistral_call_id", ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")),
    _Rule("mistral_v11", ("[TOOL_CALLS]", "[ARGS]")),
    _Rule("mistral", ("[TOOL_CALLS]",)),
    _Rule("seed_oss", ("<seed:tool_call>", "<function=", "<parameter=")),
    _Rule("qwen3_coder", ("<tool_call>", "<function=", "<parameter=")),
    _Rule("glm", ("<tool_call>", "<arg_key>", "<arg_value>")),
    _Rule("nemotron_v2", ("<TOOLCALL>[", "]</TOOLCALL>")),
    _Rule("apriel", ("<tool_calls>[", "]</tool_calls>")),
    _Rule("granite", ("<|start_of_role|>", "<|tool_call|>")),
    _Rule(
        "hermes", ("<tool_call>", "</tool_call>", "name", "arguments"), ("<tool_calls>", "<invoke")
    ),
    _Rule("llama", ("<|start_header_id|>", '"parameters": '), ("<function=", "functools", ">>>")),
    _Rule("gemma", ("<start_of_turn>",)),
    _Rule("hermes", ("<|im_start|>",), ("tool_call", "List of tools: ")),
)
_NONE = _Rule("none", ())

HARMONY_TURN = "<|end|><|start|>assistant"  # after it comes a channel: content or a call

_THINK = ReasoningMarks("<think>", "</think>", "\n</think>\n\n")
_REASONING = (
    ReasoningMarks("[THINK]", "[/THINK]", "[/THINK]"),
    ReasoningMarks("<seed:think>", "</seed:think>", "</seed:think>"),
    ReasoningMarks(
        "Here is my thought process:", "Here is my response:", "\n\nHere is my response:\n\n"
    ),
    _THINK,
)
_BY_FAMILY = {
    "gpt_oss": ReasoningMarks(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        HARMONY_TURN + "<|channel|>final<|message|>",
    ),
    "gemma4": ReasoningMarks("<|channel>thought\n", "<channel|>", "\n<channel|>"),
}


def detect(template: str) -> ChatFormat:
    """Tell what a model with this chat template writes; "" is a model without one."""
    family = next((rule for rule in _RULES if _fits(rule, template)), _NONE).family
    marks = (marks for marks in _REASONING if marks.end in template)
    reasoning = _BY_FAMILY.get(family) or next(marks, None)
    return ChatFormat(family, reasoning)


def _fits(rule: _Rule, template: str) -> bool:
    return all(mark in template for mark in rule.marks) and not any(
        mark in template for mark in rule.foreign
    )
