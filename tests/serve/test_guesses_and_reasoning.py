"""A draft model and a budget of reasoning through the endpoint, with a real engine behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.core.settings import load_settings
from llmedge.runtime.context import ContextOptions
from llmedge.serve.served import Defaults
from llmedge.serve.server import ServeOptions, background_server, model_source, open_engine
from tests.gguf_files import replace_value, write_tiny_model
from tests.serve.endpoint import CHAT, Client

THINKING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}{# until </think> #}"
)
ASKED = {
    "messages": [{"role": "user", "content": "Why?"}],
    "temperature": 0,
    "max_tokens": 60,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(
        tmp_path_factory.mktemp("thinker") / "thinker.gguf",
        change=lambda writer: replace_value(writer, "tokenizer.chat_template", THINKING),
    )


@pytest.fixture(scope="module")
def client(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = load_settings({"LLMEDGE_HOME": str(tmp_path_factory.mktemp("home"))})
    options = ServeOptions(
        port=0,
        context=ContextOptions(n_ctx=512, n_seq_max=2),
        n_draft=3,
        draft_path=thinker,
        defaults=Defaults(reasoning_budget=20),
    )
    with (
        open_engine(thinker, options, settings) as engine,
        background_server(engine, options) as url,
    ):
        yield Client(url)


def answer(client: Client, **fields: object) -> tuple[str, str]:
    status, body = client.post(CHAT, {**ASKED, **fields})
    assert status == 200, body
    message = body["choices"][0]["message"]
    return message.get("reasoning_content", ""), message["content"]


def test_reasoning_ends_at_its_budget_and_the_answer_follows(client: Client):
    endless, nothing = answer(client, reasoning_budget=-1)
    assert endless
    assert not nothing
    for fields, n in (({}, 20), ({"reasoning_budget": 8}, 8)):
        reasoning, content = answer(client, **fields)
        assert 0 < len(reasoning) <= n + 3  # a byte a token, and what belongs to a character
        assert endless.startswith(reasoning.rstrip())
        assert content
    for fields in ({"reasoning_budget": 0}, {"reasoning_effort": "none"}):
        reasoning, content = answer(client, **fields)
        assert not reasoning
        assert content


def test_a_stream_says_the_same(client: Client):
    events = client.events(CHAT, {**ASKED, "reasoning_budget": 8})
    deltas = [event["choices"][0]["delta"] for event in events[:-1] if event["choices"]]
    streamed = tuple(
        "".join(delta.get(name) or "" for delta in deltas)
        for name in ("reasoning_content", "content")
    )
    assert streamed == answer(client, reasoning_budget=8)


def test_anthropics_budget_is_kept_to(client: Client):
    asked = {"messages": ASKED["messages"], "max_tokens": 60, "temperature": 0}
    for thinking, kinds in (
        ({"type": "enabled", "budget_tokens": 8}, ["thinking", "text"]),
        ({"type": "disabled"}, ["text"]),
    ):
        status, body = client.post("/v1/messages", {**asked, "thinking": thinking})
        assert status == 200, body
        assert [block["type"] for block in body["content"]] == kinds


def test_an_effort_that_a_template_does_not_know_is_named_in_the_header(client: Client):
    for fields, header in (
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"reasoning_effort": "none"}, None),
    ):
        status, _, headers = client.request("POST", CHAT, {**ASKED, "max_tokens": 4, **fields})
        assert (status, headers["x-llmedge-ignored"]) == (200, header)
    for path, body, header in (
        (
            "/v1/responses",
            {"input": "a", "max_output_tokens": 4, "reasoning": {"effort": "low"}},
            "reasoning.effort",
        ),
        (
            "/v1/messages",
            {"messages": ASKED["messages"], "max_tokens": 4, "output_config": {"effort": "low"}},
            "output_config.effort",
        ),
    ):
        status, text, headers = client.request("POST", path, body)
        assert status == 200, text
        assert headers["x-llmedge-ignored"] == header


def test_guesses_are_told_of_in_timings_and_metrics(client: Client):
    _, body = client.post(CHAT, {**ASKED, "messages": [{"role": "user", "content": "Who?"}]})
    timings = body["timings"]
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 10  # its own model guesses
    _, text, _ = client.request("GET", "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    of_model = {name.partition("{")[0]: float(value) for name, value in values.items()}
    assert of_model["llmedge_drafted_tokens_total"] >= of_model["llmedge_accepted_tokens_total"] > 0
    assert of_model["llmedge_engine_draft_seconds_total"] > 0


def test_a_draft_model_that_does_not_fit_is_an_error_at_the_start(
    thinker: Path, smollm2: Path, tmp_path: Path
):
    settings = load_settings({"LLMEDGE_HOME": str(tmp_path)})
    options = ServeOptions(context=ContextOptions(n_ctx=512), n_draft=3, draft_path=smollm2)
    with pytest.raises(UnsupportedError, match="another vocabulary"):
        open_engine(thinker, options, settings)


def test_a_draft_models_memory_is_counted(thinker: Path, tmp_path: Path):
    settings = load_settings({"LLMEDGE_HOME": str(tmp_path)})
    context = ContextOptions(n_ctx=512)
    alone = model_source(thinker, ServeOptions(context=context), settings)
    both = model_source(
        thinker, ServeOptions(context=context, n_draft=3, draft_path=thinker), settings
    )
    assert both.needs_bytes >= alone.needs_bytes + thinker.stat().st_size // 2
