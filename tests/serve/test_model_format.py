"""Tool calls and reasoning through the endpoint: what `chat_service` makes of `model_format`."""

import asyncio
import json

import pytest

from llmedge.core.errors import UsageError
from llmedge.engine.engine import ModelInfo
from llmedge.engine.generation import Constraint, ReasoningLimit
from llmedge.serve.answer import (
    CallArguments,
    CallEnded,
    CallStarted,
    ChatCall,
    Content,
    NamedTool,
    Reasoning,
)
from llmedge.serve.chat_service import ChatService
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.model_format import ModelFormats
from llmedge.serve.pool import ModelPool, pool_of
from llmedge.serve.served import Defaults
from tests.fakes import FakeEngine
from tests.serve.endpoint import CHAT, serving

HERMES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}<tool_call>{{ tools | tojson }}</tool_call> name arguments{% endif %}"
    "<think></think><|im_start|>assistant\n"
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "पुणे"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ASKED = {"messages": [{"role": "user", "content": "Rain?"}], "tools": [WEATHER]}
USER = [{"role": "user", "content": "Rain?"}]


def hermes(*words: str) -> FakeEngine:
    return FakeEngine(words, info=ModelInfo(id="fake", n_ctx=4096, chat_template=HERMES))


def opened(engine: FakeEngine, **fields):
    return asyncio.run(ModelFormats().open(engine, ChatCall(messages=USER, **fields)))


def test_calls_reasoning_and_content_are_told_apart_however_the_text_is_split():
    text = f"<think>It may.</think>Let me look.{CALL}"
    for size in (1, 2, 5, len(text)):
        form = opened(hermes(), tools=[WEATHER])
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        parts = [part for piece in pieces for part in form.feed(piece)] + list(form.finish())
        assert "".join(p.text for p in parts if isinstance(p, Reasoning)) == "It may."
        assert "".join(p.text for p in parts if isinstance(p, Content)) == "Let me look."
        (call,) = [p for p in parts if isinstance(p, CallStarted)]
        assert call.name == "weather"
        assert call.id.startswith("call_")
        arguments = "".join(p.text for p in parts if isinstance(p, CallArguments))
        assert json.loads(arguments) == {"city": "पुणे"}
        assert parts[-1] == CallEnded(0)


def test_a_template_is_tried_out_once_and_then_known():
    engine, formats = hermes(), ModelFormats()

    class Counting(FakeEngine):
        n_rendered = 0

        async def render(self, prompt):
            Counting.n_rendered += 1
            return await super().render(prompt)

    engine = Counting((), info=ModelInfo(id="fake", n_ctx=4096, chat_template=HERMES))
    asyncio.run(formats.open(engine, ChatCall(messages=USER)))
    tried = Counting.n_rendered
    assert tried > 3
    asyncio.run(formats.open(engine, ChatCall(messages=USER)))
    assert Counting.n_rendered - tried <= 1  # whether the prompt opens reasoning


def test_a_model_without_marks_is_passed_through_to_the_letter():
    engine = FakeEngine(info=ModelInfo(id="fake", n_ctx=4096, chat_template="{{ messages }}"))
    form = opened(engine)
    assert form.feed(" <tool_call> ") == (Content(" <tool_call> "),)
    assert not form.shows_special
    assert form.finish() == ()


def test_calls_that_must_be_made_are_forced_and_others_are_not():
    forced = opened(hermes(), tools=[WEATHER], tool_choice="required")
    named = opened(hermes(), tools=[WEATHER], tool_choice=NamedTool("weather"))
    for form in (forced, named):
        assert form.constraint is not None
        assert form.constraint.kind == "lark"
        assert "weather" in form.constraint.text
    none = opened(hermes(), tools=[WEATHER], tool_choice="none")
    assert none.constraint is None
    assert none.prompt.tools is None


