"""`llmedge serve`: what is refused before a model is loaded."""

from pathlib import Path

import pytest

from llmedge.cli.app import main


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
