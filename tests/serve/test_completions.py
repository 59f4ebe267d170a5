"""What chat and text completions can say, over a fake engine and real HTTP."""

import json

import openai
import pytest

from llmedge.core.errors import EngineError
from llmedge.engine.engine import ModelInfo
from tests.fakes import FakeEngine
from tests.serve.endpoint import CHAT, HELLO, TEXT, serving


def by_choice(chunks, field):
    """Join what the chunks of each choice add."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (field(choice) or "")
    return texts


def speaks_its_seed(request):
    return ["seed ", str(request.sampling.seed)]


def test_several_answers_come_with_seeds_that_count_up():
    with serving(FakeEngine(speaks_its_seed)) as client:
        status, body = client.post(CHAT, {**HELLO, "n": 3, "seed": 0})
        assert status == 200
        answers = {c["index"]: c["message"]["content"] for c in body["choices"]}
        assert answers == {0: "seed 0", 1: "seed 1", 2: "seed 2"}
        # The prompt was the same: it counts once.
        assert body["usage"]["prompt_tokens"] == len("<user>Hello")
        assert body["usage"]["completion_tokens"] == 3 * len("seed 0")
        assert "timings" not in body


def test_several_answers_are_streamed_side_by_side():
    with serving(FakeEngine(speaks_its_seed)) as client:
        wish = {**HELLO, "n": 2, "seed": 7, "stream_options": {"include_usage": True}}
        *chunks, usage, done = client.events(CHAT, wish)
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 12
    texts = by_choice(chunks, lambda choice: choice["delta"].get("content"))
    assert texts == {0: "seed 7", 1: "seed 8"}
    roles = by_choice(chunks, lambda choice: choice["delta"].get("role"))
    assert roles == {0: "assistant", 1: "assistant"}
    reasons = by_choice(chunks, lambda choice: choice["finish_reason"])
    assert reasons == {0: "stop", 1: "stop"}


def test_one_answer_that_fails_ends_all_and_cancels_the_others():
    engine = FakeEngine(forever=True)
    n_asked = 0

    def words(request):
        nonlocal n_asked
        n_asked += 1
        if n_asked == 2:
            raise EngineError("it broke")
        return ["Hello"]

    engine.words = words
    with serving(engine) as client:
        for stream, expected in ((False, 503), (True, 200)):
            n_asked = 0
            status, text, _ = client.request("POST", CHAT, {**HELLO, "n": 2, "stream": stream})
            assert status == expected
            assert "it broke" in text
            assert "[DONE]" not in text
            assert engine.n_running == 0
    assert engine.n_cancelled == 2


def test_a_stop_text_and_a_limit_end_the_answer():
    with serving(FakeEngine(["one two", " three"])) as client:
        _, body = client.post(CHAT, {**HELLO, "stop": " two"})
        assert body["choices"][0]["message"]["content"] == "one"
        assert body["choices"][0]["finish_reason"] == "stop"
        _, body = client.post(CHAT, {**HELLO, "max_completion_tokens": 5})
        assert body["choices"][0]["message"]["content"] == "one t"
        assert body["choices"][0]["finish_reason"] == "length"


def test_chat_log_probabilities_have_openais_shape():
    wish = {**HELLO, "logprobs": True, "top_logprobs": 2}
    with serving(FakeEngine(["é", "a"])) as client:
        _, body = client.post(CHAT, wish)
        chunks = client.events(CHAT, wish)[:-1]
    whole = body["choices"][0]["logprobs"]
    assert whole["refusal"] is None
    first = whole["content"][0]
    assert {key: first[key] for key in ("token", "bytes", "logprob")} == {
        "token": "é",
        "bytes": [0xC3, 0xA9],
        "logprob": -0.5,
    }
    assert [top["logprob"] for top in first["top_logprobs"]] == [-0.5, -1.5]
    streamed = [c["choices"][0]["logprobs"] for c in chunks]
    assert [step for part in streamed if part for step in part["content"]] == whole["content"]


def test_text_log_probabilities_have_the_older_shape():
    with serving(FakeEngine(["né", "a"])) as client:
        _, body = client.post(TEXT, {"prompt": "x", "logprobs": 2})
        _, plain = client.post(TEXT, {"prompt": "x"})
        chunks = client.events(TEXT, {"prompt": "x", "logprobs": 2})[:-1]
    assert plain["choices"][0]["logprobs"] is None
    whole = body["choices"][0]["logprobs"]
    assert whole["tokens"] == ["n", "é", "a"]
    assert whole["token_logprobs"] == [-0.5] * 3
    assert whole["text_offset"] == [0, 1, 2]
    assert whole["top_logprobs"][2] == {"a": -0.5, "b": -1.5}
    offsets = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [n for part in offsets for n in part["text_offset"]] == [0, 1, 2]


def test_several_prompts_are_answered_in_their_order():
    def echo(request):
        tokens = getattr(request.prompt, "tokens", None)
        return [str(tokens) if tokens else request.prompt.text]

    with serving(FakeEngine(echo)) as client:
        _, body = client.post(TEXT, {"prompt": ["one", "two"], "n": 2})
        texts = [choice["text"] for choice in body["choices"]]
        assert texts == ["one", "one", "two", "two"]
        assert body["usage"]["prompt_tokens"] == 6
        _, body = client.post(TEXT, {"prompt": [5, 6]})
        assert body["choices"][0]["text"] == "[5, 6]"


def test_a_prompt_longer_than_the_context_is_refused_with_the_counts():
    engine = FakeEngine(info=ModelInfo("small", n_ctx=8, n_vocab=200))
    with serving(engine) as client:
        for stream in (False, True):
            status, body = client.post(CHAT, {**HELLO, "stream": stream})
            assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
            assert "11 tokens, the context holds 8" in body["error"]["message"]
        status, body = client.post(TEXT, {"prompt": [1, 200]})
        assert status == 400
        assert "names token 200" in body["error"]["message"]


def test_silence_in_a_stream_is_filled_with_comments():
    with serving(FakeEngine(["late"], pause_s=0.5), keep_alive_s=0.1) as client:
        _, text, _ = client.request("POST", CHAT, {**HELLO, "stream": True})
        assert text.count(": keep-alive\n\n") >= 2
        events = client.events(CHAT, HELLO)
        assert events[1]["choices"][0]["delta"]["content"] == "late"


def test_a_bug_in_a_stream_is_told_without_its_details(caplog: pytest.LogCaptureFixture):
    engine = FakeEngine(error=KeyError("/secret/path"), error_after=1)
    with serving(engine) as client:
        events = client.events(CHAT, HELLO)
    assert events[-1]["error"]["message"] == "an internal error"
    assert "secret" not in json.dumps(events)
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/models"])
def test_paths_work_without_their_prefix(path: str):
    with serving(FakeEngine()) as client:
        if path == "/models":
            assert client.get(path) == client.get("/v1/models")
        else:
            assert client.post(path, {**HELLO, "prompt": "x"})[0] == 200


def test_the_openai_package_reads_everything():
    with (
        serving(FakeEngine(['{"a": ', "1}"])) as client,
        openai.OpenAI(base_url=f"http://{client.host}/v1", api_key="none", max_retries=0) as sdk,
    ):
        messages = [{"role": "user", "content": "Hello"}]
        done = sdk.chat.completions.create(
            model="fake:Q4_0", messages=messages, n=2, logprobs=True, top_logprobs=1
        )
        assert done.choices[1].logprobs.content[0].top_logprobs[0].token == "{"
        with sdk.chat.completions.stream(model="fake:Q4_0", messages=messages) as stream:
            kinds = [event.type for event in stream]
            assert stream.get_final_completion().choices[0].message.content == '{"a": 1}'
        assert kinds[-1] == "content.done"
        assert sdk.completions.create(model="fake:Q4_0", prompt=["a", "b"]).choices[1].text
