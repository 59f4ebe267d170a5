from pathlib import Path

import gguf
import pytest

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.engine.core import EngineCore, open_core
from llmedge.engine.generation import (
    ChatPrompt,
    Constraint,
    Delta,
    Finished,
    Generation,
    GenerationReport,
    TextPrompt,
)
from llmedge.engine.llama_drafter import LlamaDrafter
from llmedge.engine.messages import Load
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.sampler import SamplingOptions
from tests.gguf_files import replace_value, write_tiny_model

GREEDY = SamplingOptions(temperature=0)


def load(path: Path, draft: Path | None = None, *, n_draft: int = 4, n_slots: int = 1) -> Load:
    context = ContextOptions(n_ctx=512, n_batch=128, n_seq_max=4, n_threads=1)
    return Load(
        bytes(path),
        "model",
        ModelOptions(),
        context,
        SchedulerOptions(n_slots=n_slots),
        n_draft if draft else 0,
        bytes(draft) if draft else b"",
    )


def opened(path: Path, draft: Path | None = None, **options: int) -> EngineCore:
    return open_core(load(path, draft, **options), lambda _: True)


def run(core: EngineCore, *requests: Generation) -> tuple[list[str], list[GenerationReport]]:
    texts, reports = [""] * len(requests), []
    for number, request in enumerate(requests):
        core.add(number, core.clerk.prepare(request))
    while not core.is_idle:
        for number, answer in core.step():
            assert isinstance(answer, Delta | Finished), answer
            if isinstance(answer, Delta):
                texts[number] += answer.text
            else:
                reports.append(answer.report)
    return texts, reports


def generation(text: str, **options: object) -> Generation:
    chosen = {"max_tokens": 24, "sampling": GREEDY, **options}
    return Generation(TextPrompt(text), **chosen)  # type: ignore[arg-type]


def asked(sampling: SamplingOptions) -> list[Generation]:
    user = [{"role": "user", "content": "Name three rivers."}]
    schema = '{"type": "object", "properties": {"a": {"enum": ["one", "two"]}}, "required": ["a"]}'
    return [
        Generation(ChatPrompt(user), max_tokens=16, sampling=sampling),
        generation("Count: one, two,", sampling=sampling, stop=("five",)),
        generation("JSON:", sampling=sampling, constraint=Constraint("json_schema", schema)),
        generation("The sky is", sampling=sampling, n_logprobs=2),
    ]


@pytest.mark.parametrize(
    ("sampling", "n_asked"),
    [
        (GREEDY, 1),
        pytest.param(GREEDY, 9, marks=pytest.mark.slow),
        pytest.param(SamplingOptions(temperature=0.7, seed=3), 9, marks=pytest.mark.slow),
    ],
)
def test_a_variant_of_the_model_guesses_well_and_changes_no_text(
    smollm2: Path, smollm2_q4_0: Path, sampling: SamplingOptions, n_asked: int
):
    # One after another: batches of other sizes are rounded otherwise.
    with opened(smollm2) as plain, opened(smollm2, smollm2_q4_0) as drafting:
        reports: list[GenerationReport] = []
        for request in asked(sampling)[:n_asked]:
            without, _ = run(plain, request)
            given, took = run(drafting, request)
            assert given == without
            reports += took
        assert drafting.stats.draft_s > 0
    n_drafted = sum(report.n_drafted for report in reports)
    n_accepted = sum(report.n_accepted for report in reports)
    assert n_accepted > 0.2 * n_drafted > 0


def test_another_model_of_the_same_vocabulary_may_guess_for_several(
    tiny_model: Path, tmp_path: Path
):
    other = write_tiny_model(tmp_path / "other.gguf", seed=7)
    requests = [generation(text, ignore_end=True) for text in ("one", "two", "one and", "two")]
    with opened(tiny_model, n_slots=3) as plain, opened(tiny_model, other, n_slots=3) as drafting:
        given, reports = run(drafting, *requests)
        assert given == run(plain, *requests)[0]
    assert all(0 <= report.n_accepted <= report.n_drafted > 0 for report in reports)


def test_a_model_is_its_own_best_guesser(tiny_model: Path):
    with opened(tiny_model, tiny_model) as drafting:
        _, (report,) = run(drafting, generation("one", ignore_end=True))
    assert report.n_accepted == report.n_drafted > 12


def _another_end(writer: gguf.GGUFWriter) -> None:
    replace_value(writer, "tokenizer.ggml.eos_token_id", 1)


def _swapped_bytes(writer: gguf.GGUFWriter) -> None:
    tokens = writer.kv_data[0]["tokenizer.ggml.tokens"].value
    tokens[70], tokens[71] = tokens[71], tokens[70]


@pytest.mark.parametrize(
    ("change", "word"),
    [(_another_end, "its eos token is 1 instead of 2"), (_swapped_bytes, "token 70")],
)
def test_a_model_with_another_vocabulary_is_refused(tiny_model: Path, tmp_path: Path, change, word):
    other = write_tiny_model(tmp_path / "other.gguf", change=change)
    with pytest.raises(UnsupportedError, match=word):
        opened(tiny_model, other)


def test_a_model_of_another_family_or_with_windows_is_refused(
    tiny_model: Path, smollm2: Path, gemma3: Path
):
    with pytest.raises(UnsupportedError, match="49152 tokens instead of 260"):
        opened(tiny_model, smollm2)
    with pytest.raises(UnsupportedError, match="take guesses back"):
        opened(tiny_model, gemma3)


def test_it_has_as_much_context_as_the_model_that_it_guesses_for(tiny_model: Path):
    with (
        Model.load(tiny_model) as model,
        Context(model, ContextOptions(n_ctx=256, n_seq_max=9)) as target,
        LlamaDrafter.open(load(tiny_model, tiny_model, n_slots=2), target) as drafter,
    ):
        assert (drafter._llama.n_cells, drafter._llama.n_seq_max, drafter.n_max) == (256, 6, 4)


def test_no_guesses_need_no_model(tiny_model: Path):
    with pytest.raises(UsageError, match="guesses 0 tokens"):
        opened(tiny_model, tiny_model, n_draft=0)
