import json
import math

import msgspec

from llmedge.engine.generation import GenerationReport, Progress, Started, TokenChance, TokenChances
from llmedge.serve.answer import Answer, Content, Ended, Measured, Reasoning
from llmedge.serve.text_answer import TextAnswer

REPORT = GenerationReport(10, 4, 5, 0.0, 0.5, 2.0, "stop")


def wire(value: object) -> dict:
    return json.loads(msgspec.json.encode(value))


def chances(*pieces: bytes, logprob: float = -0.5) -> list[TokenChances]:
    tokens = [TokenChance(number, piece, logprob) for number, piece in enumerate(pieces)]
    return [TokenChances(token, [token]) for token in tokens]


def answer(text: str, *pieces: bytes) -> Answer:
    return Answer(REPORT, "stop", text, "", [], chances(*pieces))


def new(n: int = 1, *, n_per_prompt: int = 1) -> TextAnswer:
    return TextAnswer("m:Q4_0", "llmedge-1", n, n_per_prompt=n_per_prompt)


def test_a_whole_answer_has_a_text_for_each_choice_and_counts_each_prompt_once():
    whole = wire(new(4, n_per_prompt=2).whole([answer(text) for text in "abcd"]))
    assert [(c["index"], c["text"], c["finish_reason"]) for c in whole["choices"]] == [
        (index, text, "stop") for index, text in enumerate("abcd")
    ]
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (20, 20)
    assert "timings" not in whole
    assert "timings" in wire(new().whole([answer("a")]))


def test_a_stream_begins_with_text_and_ends_with_the_reason():
    one = new()
    assert one.first() == []
    text, end = wire(one.chunk(0, Content("a"))), wire(one.chunk(0, Ended(REPORT, "length")))
    assert text["choices"][0] == {"index": 0, "text": "a", "finish_reason": None, "logprobs": None}
    assert (end["choices"][0]["text"], end["choices"][0]["finish_reason"]) == ("", "length")
    assert end["timings"]["prompt_n"] == 6
    usage = wire(one.usage())
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 15)
    assert {text["id"], end["id"]} == {usage["id"]}


def test_what_is_no_text_makes_no_chunk():
    assert new().chunk(0, Started(10)) is None
    assert new().chunk(0, Reasoning("Hm.")) is None


def test_tokens_are_told_as_parallel_lists():
    whole = wire(new().whole([answer("ab", b"a", b"b")]))
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"a": -0.5}, {"b": -0.5}],
        "text_offset": [0, 1],
    }


def test_offsets_count_characters_also_where_tokens_are_parts_of_them():
    letter = "क".encode()
    pieces = [b"a", letter[:1], letter[1:], "ख".encode(), b"b"]
    whole = wire(new().whole([answer("aकखb", *pieces)]))
    found = whole["choices"][0]["logprobs"]
    assert found["text_offset"] == [0, 1, 1, 2, 3]
    assert found["tokens"] == ["a", "bytes:\\xe0", "bytes:\\xa4\\x95", "ख", "b"]


def test_offsets_go_on_over_the_chunks_of_each_choice():
    two = new(2)
    parts = ((0, "ab"), (1, "xyz"), (0, "c"), (1, "w"))
    offsets = [
        wire(two.chunk(index, Content(text, tuple(chances(text.encode())))))["choices"][0]
        for index, text in parts
    ]
    assert [choice["logprobs"]["text_offset"] for choice in offsets] == [[0], [0], [2], [3]]


def test_log_probabilities_are_numbers_that_json_has():
    part = Content("a", tuple(chances(b"a", logprob=-math.inf)))
    found = wire(new().chunk(0, part))["choices"][0]["logprobs"]
    assert (found["token_logprobs"], found["top_logprobs"]) == ([-9999.0], [{"a": -9999.0}])


def test_progress_and_times_are_told_as_in_a_chat():
    answer = TextAnswer("m", "llmedge-1", 1, n_per_prompt=1)
    chunk = answer.chunk(0, Progress(10, 4, 6, 0.5))
    assert msgspec.to_builtins(chunk)["prompt_progress"]["processed"] == 6
    report = GenerationReport(10, 4, 5, 0.0, 0.5, 2.0, "stop")
    assert answer.chunk(0, Measured(report)) is None
    assert msgspec.to_builtins(answer.chunk(0, Content("a")))["timings"]["predicted_n"] == 5
    assert "timings" not in msgspec.to_builtins(answer.chunk(0, Content("b")))
