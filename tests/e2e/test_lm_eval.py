"""lm-eval, installed in a folder of its own, drives our endpoint as its page in docs/ says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmedge.core.settings import Settings
from llmedge.runtime.context import ContextOptions
from llmedge.serve.server import ServeOptions, background_server, open_engine

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "lm-eval"
PAGE = ROOT / "docs" / "evaluate-lm-eval.md"
LM_EVAL = "lm-eval[api]==0.4.13"


def test_the_page_names_the_tested_version_and_the_shipped_task():
    page = PAGE.read_text(encoding="utf-8")
    assert f"pip install '{LM_EVAL}'" in page
    for word in ("--tasks everyday_en", "local-chat-completions", "local-completions"):
        assert word in page
    lines = (EXAMPLE / "everyday_en.jsonl").read_text(encoding="utf-8").splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"question", "answer"}] * 8


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lm-eval and what it needs; nothing of it comes into this environment."""
    folder = tmp_path_factory.mktemp("lm-eval")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), LM_EVAL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (folder / "torch").exists()
    return folder


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "route", "more"),
    [
        ("local-chat-completions", "chat/completions", ["--apply_chat_template"]),
        ("local-completions", "completions", []),
    ],
)
def test_lm_eval_scores_a_task_through_the_endpoint(
    site: Path,
    smollm2: Path,
    settings: Settings,
    tmp_path: Path,
    kind: str,
    route: str,
    more: list[str],
):
    options = ServeOptions(port=0, context=ContextOptions(n_ctx=1024))
    engine = open_engine(smollm2, options, settings)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(site),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OPENAI_API_KEY": "none",
    }
    with background_server(engine, options) as url:
        arguments = f"base_url={url}/v1/{route},model={engine.info.id},tokenizer_backend=None"
        command = [sys.executable, "-m", "lm_eval", "--model", kind, "--model_args"]
        command += [f"{arguments},tokenized_requests=False", "--tasks", "everyday_en", *more]
        command += ["--include_path", ".", "--output_path", str(tmp_path / "out")]
        done = subprocess.run(
            [*command, "--log_samples"],
            cwd=EXAMPLE,
            env=environ,
            capture_output=True,
            text=True,
            timeout=600,
        )
    engine.close()
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    scores = json.loads(results.read_text(encoding="utf-8"))["results"]["everyday_en"]
    assert scores["sample_len"] == 8
    assert 0 < scores["chrf,none"] <= 100
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 8
    assert any(row["resps"][0][0].strip() for row in rows)
