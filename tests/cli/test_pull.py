"""`llmedge pull` on the command line."""

import json
from pathlib import Path

import pytest

from tests.pull.conftest import REPO, Puller, puller

__all__ = ["puller"]  # a fixture


@pytest.fixture
def hub(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> Puller:
    monkeypatch.setenv("HF_ENDPOINT", puller.hub.url + "/")
    monkeypatch.setenv("HF_HUB_CACHE", str(puller.cache))
    return puller


def test_a_dry_run_shows_the_files_and_fetches_none(hub: Puller, cli):
    result = cli("pull", REPO, "--dry-run", "--at", "00:00-00:01")
    assert result.code == 0
    assert "to fetch" in result.out
    assert "1.5 MB to fetch" in result.err
    assert hub.hub.file_requests() == []


def test_a_pull_says_what_came_under_which_licence_and_what_is_next(hub: Puller, cli):
    result = cli("pull", REPO, "--exclude", "*.txt")
    assert result.code == 0
    assert "license: apache-2.0" in result.err
    assert f"next: llmedge convert {REPO}" in result.err
    (report,) = cli("pull", REPO, "--json").json["results"]
    assert report["network_bytes"] == 0


def test_offline_only_what_is_here_is_found(hub: Puller, cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = cli("pull", REPO)
    assert result.code == 9
    assert "HF_HUB_OFFLINE" in result.err
    assert hub.hub.requests == []


def test_the_token_of_the_environment_is_sent(
    hub: Puller, cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    hub.hub.faults.gated = REPO
    result = cli("pull", REPO, "--json")
    assert result.code == 9
    assert "HF_TOKEN" in json.loads(result.err.splitlines()[-1])["hint"]
    (tmp_path / "token").write_text("hf_good\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert cli("pull", REPO).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["name"], "nothing on the hub"),
        ([REPO, "--limit-rate", "10"], "below 1 kB"),
        ([REPO, "--limit-rate", "fast"], "not a size"),
        ([REPO, "--at", "noon"], "no span of hours"),
        ([f"{REPO}:Q4_K_M", "--include", "*.gguf"], "names a file"),
    ],
)
def test_what_cannot_be_meant_is_refused(hub: Puller, cli, arguments: list[str], words: str):
    result = cli("pull", *arguments)
    assert result.code == 2
    assert words in result.err


def test_an_endpoint_that_is_no_address_is_refused(hub: Puller, cli, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    result = cli("pull", REPO)
    assert result.code == 2
    assert "HF_ENDPOINT" in result.err


def test_a_pulled_gguf_file_is_shown_by_its_name(hub: Puller, cli, tiny_model: Path):
    folder = hub.hub.root / "acme" / "tiny-GGUF"
    folder.mkdir()
    for variant in ("F32", "Q8_0"):
        (folder / f"tiny-{variant}.gguf").write_bytes(tiny_model.read_bytes())
    before = cli("show", "acme/tiny-GGUF:F32")
    assert before.code == 3
    assert "llmedge pull acme/tiny-GGUF:F32" in before.err
    result = cli("pull", "acme/tiny-GGUF:F16")
    assert result.code == 3
    assert "did you mean acme/tiny-GGUF:F32? It has F32, Q8_0" in result.err
    assert cli("pull", "acme/tiny-GGUF:F32").code == 0
    for name in ("acme/tiny-GGUF:f32", "acme/tiny-GGUF"):
        (facts,) = cli("show", name, "--json").json["results"]
        assert facts["path"].endswith("tiny-F32.gguf")
    missing = cli("show", "acme/tiny-GGUF:Q8_0")
    assert missing.code == 3
    assert "llmedge pull acme/tiny-GGUF:Q8_0" in missing.err
    planned = cli("quantize", "acme/tiny-GGUF", "-t", "Q8_0", "--dry-run")
    assert planned.code == 0, planned.err


def test_a_pulled_checkpoint_is_what_convert_is_given(hub: Puller, cli):
    before = cli("convert", REPO, "--dry-run")
    assert before.code == 3
    assert f"llmedge pull {REPO}" in before.err
    (hub.hub.root / REPO / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    assert cli("pull", REPO).code == 0
    # The folder was found: what is wrong now is what is in it.
    found = cli("convert", REPO, "--dry-run")
    assert f"llmedge pull {REPO}" not in found.err
    assert "snapshots" in found.err or "NoSuchModel" in found.err or "safetensors" in found.err
