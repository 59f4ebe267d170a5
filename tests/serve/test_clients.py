"""Other programs' own packages, told what `--settings` prints, over a real engine.

Each runs in a process of its own that reaches nothing but this machine: a client that looks
elsewhere, for prices, for an update or to tell who uses it, fails its test.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llmedge.core.settings import load_settings
from llmedge.runtime.context import ContextOptions
from llmedge.serve.client_settings import client_settings
from llmedge.serve.server import ServeOptions, background_server, open_engine

OPTIONS = ServeOptions(port=0, context=ContextOptions(n_ctx=1024, n_seq_max=2))
QUESTION = "What is the capital of India?"  # the model says noise, the same whenever asked

STAY_HERE = """
import json, os, socket

_look_up = socket.getaddrinfo

def look_up(host, *args, **options):
    if host not in ("127.0.0.1", "localhost"):
        print(f"looked for {host}", flush=True)
        os._exit(9)
    return _look_up(host, *args, **options)

socket.getaddrinfo = look_up
"""

WEATHER = """
from pydantic import BaseModel, Field

class Weather(BaseModel):
    '''Tells the weather of a city.'''

    city: str = Field(max_length=20)

class Capital(BaseModel):
    '''The capital of a country.'''

    capital: str = Field(max_length=20)
"""


@pytest.fixture(scope="module")
def settings(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """Serve the model, and return what is to be pasted into each program."""
    home = load_settings({"LLMEDGE_HOME": str(tmp_path_factory.mktemp("home"))})
    engine = open_engine(tiny_model, OPTIONS, home)
    with background_server(engine, OPTIONS) as url:
        yield dict(client_settings(url, engine.info.id, has_key=False))
    engine.close()


@pytest.fixture
def environment(tmp_path: Path):
    """Return a user's environment: a home, and no settings of any client."""
    names = ("PATH", "LANG", "SYSTEMROOT", "PYTHONPATH")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}


def variables(exports: str) -> dict[str, str]:
    """Return the variables that a line for the shell sets."""
    word, *pairs = shlex.split(exports)
    assert word == "export"
    return dict(pair.split("=", 1) for pair in pairs)


def run(script: str, environment: dict[str, str]) -> dict[str, object]:
    """Run a script that prints JSON last."""
    done = subprocess.run(
        [sys.executable, "-c", STAY_HERE + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_openai_chats_streams_parses_and_calls(settings, environment):
    script = f"""{WEATHER}
import openai

asked = {{"messages": [{{"role": "user", "content": {QUESTION!r}}}], "temperature": 0}}
tools = [openai.pydantic_function_tool(Weather)]
with openai.OpenAI(max_retries=0) as client:
    chats, responses = client.chat.completions, client.responses
    model = client.models.list().data[0].id
    whole = chats.create(model=model, max_tokens=16, **asked).choices[0].message.content
    with chats.stream(model=model, max_tokens=16, **asked) as stream:
        parts = [event.delta for event in stream if event.type == "content.delta"]
    parsed = chats.parse(model=model, response_format=Capital, **asked).choices[0].message
    called = chats.parse(
        model=model, tools=tools, tool_choice="required", parallel_tool_calls=False, **asked
    ).choices[0].message.tool_calls
    answer = responses.create(
        model=model, input={QUESTION!r}, temperature=0, max_output_tokens=16
    )
    with responses.stream(
        model=model, input={QUESTION!r}, temperature=0, max_output_tokens=16
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    formed = responses.parse(model=model, input={QUESTION!r}, text_format=Capital, temperature=0)
print(json.dumps({{
    "whole": whole, "parts": parts, "parsed": parsed.parsed.capital,
    "called": [type(call.function.parsed_arguments).__name__ for call in called],
    "answer": answer.output_text, "deltas": deltas, "formed": formed.output_parsed.capital,
}}))
"""
    told = run(script, environment | variables(settings["openai, and what reads its variables"]))
    assert told["whole"]
    assert "".join(told["parts"]) == "".join(told["deltas"]) == told["whole"] == told["answer"]
    assert told["called"] == ["Weather"]
    assert told["parsed"]
    assert told["parsed"] == told["formed"]


def test_langchain_invokes_streams_calls_and_parses(settings, environment):
    script = f"""{WEATHER}
from langchain_openai import ChatOpenAI

model = {settings["LangChain"]}
model.temperature = 0
short = model.bind(max_tokens=16)
whole = short.invoke({QUESTION!r})
parts = [part.content for part in short.stream({QUESTION!r})]
called = model.bind_tools([Weather], tool_choice="any", parallel_tool_calls=False).invoke("Pune?")
parsed = model.with_structured_output(Capital).invoke({QUESTION!r})
print(json.dumps({{
    "whole": whole.content, "parts": parts, "tokens": whole.usage_metadata["output_tokens"],
    "called": called.tool_calls[0], "parsed": type(parsed).__name__,
}}))
"""
    told = run(script, environment)
    assert told["whole"]
    assert "".join(told["parts"]) == told["whole"]
    assert 0 < told["tokens"] <= 16
    assert told["called"]["name"] == "Weather"
    assert set(told["called"]["args"]) == {"city"}
    assert told["parsed"] == "Capital"


def test_litellm_completes_streams_and_calls(settings, environment):
    script = f"""{WEATHER}
import litellm

asked = {{
    "model": "openai/tiny-F32",
    "messages": [{{"role": "user", "content": {QUESTION!r}}}],
    "temperature": 0,
}}
whole = litellm.completion(max_tokens=16, **asked)
stream = litellm.completion(max_tokens=16, stream=True, **asked)
parts = [chunk.choices[0].delta.content or "" for chunk in stream]
function = {{"name": "weather", "parameters": Weather.model_json_schema()}}
called = litellm.completion(
    tools=[{{"type": "function", "function": function}}], tool_choice="required",
    parallel_tool_calls=False, **asked
)
parsed = litellm.completion(response_format=Capital, **asked)
print(json.dumps({{
    "whole": whole.choices[0].message.content, "parts": parts, "tokens": whole.usage.total_tokens,
    "called": called.choices[0].message.tool_calls[0].function.name,
    "parsed": json.loads(parsed.choices[0].message.content),
}}))
"""
    openai = variables(settings["openai, and what reads its variables"])
    told = run(script, environment | openai | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    assert told["whole"]
    assert "".join(told["parts"]) == told["whole"]
    assert told["tokens"] > 16
    assert told["called"] == "weather"
    assert set(told["parsed"]) == {"capital"}


def test_llm_answers_and_streams(settings, environment, tmp_path: Path):
    (tmp_path / "extra-openai-models.yaml").write_text(settings["llm (extra-openai-models.yaml)"])
    # Without the plugins that are installed here.
    environment |= {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    script = f"""
import contextlib, io, llm.cli

def ask(*options):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        llm.cli.cli(["-m", "llmedge", "-o", "temperature", "0", "-o", "max_tokens", "16",
                     *options, {QUESTION!r}])
    return said.getvalue()

print(json.dumps({{"streamed": ask(), "whole": ask("--no-stream")}}))
"""
    told = run(script, environment)
    assert told["whole"]
    assert told["streamed"] == told["whole"]


def test_the_documented_versions_are_those_of_the_tests():
    root = Path(__file__).resolve().parents[2]
    pinned = (root / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    page = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    versions = re.findall(r"^\| ([a-z-]+) \| ([\d.]+) \|", page, flags=re.MULTILINE)
    assert len(versions) == 6
    for package, version in [*versions, *re.findall(r"\[(schemathesis)\]\S+ ([\d.]+)", page)]:
        assert f"{package}=={version}" in pinned
