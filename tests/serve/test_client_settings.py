import json
import shlex

import pytest

from llmedge.serve.client_settings import client_settings

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
