"""The endpoint over the real model, through the openai package."""

import asyncio
import contextlib
import json
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from llmedge.core.errors import EngineError, UnsupportedError, UsageError
from llmedge.core.settings import load_settings
from llmedge.engine.generation import (
    ChatPrompt,
    Delta,
    Finished,
    Generation,
    Started,
    TextPrompt,
    TokenPrompt,
)
from llmedge.engine.process import EngineProcess
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve.server import ServeOptions, background_server, model_source, open_engine

GREEDY = SamplingOptions(temperature=0)
CAPITAL = ChatPrompt([{"role": "user", "content": "What is the capital of India?"}])
OPTIONS = ServeOptions(port=0, context=ContextOptions(n_ctx=4096, n_seq_max=4))


@pytest.fixture(scope="module")
def engine(smollm2: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = load_settings({"LLMEDGE_HOME": str(tmp_path_factory.mktemp("home"))})
    engine = open_engine(smollm2, OPTIONS, settings)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def client(engine: EngineProcess):
    with (
        background_server(engine, OPTIONS) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def collect(engine: EngineProcess, request: Generation) -> list[object]:
    async def run() -> list[object]:
        return [event async for event in engine.generate(request)]

    return asyncio.run(run())


def text_of(events: list[object]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def ask(client: openai.OpenAI, question: str, **options):
    options.setdefault("max_tokens", 24)
    return client.chat.completions.create(
        model="SmolLM2-135M-Instruct.Q4_1",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        **options,
    )


def test_a_generation_is_started_told_and_finished(engine: EngineProcess):
    events = collect(engine, Generation(CAPITAL, max_tokens=24, sampling=GREEDY))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    text = text_of(events)
    assert "New Delhi" in text
    assert events[-1].report.n_prompt == events[0].n_prompt


def test_tokens_are_continued_and_can_be_shown(engine: EngineProcess):
    text = "The capital of India is New"

    async def run() -> list[object]:
        tokens = await engine.tokenize(text, add_special=True, parse_special=True)
        assert b"".join(await engine.pieces(tokens)).endswith(text.encode())
        request = Generation(TokenPrompt(tokens), max_tokens=2, sampling=GREEDY)
        return [event async for event in engine.generate(request)]

    events = asyncio.run(run())
    assert text_of(events).startswith(" Delhi")
    with pytest.raises(UsageError, match="token 999999 is not one"):
        collect(engine, Generation(TokenPrompt([999_999])))


def test_the_model_is_described_and_its_work_counted(engine: EngineProcess):
    info = engine.info
    assert (info.architecture, info.n_ctx, info.n_vocab) == ("llama", 4096, 49152)
    assert "<|im_start|>" in info.chat_template
    assert "<|im_start|>user" in asyncio.run(engine.render(CAPITAL))
    before = asyncio.run(engine.stats()).n_generated_tokens
    collect(engine, Generation(CAPITAL, max_tokens=3, sampling=GREEDY))
    assert asyncio.run(engine.stats()).n_generated_tokens == before + 3


def test_what_this_engine_cannot_do_is_refused_and_not_ignored(engine: EngineProcess):
    with pytest.raises(UnsupportedError, match="adapter"):
        collect(engine, Generation(CAPITAL, adapters=(("x", 1.0),)))
    with pytest.raises(UnsupportedError):
        asyncio.run(engine.embed(["x"]))


def test_a_text_is_continued_as_it_is(engine: EngineProcess):
    events = collect(
        engine,
        Generation(TextPrompt("The capital of India is New"), max_tokens=24, sampling=GREEDY),
    )
    assert text_of(events).startswith(" Delhi")


def test_an_iterator_that_is_closed_frees_the_engine_at_once(engine: EngineProcess):
    long = Generation(TextPrompt("Once"), ignore_end=True)

    async def leave() -> None:
        stream = engine.generate(long)
        async for event in stream:
            if isinstance(event, Delta):
                break
        await stream.aclose()

    asyncio.run(leave())
    start = time.monotonic()
    collect(engine, Generation(CAPITAL, max_tokens=24, sampling=GREEDY))
    assert time.monotonic() - start < 10


def test_a_long_prompt_is_left_at_once(engine: EngineProcess):
    long = Generation(TextPrompt("word " * 3900), max_tokens=24, sampling=GREEDY)

    async def leave() -> None:
        stream = engine.generate(long)
        assert isinstance(await anext(stream), Started)
        await asyncio.sleep(0.2)
        await stream.aclose()

    asyncio.run(leave())
    start = time.monotonic()
    events = collect(engine, Generation(CAPITAL, max_tokens=24, sampling=GREEDY))
    assert time.monotonic() - start < 5
    assert "New Delhi" in text_of(events)


def test_who_leaves_the_queue_is_never_run(engine: EngineProcess):
    async def run() -> list[object]:
        first = engine.generate(Generation(TextPrompt("Once"), max_tokens=24, sampling=GREEDY))
        await anext(first)
        waiting = asyncio.create_task(
            anext(engine.generate(Generation(CAPITAL, max_tokens=24, sampling=GREEDY)))
        )
        await asyncio.sleep(0.05)
        waiting.cancel()
        return [event async for event in first]

    assert isinstance(asyncio.run(run())[-1], Finished)


def test_requests_share_the_engine_and_do_not_mix(client: openai.OpenAI):
    questions = ["What is the capital of India?", "Say hello to my dog."] * 3
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda q: ask(client, q).choices[0].message.content, questions))
    for question, answer in zip(questions, answers, strict=True):
        assert ("Delhi" in (answer or "")) == ("India" in question)


def test_the_openai_package_reads_answers_and_streams(client: openai.OpenAI):
    whole = ask(client, "What is the capital of India?")
    stream = ask(client, "What is the capital of India?", stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    assert client.models.list().data[0].id == "SmolLM2-135M-Instruct.Q4_1"
    assert client.completions.create(model="", prompt="Once upon a", max_tokens=3).choices[0].text


@pytest.mark.parametrize(
    "question", ["भारत की राजधानी क्या है?", "இந்தியாவின் தலைநகரம் எது?", "🇮🇳👩🏽‍🌾?"]
)
def test_hindi_tamil_and_emoji_stream_as_whole_characters(client: openai.OpenAI, question: str):
    stream = ask(client, question, max_tokens=32, stream=True, logprobs=True)
    chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    parts = [chunk.delta.content or "" for chunk in chunks]
    tokens = [token for c in chunks if c.logprobs for token in c.logprobs.content or []]
    raw = [bytes(token.bytes or []) for token in tokens]
    assert "".join(parts) == b"".join(raw).decode("utf-8", "replace")
    assert not any(unicodedata.combining(part[0]) for part in parts if part)


def test_a_prompt_longer_than_the_context_is_a_400_with_the_counts(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "word " * 5000)
    assert caught.value.code == "context_length_exceeded"
    assert "the context holds 4096" in str(caught.value)


def test_another_model_is_not_found(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])


def test_who_waits_when_the_engine_closes_gets_an_error(tiny_model: Path, settings):
    engine = open_engine(tiny_model, ServeOptions(context=ContextOptions(n_ctx=512)), settings)
    endless = Generation(TextPrompt("x"), ignore_end=True, max_tokens=100_000)

    async def run() -> list[object]:
        tasks = [asyncio.create_task(drain(engine, endless)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(engine.close)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    results = asyncio.run(run())
    assert len(results) == 3
    assert any(isinstance(result, EngineError) for result in results)
    assert all(isinstance(result, EngineError | Finished) for result in results)


async def drain(engine: EngineProcess, request: Generation) -> object:
    last: object = None
    async for event in engine.generate(request):
        last = event
    return last


def test_a_closed_engine_answers_nobody_and_closes_twice(tiny_model: Path, settings):
    engine = open_engine(tiny_model, ServeOptions(context=ContextOptions(n_ctx=256)), settings)
    assert engine.state == "ready"
    engine.close()
    engine.close()
    assert engine.state == "closed"
    with pytest.raises(EngineError, match="closed"):
        collect(engine, Generation(TextPrompt("x"), max_tokens=24, sampling=GREEDY))


def test_closing_ends_a_running_generation(tiny_model: Path, settings):
    engine = open_engine(tiny_model, ServeOptions(context=ContextOptions(n_ctx=512)), settings)
    endless = Generation(TextPrompt("x"), ignore_end=True)
    started = threading.Event()

    async def run() -> None:
        with contextlib.suppress(EngineError):
            async for _ in engine.generate(endless):
                started.set()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(20)
    engine.close()
    thread.join(10)
    assert not thread.is_alive()


def test_several_files_are_loaded_when_they_are_asked_for(
    smollm2: Path, tiny_model: Path, settings
):
    options = ServeOptions(port=0, context=ContextOptions(n_ctx=512))
    sources = [model_source(path, options, settings) for path in (smollm2, tiny_model)]
    assert sources[0].needs_bytes > smollm2.stat().st_size
    with (
        background_server(sources, options) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [card.id for card in client.models.list()] == [smollm2.stem, tiny_model.stem]
        for path in (smollm2, tiny_model):
            done = client.completions.create(model=path.stem, prompt="Once", max_tokens=2)
            assert done.model == path.stem
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model=str(smollm2), prompt="Once")


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def test_a_call_that_must_be_made_is_made_by_a_model_that_never_learnt_to(client: openai.OpenAI):
    answer = ask(
        client,
        "What is the weather in Pune?",
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=80,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    (call, *_) = choice.message.tool_calls or []
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in ("celsius", "fahrenheit")


def test_an_answer_is_held_to_a_schema_and_a_bad_one_is_refused(client: openai.OpenAI):
    def form(schema: object):
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    answer = ask(client, "What is the capital of India?", response_format=form(schema))
    assert set(json.loads(answer.choices[0].message.content or "")) == {"capital"}
    for bad in ({"$ref": "#/nowhere"}, {"type": "string", "pattern": "^[z-a]$"}):
        with pytest.raises(openai.BadRequestError):
            ask(client, "x", response_format=form(bad))
    assert "Delhi" in (
        ask(client, "What is the capital of India?").choices[0].message.content or ""
    )
