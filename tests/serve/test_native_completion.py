"""llama-server's `/completion` over a fake engine: real HTTP."""

from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from llmedge.core.errors import ContextLengthError, EngineError
from llmedge.engine.generation import (
    Delta,
    Event,
    Finished,
    Generation,
    Progress,
    Started,
    TextPrompt,
    TokenChance,
    TokenChances,
    TokenPrompt,
)
from llmedge.serve.native_completion import routes
from tests.serve.dialects import MODEL, REPORT, Client, FakeResponder, serving

PATH = "/completion"
CHANCES = TokenChances(TokenChance(72, b"He", -0.5), [TokenChance(73, b"\xc3", -0.25)])
EVENTS = [
    Started(7),
    Progress(7, 3, 7, 0.5),
    Delta("He", [CHANCES], [72], REPORT),
    Delta("y\n", [], [121, 10]),
    Finished(msgspec.structs.replace(REPORT, finish_reason="length")),
]


def stream(client: Client, body: dict[str, object]) -> list[dict[str, object]]:
    status, text = client.request("POST", PATH, {**body, "stream": True})
    assert status == 200, text
    assert client.headers["content-type"].startswith("text/event-stream")
    return [msgspec.json.decode(line[6:]) for line in text.split("\n\n") if line]


def saying(events: Sequence[Event | Exception]):
    responder = FakeResponder()

    async def generate(request: Generation) -> AsyncIterator[Event]:
        responder.engine.requests.append(request)
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield event

    responder.engine.generate = generate
    return serving(routes(responder))


def test_an_answer_has_llama_servers_fields(client):
    status, body = client.post(PATH, {"prompt": "Once", "n_predict": 5, "seed": 7, "top_k": 3})
    assert status == 200
    assert (body["content"], body["tokens"], body["stop"]) == ("Hello", [], True)
    assert (body["index"], body["id_slot"], body["model"]) == (0, -1, MODEL)
    assert (body["prompt"], body["truncated"], body["has_new_line"]) == ("Once", False, False)
    assert (body["stop_type"], body["stopping_word"]) == ("eos", "")
    assert (body["tokens_evaluated"], body["tokens_predicted"]) == (7, 5)
    assert body["tokens_cached"] == 12
    assert body["timings"]["cache_n"] == 3
    settings = body["generation_settings"]
    assert (settings["n_predict"], settings["seed"], settings["top_k"]) == (5, 7, 3)
    assert settings["repeat_last_n"] == 64
    (asked,) = client.responder.engine.requests
    assert (asked.prompt, asked.max_tokens) == (TextPrompt("Once"), 5)


def test_what_is_not_named_is_left_to_the_server(client):
    _, body = client.post(PATH, {"prompt": "Once", "n_predict": -1})
    assert body["generation_settings"]["n_predict"] == -1
    assert body["generation_settings"]["seed"] == 0xFFFFFFFF
    (asked,) = client.responder.engine.requests
    assert (asked.max_tokens, asked.sampling.seed, asked.caches) == (None, None, True)
    client.post(PATH, {"prompt": "Once", "cache_prompt": False})
    assert not client.responder.engine.requests[-1].caches


def test_a_field_without_effect_is_said_to_be_ignored(client):
    client.post(PATH, {"prompt": "Once", "id_slot": 0, "mirostat": 2})
    assert client.headers["x-llmedge-ignored"] == "id_slot, mirostat"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [TextPrompt("ab")]),
        ({"prompt_string": "ab"}, [TextPrompt("ab")]),
        ([97, 98], [TokenPrompt([97, 98])]),
        (["ab"], [TextPrompt("ab")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([[97], "b"], [TokenPrompt([97]), TextPrompt("b")]),
        ([[97], {"prompt_string": "b"}], [TokenPrompt([97]), TextPrompt("b")]),
        ([97, "b", 99], [TokenPrompt([97, 98, 99])]),
        (["a", 98], [TokenPrompt([1, 97, 98])]),
    ],
)
def test_a_prompt_is_text_tokens_or_both(client, prompt: object, expected: list[object]):
    status, body = client.post(PATH, {"prompt": prompt})
    assert status == 200
    assert [asked.prompt for asked in client.responder.engine.requests] == expected
    assert isinstance(body, list) == (len(expected) > 1)


