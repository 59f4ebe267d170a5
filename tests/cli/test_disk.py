"""`llmedge du`, `verify` and `rm --dry-run` on the command line."""

from pathlib import Path

import pytest


@pytest.fixture
def variant(cli, tiny_model: Path, home: Path, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cli("quantize", tiny_model, "-t", "Q8_0", "--no-imatrix").code == 0
    return home / "models" / "tiny" / "tiny-Q8_0.gguf"


def test_du_tells_what_takes_the_disk(cli, variant: Path):
    result = cli("du", "--json")
    sizes = {each["kind"]: each["n_bytes"] for each in result.json["results"]}
    assert sizes["variants"] >= variant.stat().st_size
    assert "may be deleted" in result.err
    assert "variants" in cli("du").out


def test_verify_finds_one_changed_byte(cli, variant: Path):
    assert cli("verify").code == 0
    with variant.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    result = cli("verify", "tiny:Q8_0")
    assert result.code == 6
    assert "tiny:Q8_0 is damaged" in result.err
    assert cli("verify", "nothing").code == 3


def test_rm_says_first_what_would_go(cli, variant: Path):
    result = cli("rm", "tiny", "--dry-run")
    assert result.code == 0
    assert "would delete tiny:Q8_0" in result.err
    assert variant.is_file()
