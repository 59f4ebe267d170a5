from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmedge.cli.calibration import CalibrationFlags
from llmedge.core.errors import NotFoundError, UsageError
from llmedge.gguf.imatrix_file import ImatrixEntry, ImatrixSums, read_sums, write_imatrix
from llmedge.measure.calibration import PRESETS
from tests.gguf.imatrix_files import old_imatrix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Result

    Cli = Callable[..., Result]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("A heron stood in the shallows and thought about nothing. " * 60)
    return path


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    return tiny_model


def experts(path: Path) -> Path:
    entries = {
        f"blk.{layer}.ffn_up_exps.weight": ImatrixEntry(
            np.ones((20, 4), np.float32), np.array([8, *[0] * 19])
        )
        for layer in range(10)
    }
    write_imatrix(path, ImatrixSums(("wiki.txt",), 2, 512, entries))
    return path


def test_a_model_gets_one_which_is_kept_and_copied(
    cli: Cli, model: Path, text: Path, tmp_path: Path, home: Path
):
    target = tmp_path / "i.gguf"
    line = ("imatrix", model, "--calibration", text, "--calibration-tokens", 1024)
    first = cli(*line, "-o", target)
    assert first.code == 0
    for word in ("mine.txt 1024", "1024 in 2 chunks", "8, 8 of them reached whole", str(target)):
        assert word in first.out
    assert "computed" in first.out
    (kept,) = (home / "imatrix").glob("*.gguf")
    assert kept.read_bytes() == target.read_bytes()
    again = cli(*line, "--json")
    (result,) = again.json["results"]  # type: ignore[misc]
    assert again.json["schema"] == "llmedge.imatrix/1"
    assert result["was_cached"]
    assert result["path"] == str(kept)
    assert result["shares"] == {"mine.txt": 1024}
    assert [tensor["max_count"] for tensor in result["coverage"]] == [1024] * 8


def test_a_file_is_shown_with_its_texts_and_what_no_token_reached(cli: Cli, tmp_path: Path):
    shown = cli("imatrix", experts(tmp_path / "i.gguf"))
    assert shown.code == 0
    for word in ("wiki.txt", "1024 in 2 chunks", "10, 0 of them reached whole"):
        assert word in shown.out
    assert (
        "blk.0.ffn_up_exps.weight: no token reached experts 1, 2, 3, 4, 5, 6, 7, 8 and 11 more "
        "of 20" in shown.err
    )
    assert "experts of 2 more tensors" in shown.err


def test_every_tensor_is_shown_when_asked_for(cli: Cli, tmp_path: Path):
    shown = cli("imatrix", experts(tmp_path / "i.gguf"), "--show", "--format", "csv")
    lines = shown.out.splitlines()
    assert lines[0] == "tensor,matrices,reached,fewest tokens,most tokens"
    assert lines[1] == "blk.0.ffn_up_exps.weight,20,1,0,8"
    assert len(lines) == 11


def test_the_old_format_is_shown_too(cli: Cli, tmp_path: Path):
    path = tmp_path / "i.dat"
    path.write_bytes(old_imatrix({"blk.0.attn_q.weight": (5, [1.0, 2.0])}))
    assert "not said; 12 chunks" in cli("imatrix", path).out
    assert "most chunks" in cli("imatrix", path, "--show").out


def test_files_are_joined(cli: Cli, tmp_path: Path):
    one = experts(tmp_path / "one.gguf")
    joined = tmp_path / "joined.gguf"
    result = cli("imatrix", one, "--merge", one, "--merge", one, "-o", joined)
    assert result.code == 0
    assert "3072 in 6 chunks" in result.out
    counts = [entry.counts[0] for entry in read_sums(joined).entries.values()]
    assert counts == [24] * 10


