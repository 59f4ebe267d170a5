import json
import shlex
import shutil
import subprocess

import pytest

from llmedge.serve.client_settings import client_settings
from tests.fakes import FakeEngine
from tests.serve.endpoint import serving

URL = "http://127.0.0.1:8080"
ODD = """it's "mine":Q4_0"""


@pytest.mark.parametrize("has_key", [True, False])
def test_every_program_is_told_where_the_endpoint_is(has_key: bool):
    settings = dict(client_settings(URL, "model:Q4_K_M", has_key=has_key))
    assert len(settings) == 9
    assert all(URL in text for text in settings.values())
    assert all(("YOUR_KEY" in settings[name]) == has_key for name in ("curl", "LangChain"))


def test_what_is_pasted_can_be_read():
    settings = dict(client_settings(URL, ODD, has_key=False))
    zed = json.loads(settings["Zed (settings.json)"])
    models = zed["language_models"]["openai_compatible"]["llmedge"]["available_models"]
    assert models[0]["name"] == ODD
    body = shlex.split(settings["curl"])[-1]
    assert json.loads(body)["model"] == ODD


@pytest.fixture
def pasted():
    """Serve, and return what is to be pasted into each program."""
    with serving(FakeEngine()) as client:
        yield dict(client_settings(f"http://{client.host}", "fake:Q4_0", has_key=False))


def set_variables(exports: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that a line for the shell sets."""
    word, *pairs = shlex.split(exports)
    assert word == "export"
    for pair in pairs:
        monkeypatch.setenv(*pair.split("=", 1))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_asks_as_it_is_pasted(pasted):
    done = subprocess.run(shlex.split(pasted["curl"]), capture_output=True, check=True, timeout=20)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "Hello world"


def test_anthropics_client_asks_as_it_is_told(pasted, monkeypatch):
    anthropic = pytest.importorskip("anthropic")
    set_variables(pasted["Anthropic's clients"], monkeypatch)
    with anthropic.Anthropic(max_retries=0) as sdk:
        hello = [{"role": "user", "content": "Hello"}]
        message = sdk.messages.create(model="fake:Q4_0", messages=hello, max_tokens=16)
    assert message.content[0].text == "Hello world"


def test_ollamas_client_asks_as_it_is_told(pasted, monkeypatch):
    ollama = pytest.importorskip("ollama")
    set_variables(pasted["Ollama's clients"], monkeypatch)
    sdk = ollama.Client()
    assert sdk.generate("fake:Q4_0", "Hello").response == "Hello world"
    sdk._client.close()