def test_tokens_are_listed_where_they_are_wanted():
    with saying(EVENTS) as client:
        _, body = client.post(PATH, {"prompt": "x", "return_tokens": True})
        assert (body["tokens"], body["content"]) == ([72, 121, 10], "Hey\n")
        assert (body["has_new_line"], body["stop_type"]) == (True, "limit")
        _, body = client.post(PATH, {"prompt": "x"})
        assert body["tokens"] == []


def test_a_stream_is_parts_and_an_end_that_has_no_text():
    body = {"prompt": "x", "return_progress": True, "timings_per_token": True, "n_probs": 1}
    with saying(EVENTS) as client:
        progress, first, second, last = stream(client, body)
    assert progress["prompt_progress"] == {
        "total": 7,
        "cache": 3,
        "processed": 7,
        "time_ms": 500.0,
    }
    assert (first["content"], first["tokens"], first["stop"]) == ("He", [72], False)
    assert first["timings"]["predicted_n"] == 5
    assert (second["content"], second["tokens_predicted"]) == ("y\n", 3)
    assert "completion_probabilities" not in second
    assert (last["content"], last["tokens"], last["stop"]) == ("", [], True)
    assert last["generation_settings"]["stream"] is True
    assert last["has_new_line"] is True


def test_each_token_has_its_probability_before_or_after_the_samplers():
    with saying(EVENTS) as client:
        _, body = client.post(PATH, {"prompt": "x", "n_probs": 1})
        (step,) = body["completion_probabilities"]
        assert (step["id"], step["token"], step["bytes"]) == (72, "He", [72, 101])
        assert step["logprob"] == -0.5
        assert step["top_logprobs"] == [{"id": 73, "token": "�", "bytes": [0xC3], "logprob": -0.25}]
        _, body = client.post(PATH, {"prompt": "x", "n_probs": 1, "post_sampling_probs": True})
        (step,) = body["completion_probabilities"]
        assert step["prob"] == pytest.approx(0.6065, abs=1e-4)
        assert [entry["id"] for entry in step["top_probs"]] == [73]


def test_only_the_fields_that_are_wanted_are_answered(client):
    wanted = ["content", "generation_settings/n_predict", "no/such", "nothing"]
    body = {"prompt": "x", "n_predict": 3, "response_fields": wanted}
    assert client.post(PATH, body) == (
        200,
        {"content": "Hello", "generation_settings/n_predict": 3},
    )


@pytest.mark.parametrize(
    "bias", [[["ab", -5]], {"ab": -5}, [[97, -5], [98, -5]], {"97": -5, "98": -5}]
)
def test_texts_are_biased_by_their_tokens(client, bias: object):
    client.post(PATH, {"prompt": "x", "logit_bias": bias})
    (asked,) = client.responder.engine.requests
    assert asked.sampling.logit_bias == ((97, -5.0), (98, -5.0))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"prompt": []}, "0 texts"),
        ({"prompt": [[97], 98]}, "mixes"),
        ({"prompt": ["x"] * 65}, "65 texts"),
        ({"prompt": [300]}, "token 300"),
        ({"prompt": {"prompt_string": "x", "multimodal_data": "AA=="}}, "multimodal_data"),
        ({"prompt": "x", "n_predict": 0}, "n_predict is 0"),
        ({"prompt": "x", "n_probs": 21}, "n_probs is 21"),
        ({"prompt": "x", "logit_bias": [["a" * 4000, 1]]}, "logit_bias"),
        ({"prompt": "x", "stop_token_ids": [256]}, "token 256"),
        ({}, "prompt"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_why(client, fields: dict[str, object], word: str):
    status, body = client.post(PATH, fields)
    assert status == 400
    assert word in body["error"]["message"]
    assert client.responder.engine.requests == []


def test_a_request_that_cannot_be_answered_has_its_status_though_it_asks_for_a_stream():
    with saying([ContextLengthError("too long", n_prompt=9, n_ctx=4)]) as client:
        status, body = client.post(PATH, {"prompt": "x", "stream": True})
    assert (status, body["error"]["n_prompt_tokens"], body["error"]["n_ctx"]) == (400, 9, 4)


def test_an_error_in_a_stream_is_its_last_event():
    with saying([Started(1), Delta("a"), EngineError("gone")]) as client:
        part, error = stream(client, {"prompt": "x"})
    assert part["content"] == "a"
    assert error["error"]["message"] == "gone"
