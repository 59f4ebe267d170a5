"""`llmedge serve`: what is refused before a model is loaded."""

from pathlib import Path

import pytest

from llmedge.cli.app import main
from llmedge.cli.serve import _tracing
from llmedge.core.settings import load_settings


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["serve", *map(str, arguments)])
    assert caught.value.code in (2, 3)
    return capsys.readouterr().err


def test_an_address_that_others_reach_needs_a_key(capsys, tiny_model: Path):
    said = refused(capsys, tiny_model, "--host", "0.0.0.0", "--port", 0)
    assert "there is no API key" in said
    assert "--allow-anonymous" in said


def test_a_key_file_must_be_there_and_hold_good_keys(capsys, tiny_model: Path, tmp_path: Path):
    keys = tmp_path / "keys"
    assert "cannot be read" in refused(capsys, tiny_model, "--api-key-file", keys)
    keys.write_text("\n")
    assert "has no API key" in refused(capsys, tiny_model, "--api-key-file", keys)
    keys.write_text("long-enough-key\nshort\n")
    said = refused(capsys, tiny_model, "--api-key-file", keys, "--port", 0)
    assert "shorter than 8 characters" in said
    assert "long-enough-key" not in said


def test_any_origin_is_no_origin(capsys, tiny_model: Path):
    assert "any web page" in refused(capsys, tiny_model, "--allow-origin", "*", "--port", 0)


def test_traces_that_cannot_be_sent_stop_nothing_and_are_told_of(capsys):
    assert _tracing(load_settings({"OTEL_TRACES_EXPORTER": "zipkin"})) is None
    assert "no traces: traces cannot be exported by 'zipkin'" in capsys.readouterr().err
    assert _tracing(load_settings({})) is None
    assert capsys.readouterr().err == ""


def test_models_or_their_folder_are_given_and_not_both(capsys, tiny_model: Path, tmp_path: Path):
    for arguments in ([], [tiny_model, "--models-dir", tmp_path]):
        assert "give models or --models-dir" in refused(capsys, *arguments, "--port", 0)
    said = refused(capsys, "--models-dir", tmp_path / "missing", "--port", 0)
    assert "is not a folder to serve" in said


def test_adapters_that_cannot_be_meant_are_refused_before_the_model_is_loaded(
    capsys, tiny_model: Path, tmp_path: Path
):
    said = refused(capsys, tiny_model, tiny_model, "--lora", "a.gguf", "--port", 0)
    assert "--lora goes with one model" in said
    assert "'much' is no scale" in refused(capsys, tiny_model, "--lora", "a.gguf=much")
    assert "from -100 to 100" in refused(capsys, tiny_model, "--lora", "a.gguf=nan")
    said = refused(capsys, tiny_model, "--lora", "a.gguf", "--lora", tmp_path / "a.gguf=2")
    assert "names of their own" in said
    assert "missing.gguf is not a file" in refused(
        capsys, tiny_model, "--lora", tmp_path / "missing.gguf=0.5", "--port", 0
    )


def test_a_draft_model_must_be_there_and_have_something_to_do(capsys, tiny_model: Path):
    assert "nosuch" in refused(capsys, tiny_model, "--draft-model", "nosuch", "--port", 0)
    said = refused(capsys, tiny_model, "--draft-model", tiny_model, "--draft", 0, "--port", 0)
    assert "--draft 4" in said
