import asyncio

from hypothesis import given
from hypothesis import strategies as st

from llmedge.engine.generation import Progress
from llmedge.serve.answer import (
    CallArguments,
    CallEnded,
    CallStarted,
    ChatCall,
    Content,
    Measured,
    Reasoning,
)
from llmedge.serve.prompt_tokens import count_tokens
from llmedge.serve.response_writer import ResponseWriter
from llmedge.serve.responses import response_object
from llmedge.serve.responses_schema import ResponsesRequest
from tests.serve.dialects import FakeResponder, ended

CALL = [CallStarted(0, "a", "f"), CallArguments(0, "{"), CallArguments(0, "}"), CallEnded(0)]
PIECES = st.sampled_from([[Content("a")], [Content("अ")], [Reasoning("b")], CALL, CALL[:2]])


@given(st.lists(PIECES, max_size=8), st.sampled_from(["stop", "length", "tool_calls"]))
def test_whatever_is_generated_each_item_begins_once_and_ends_once(pieces, reason):
    writer = ResponseWriter(
        response_object(ResponsesRequest(input="x"), ChatCall(messages=[]), "m")
    )
    events = writer.begin()
    for part in [part for piece in pieces for part in piece]:
        events += writer.feed(part)
    events += writer.feed(ended(reason))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [e for e in events if e["type"] == "response.output_item.added"]
    done = [e for e in events if e["type"] == "response.output_item.done"]
    assert [e["output_index"] for e in added] == [e["output_index"] for e in done]
    assert [e["item"] for e in done] == events[-1]["response"]["output"]
    assert len({e["item"]["id"] for e in done}) == len(done) >= 1
    for index, item in enumerate(events[-1]["response"]["output"]):
        deltas = "".join(e["delta"] for e in events if "delta" in e and e["output_index"] == index)
        is_call = item["type"] == "function_call"
        assert deltas == (item["arguments"] if is_call else item["content"][0]["text"])


def test_a_prompt_that_has_its_bos_gets_no_other():
    call = ChatCall(messages=[{"role": "user", "content": "x"}])
    without = FakeResponder()
    with_bos = FakeResponder(bos="user")
    assert asyncio.run(count_tokens(without, without.engine, call)) == 9
    assert asyncio.run(count_tokens(with_bos, with_bos.engine, call)) == 8


def test_progress_and_times_stand_in_events_that_openais_clients_know():
    writer = ResponseWriter(
        response_object(ResponsesRequest(input="x"), ChatCall(messages=[]), "m")
    )
    (progress,) = writer.feed(Progress(10, 4, 6, 0.5))
    assert (progress["type"], progress["prompt_progress"]["cache"]) == ("response.in_progress", 4)
    assert writer.feed(Measured(ended().report)) == []
    *_, timed = writer.feed(Content("a"))
    (plain,) = writer.feed(Content("b"))
    assert timed["timings"]["predicted_n"] == 5
    assert "timings" not in plain
    assert writer.feed(ended())[-1]["timings"]["predicted_n"] == 5