def test_what_was_computed_is_joined_with_files(cli: Cli, model: Path, text: Path, tmp_path: Path):
    one, joined = tmp_path / "one.gguf", tmp_path / "joined.gguf"
    line = ("imatrix", model, "--calibration", text, "--calibration-tokens", 512)
    assert cli(*line, "-o", one).code == 0
    assert cli(*line, "--merge", one, "-o", joined).code == 0
    assert (read_sums(one).n_chunks, read_sums(joined).n_chunks) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no-such-model",), 3, "no-such-model"),
        (("{model}", "--calibration", "nothing"), 3, "nothing is neither a text nor a preset"),
        (("{model}", "--calibration-weights", "xx=1"), 2, "unknown kind of text 'xx'"),
        (("{model}", "--calibration-tokens", "10"), 2, "equal to 512"),
        (("{imatrix}", "--merge", "{imatrix}"), 2, "--merge needs a file to write"),
        (("{imatrix}", "-o", "{imatrix}"), 2, "exists"),
        (("{model}", "-o", "{model}", "--overwrite"), 2, "by this very run"),
        (("{imatrix}", "--merge", "{dat}", "-o", "{new}"), 2, "in the old format"),
        (("{imatrix}", "--merge", "{model}", "-o", "{new}"), 6, "no importance matrix"),
        (("{damaged}",), 6, "damaged"),
    ],
)
def test_what_cannot_be_done_is_said(
    cli: Cli, model: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
):
    paths = {"model": model, "imatrix": experts(tmp_path / "i.gguf"), "new": tmp_path / "new.gguf"}
    paths["dat"] = tmp_path / "i.dat"
    paths["dat"].write_bytes(old_imatrix({"blk.0.attn_q.weight": (5, [1.0, 2.0])}))
    paths["damaged"] = tmp_path / "damaged.gguf"
    paths["damaged"].write_bytes(paths["imatrix"].read_bytes()[:-40])
    result = cli("imatrix", *(argument.format(**paths) for argument in arguments))
    assert result.code == code, result.err
    assert message in result.err
    assert "hint:" in result.err
    assert not paths["new"].exists()


def test_without_a_word_everything_is_weighed():
    options = CalibrationFlags().calibration_options()
    assert options.weights == PRESETS["balanced"]
    assert (options.files, options.n_tokens, options.n_ctx, options.seed) == ((), 20_480, 512, 0)


def test_presets_files_and_weights_go_together(text: Path):
    def chosen(*given: str, weights: str | None = None):
        flags = CalibrationFlags(list(given), weights).calibration_options()
        return dict(flags.weights), [path.name for path in flags.files]

    assert chosen("indic") == (PRESETS["indic"], [])
    assert chosen(str(text)) == ({}, ["mine.txt"])
    assert chosen(str(text), "chat") == (PRESETS["chat"], ["mine.txt"])
    assert chosen(weights="hi=2,en=1") == ({"hi": 2, "en": 1}, [])
    assert chosen(str(text), weights="mine.txt=2,en=1") == ({"mine.txt": 2, "en": 1}, ["mine.txt"])


@pytest.mark.parametrize(
    ("given", "weights", "error"),
    [
        (["indic", "chat"], None, UsageError),
        (["indic"], "hi=1", UsageError),
        (["none.txt"], None, NotFoundError),
        ([], "none.txt=1", UsageError),
    ],
)
def test_what_contradicts_itself_is_refused(given: list[str], weights: str | None, error):
    with pytest.raises(error):
        CalibrationFlags(given, weights).calibration_options()


def test_languages_mean_texts_and_conversations_in_them(cli: Cli, model: Path):
    result = cli("imatrix", model, "--lang", "hi", "--calibration-tokens", 5120, "--json")
    (report,) = result.json["results"]
    assert set(report["shares"]) == {"hi", "chat-hi", "en"}
    assert cli("imatrix", model, "--lang", "xx").code == 2
    assert (
        "both say what counts" in cli("imatrix", model, "--lang", "hi", "--calibration", "chat").err
    )
