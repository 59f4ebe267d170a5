"""A recipe from an empty home to the store, with a hub on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from local_hub import Faults, LocalHub

from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from llmedge.host.files import LockFile
from llmedge.recipe.gates import describe_gates, missed_gates
from llmedge.recipe.load import load_recipe
from llmedge.recipe.report_html import render_report
from llmedge.recipe.run import RunOptions, Tools, run
from llmedge.store.manifest import Quality, Speed, hash_file, read_manifest
from llmedge.store.run_records import find_run, read_run, write_run
from llmedge.store.stages import Stages
from tests.convert.tiny_llama import make_llama
from tests.fakes import RecordingProgress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmedge.core.settings import Settings
    from llmedge.store.run_records import RunRecord

REPO = "acme/Tiny-1M"
RECIPE = """schema_version = 1
name = "tiny"
title = "Tiny <b>1M</b>"
license = "mit"
notice = "Built with Tiny"
languages = ["en"]
[source]
repo = "acme/Tiny-1M"
architecture = "LlamaForCausalLM"
[calibration]
tokens = 1024
[[variant]]
mix = "Q8_0"
[[variant]]
mix = "Q4_0"
imatrix = false
[evaluate]
chunks = 1
[bench]
n_prompt = 16
n_gen = 4
repetitions = 2
[serve]
ctx = 256
[devices]
android-4gb = {}
"""
QUALITY = Quality("en", 0.1, 0.01, 0.9, 12.0, 1.2, 500)
SPEED = Speed(
    10.0, 0.1, 100.0, 200 << 20, {"en": 7.0}, "a processor", 2, (), "2026-01-01T00:00:00Z"
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    root = tmp_path_factory.mktemp("hub")
    make_llama(root / REPO)
    with LocalHub(root, Faults()) as hub:
        yield hub


@pytest.fixture
def recipe(tmp_path: Path, hub: LocalHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def newest(settings: Settings) -> RunRecord:
    return read_run(find_run(settings, "tiny"))


def test_a_recipe_ends_in_the_store_and_is_not_done_twice(
    cli, recipe: Path, settings: Settings, hub: LocalHub
):
    first = cli("run", recipe)
    assert first.code == 0, first.err
    assert "└─ passed; in the store" in first.err
    assert "whoever ships it must say: Built with Tiny" in first.err
    record = newest(settings)
    assert record.status == "passed"
    assert not any(stage.is_kept for stage in record.stages)
    manifest = read_manifest(settings.models_dir / "tiny" / "tiny-Q4_0.gguf")
    assert manifest is not None
    assert manifest.recipe is not None
    assert manifest.recipe.sha256 == record.recipe_sha256
    assert (manifest.source.repo, manifest.source.revision) == (REPO, record.commit)
    assert [item.text for item in manifest.quality] == ["en"]
    assert manifest.speed is not None
    assert not (settings.home / "runs" / "tiny" / "work").exists()

    n_asked = len(hub.requests)
    assert cli("run", recipe, "--resume", "--set", "serve.ctx=512").code == 0
    assert len(hub.requests) == n_asked
    again = newest(settings)
    kept = {stage.stage for stage in again.stages if stage.is_kept}
    assert kept == {"pull", "convert", "quantize", "evaluate", "bench"}
    assert [item.sha256 for item in again.variants] == [item.sha256 for item in record.variants]

    # What depends on a changed key is done again, and nothing else.
    assert cli("run", recipe, "--resume", "--set", "evaluate.chunks=2").code == 0
    redone = {stage.stage for stage in newest(settings).stages if not stage.is_kept}
    assert redone == {"evaluate", "check"}


def test_two_runs_of_a_recipe_do_not_meet(recipe: Path, settings: Settings):
    loaded = load_recipe(recipe)
    folder = settings.home / "runs" / "tiny"
    folder.mkdir(parents=True)
    tools = Tools(None, settings, RecordingProgress(), None, print)  # type: ignore[arg-type]
    with LockFile(folder / ".lock"), pytest.raises(UsageError, match="another process runs"):
        run(loaded, RunOptions(), tools)


def test_up_runs_a_recipe_once_and_serves_it(recipe: Path, tmp_path: Path, hub: LocalHub):
    command = [sys.executable, "-m", "llmedge", "up", str(recipe), "--port", "0", "--threads", "1"]
    said: list[str] = []
    for _ in range(2):
        n_asked = len(hub.requests)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said.append("")
            while "serving tiny:Q8_0 on " not in said[-1]:
                line = process.stderr.readline()
                assert line, said[-1]
                said[-1] += line
            process.terminate()
            process.communicate()
    assert len(hub.requests) == n_asked
    assert said[1].count("(kept)") == 8  # pull, convert; each variant made, compared, measured


def test_up_serves_a_model_of_the_users_that_is_called_like_a_recipe(
    cli, settings: Settings, tiny_model: Path
):
    name = "smollm2-135m-instruct"
    place = settings.models_dir / name / f"{name}-Q8_0.gguf"
    place.parent.mkdir(parents=True)
    shutil.copy(tiny_model, place)
    result = cli("up", name, "--lang", "hi", "--host", "256.0.0.1")
    assert "a recipe says its languages itself" not in result.err
    assert cli("up", "qwen3.5-2b", "--lang", "hi").err.startswith("error: a recipe says")


def test_a_missed_gate_registers_nothing(cli, recipe: Path, settings: Settings):
    text = RECIPE + '[gates]\nmax_mean_kld = 1e-9\nmax_memory = "1MiB"\n'
    recipe.write_text(text, encoding="utf-8")
    result = cli("run", recipe, "--keep-failed")
    assert result.code == 7
    assert "judged and failed" in result.err
    assert "KL divergence in en is" in result.err
    assert not (settings.models_dir / "tiny").exists()
    kept = settings.home / "runs" / "tiny" / "work" / "variants"
    assert (kept / "tiny-Q8_0.gguf").is_file()
    assert newest(settings).status == "failed"
    assert cli("run", recipe, "--resume").code == 7
    assert not kept.exists()


def test_only_one_stage_leaves_other_measurements_out(cli, recipe: Path, settings: Settings):
    assert cli("run", recipe, "--only", "evaluate").code == 0
    assert {stage.stage for stage in newest(settings).stages} == {
        "pull",
        "convert",
        "quantize",
        "evaluate",
    }
    assert not (settings.models_dir / "tiny").exists()


def test_variants_that_something_else_made_are_not_replaced(
    cli, recipe: Path, settings: Settings, tiny_model: Path
):
    place = settings.models_dir / "tiny" / "tiny-Q8_0.gguf"
    place.parent.mkdir(parents=True)
    shutil.copy(tiny_model, place)
    result = cli("run", recipe)
    assert result.code == 2
    assert "tiny:Q8_0 is in the store" in result.err
    assert hash_file(place) == hash_file(tiny_model)
    assert cli("run", recipe, "--overwrite").code == 0
    assert hash_file(place) != hash_file(tiny_model)


def test_a_checkpoint_of_another_kind_than_the_recipe_says_is_refused(cli, recipe: Path):
    result = cli("run", recipe, "--set", "source.architecture=Qwen3ForCausalLM")
    assert result.code == 2
    assert "has the architecture LlamaForCausalLM" in result.err


def test_a_lock_holds_the_files_to_their_hashes(cli, recipe: Path, settings: Settings):
    lock = recipe.with_name("locked.toml")
    assert cli("recipe", "lock", recipe, "-o", lock).code == 0
    assert load_recipe(lock).recipe.source.revision is not None
    assert cli("run", lock, "--only", "pull").code == 0
    wrong = 'source.files={"config.json" = "' + "0" * 40 + '"}'
    result = cli("run", lock, "--only", "pull", "--set", wrong)
    assert result.code == 2
    assert "config.json is" in result.err


def test_a_run_that_is_killed_ends_with_the_same_hashes(
    recipe: Path, tmp_path: Path, hub: LocalHub
):
    def start(home: Path) -> subprocess.Popen[bytes]:
        places = {"LLMEDGE_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
        command = [sys.executable, "-m", "llmedge", "run", str(recipe), "--threads", "1"]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env={**os.environ, **places}, stdout=quiet, stderr=quiet)

    began = time.monotonic()
    with start(tmp_path / "calm") as process:
        assert process.wait() == 0
    took = time.monotonic() - began
    for share in (0.25, 0.4, 0.55, 0.7, 0.85):
        with start(tmp_path / "killed") as process:
            time.sleep(share * took)
            process.kill()
    with start(tmp_path / "killed") as process:
        assert process.wait() == 0
    found = [
        {path.name: hash_file(path) for path in (tmp_path / home / "models").glob("*/*.gguf")}
        for home in ("calm", "killed")
    ]
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_a_report_is_one_page_that_fetches_and_runs_nothing(
    cli, recipe: Path, settings: Settings, tmp_path: Path
):
    assert cli("run", recipe).code == 0
    page = tmp_path / "report.html"
    assert cli("report", "tiny", "-o", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "Tiny &lt;b&gt;1M&lt;/b&gt;" in text
    assert "<script" not in text
    assert "src=" not in text
    assert "android-4gb" in text
    assert text.count("<svg") == 2 + 2 + 2  # all variants twice, each by language and by device
    assert cli("report", "tiny", "-o", page).code == 2
    assert cli("report", "tiny", "-o", page, "--overwrite").code == 0
    bare = replace(newest(settings), variants=(), gates=(), status="partial")
    assert "none: nothing is claimed" in render_report(bare)


def test_records_that_are_none_are_refused(cli, settings: Settings, tmp_path: Path):
    assert cli("report", "tiny").code == 3
    path = tmp_path / "x.json"
    for text, error in (
        ("{", IntegrityError),
        ('{"schema": "llmedge.run/1"}', IntegrityError),
        ('{"schema": "x"}', IntegrityError),
        ('{"schema": "llmedge.run/9"}', UnsupportedError),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(error):
            read_run(path)
    with pytest.raises(NotFoundError):
        find_run(settings, "none.json")


def test_a_record_comes_back_as_it_was(cli, recipe: Path, settings: Settings):
    assert cli("run", recipe, "--only", "quantize").code == 0
    record = newest(settings)
    assert read_run(write_run(settings, record)) == record


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ("max_mean_kld = 0.05", "KL divergence in en is 0.1000 nats, above 0.0500 nats"),
        ("max_mean_kld = 0.2", ""),
        ("min_top1 = { en = 0.95 }", "top-1 agreement in en is 90.0%, below 95.0%"),
        ("max_perplexity_ratio = 1.1", "perplexity ratio in en is 1.200, above 1.100"),
        ("min_words_per_s = { en = 8 }", "7.0 words/s in en, below 8"),
        ("min_words_per_s = { hi = 1 }", "0.0 words/s in hi, below 1"),
        ("min_tg = 11", "10.0 tokens/s, below 11"),
        ('max_memory = "100MiB"', "memory of 200.0 MiB, above 100MiB"),
        ('max_memory = "300MiB"', ""),
    ],
)
def test_gates(tmp_path: Path, gates: str, said: str):
    path = tmp_path / "x.toml"
    path.write_text(f"{RECIPE}[gates]\n{gates}\n".replace("1 = {}", ""), encoding="utf-8")
    recipe = load_recipe(path).recipe
    assert missed_gates(recipe, [QUALITY], SPEED, ()) == ((said,) if said else ())
    assert len(describe_gates(recipe)) == 2
    broken = replace(QUALITY, mean_kld=float("nan"))
    if "max_mean_kld" in gates:
        assert missed_gates(recipe, [broken], None, ())


def test_stages_are_found_by_their_inputs_alone(tmp_path: Path):
    stages = Stages(tmp_path)
    stages.keep("a", ["x", 1], QUALITY, 2.0)
    kept = stages.find("a", ["x", 1], Quality)
    assert kept is not None
    assert (kept.result, kept.seconds) == (QUALITY, 2.0)
    assert stages.find("a", ["x", 2], Quality) is None
    assert stages.find("a", ["x", 1], Speed) is None
    (tmp_path / "a.json").write_bytes(b"{\xff")
    assert stages.find("a", ["x", 1], Quality) is None