def test_what_cannot_be_done_is_refused():
    with pytest.raises(UsageError, match="cannot call tools"):
        opened(hermes(), tools=[WEATHER], constraint=Constraint("json_object"))
    with pytest.raises(UsageError, match="no name"):
        opened(hermes(), tools=[{"type": "function", "function": {}}])


def test_a_budget_of_reasoning_is_a_limit_in_the_familys_marks():
    limit = opened(hermes(), reasoning_budget=100).reasoning
    assert limit == ReasoningLimit(100, "<think>", "</think>", "\n</think>\n\n")
    none = opened(hermes(), reasoning_budget=0)
    assert none.prompt.arguments == {"enable_thinking": False}
    assert none.reasoning is not None
    assert none.reasoning.n_max == 0
    assert opened(hermes()).reasoning is None
    plain = FakeEngine(info=ModelInfo(id="fake", n_ctx=4096, chat_template="{{ messages }}"))
    assert opened(plain, reasoning_budget=100).reasoning is None


def test_an_endpoints_own_budget_holds_where_a_call_does_not_say():
    formats = ModelFormats(reasoning_budget=9)

    def n_max(**fields) -> int | None:
        form = asyncio.run(formats.open(hermes(), ChatCall(messages=USER, **fields)))
        return form.reasoning and form.reasoning.n_max

    assert n_max() == 9
    assert n_max(reasoning_budget=4) == 4
    assert n_max(reasoning_budget=-1) is None


def test_the_service_passes_the_limit_on():
    with serving(engine := hermes("Hello"), defaults=Defaults(reasoning_budget=9)) as client:
        client.post(CHAT, {"messages": USER})
        client.post(CHAT, {"messages": USER, "reasoning_effort": "none"})
    assert [request.reasoning.n_max for request in engine.requests] == [9, 0]


def test_templates_of_loaded_models_are_tried_out_before_a_chat_waits_for_it(monkeypatch):
    rendered: list[object] = []
    engine = hermes("Hello")
    render = engine.render

    async def noted(prompt) -> str:
        rendered.append(prompt)
        return await render(prompt)

    monkeypatch.setattr(engine, "render", noted)
    pool = pool_of(engine, Limits(), Drain(), Meters())
    service = ChatService(pool)

    async def main() -> list[int]:
        await service.learn()
        counts = [len(rendered)]
        for _ in range(2):
            async for _ in service.chat(pool.engines[engine.info.id], ChatCall(messages=USER)):
                pass
            counts.append(len(rendered))
        return counts

    learned, first, second = asyncio.run(main())
    assert learned > 2
    assert first - learned == second - first <= 2


def test_the_service_gives_other_dialects_the_same_prompt():
    service = ChatService(ModelPool([], Limits(), Drain(), Meters()))
    call = ChatCall(messages=USER, tools=[WEATHER])
    prompt = asyncio.run(service.prompt(hermes(), call))
    # The fake's template shows no tools, so they are said in words.
    assert prompt.tools is None
    assert "weather" in str(prompt.messages)
    assert "Rain?" in prompt.messages[-1]["content"]


def test_openais_clients_get_calls_whole_and_streamed():
    with serving(hermes("<think>Hm", "m</think>", CALL[:20], CALL[20:])) as client:
        status, body = client.post(CHAT, ASKED)
        assert status == 200, body
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["reasoning_content"] == "Hmm"
        (call,) = choice["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "पुणे"}
        events = client.events(CHAT, ASKED)
    deltas = [event["choices"][0]["delta"] for event in events[:-1] if event["choices"]]
    parts = [part for delta in deltas for part in delta.get("tool_calls") or []]
    assert parts[0]["function"]["name"] == "weather"
    joined = "".join(part["function"].get("arguments") or "" for part in parts)
    assert json.loads(joined) == {"city": "पुणे"}


def test_a_model_that_does_not_reason_keeps_within_any_budget():
    info = ModelInfo(id="fake", n_ctx=4096, chat_template="{{ messages }}")
    assert opened(FakeEngine(info=info), reasoning_budget=100).prompt.arguments == {}
