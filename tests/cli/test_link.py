"""`llmedge link`, and what `rm` says of a linked model."""

from pathlib import Path

import pytest


def test_a_linked_model_is_used_there_and_outlives_rm(cli, tiny_model: Path, tmp_path: Path):
    assert cli("quantize", tiny_model, "-t", "Q8_0", "--no-imatrix").code == 0
    shared = tmp_path / "shared"
    missing = cli("link", "tiny:Q8_0", "--to", shared)
    assert missing.code == 3
    assert "make it first" in missing.err
    shared.mkdir()
    result = cli("link", "tiny:Q8_0", "--to", shared, "--json")
    (made,) = result.json["results"]
    assert made["means"] == "hard link"
    assert cli("show", made["path"]).code == 0
    removed = cli("rm", "tiny:Q8_0", "--yes")
    assert " kB are free again" in removed.err  # its sidecar
    assert "tiny:Q8_0 had a second name" in removed.err
    assert cli("show", made["path"]).code == 0


def test_lm_studio_finds_it(cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    absent = cli("link", tiny_model, "--to", "lmstudio")
    assert absent.code == 3
    assert "LM Studio has no folder here" in absent.err
    (tmp_path / ".lmstudio").mkdir()
    assert cli("link", tiny_model, "--to", "lmstudio").code == 0
    assert (tmp_path / ".lmstudio/models/llmedge/tiny/tiny-F32.gguf").samefile(tiny_model)
