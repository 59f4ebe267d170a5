"""Answers of variants to the shipped prompts: are they right, whole, and in the asked script?"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.evaluate.chrf import Chrf, require_chrf, score_chrf
from llmedge.evaluate.prompts import Prompt, read_prompts
from llmedge.measure.repetition import is_echo, is_repeating
from llmedge.measure.scripts import script_share, scripts_of
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.first_load import ensure_loads, require_text
from llmedge.runtime.generation import GenerationOptions, TextGenerator
from llmedge.runtime.library import library_info
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.sampler import SamplingOptions
from llmedge.store.catalog import model_id
from llmedge.store.manifest import utc_now
from llmedge.store.records import append_record

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from llmedge.core.progress import Progress, Task
    from llmedge.core.settings import Settings

SCHEMA = "llmedge.evaluate-chat/1"
IN_SCRIPT = 0.9
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class ChatCheckOptions:
    """What to ask, and how.

    Attributes:
        languages: Codes of languages with shipped prompts.
        max_tokens: Most tokens of an answer.
        plain: Ask in plain text after two answered questions, as models without a chat template
            are asked; the answer is one line.
        model: How to load the models.
        context: How to run them.
    """

    languages: tuple[str, ...] = ("en",)
    max_tokens: int = 128
    plain: bool = False
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions(n_ctx=1024)


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one prompt.

    Attributes:
        question: What it was asked.
        text: What it said.
        letter_share: Share of its letters that are of the language's script; `None` without any.
        n_replacements: Bytes or characters in it that are no text.
        is_cut: Whether it went on to the most tokens.
        is_repeating: Whether it ends in an endless repetition (`measure/repetition.py`).
        is_echo: Whether it only repeats the question.
    """

    question: str
    text: str
    letter_share: float | None
    n_replacements: int
    is_cut: bool
    is_repeating: bool
    is_echo: bool

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not self.text.strip()

    @property
    def is_in_script(self) -> bool:
        """Whether at least `IN_SCRIPT` of its letters are of the script; digits alone are."""
        return not self.is_empty and (self.letter_share is None or self.letter_share >= IN_SCRIPT)


@dataclass(frozen=True, slots=True)
class ChatChecks:
    """One variant in one language.

    Attributes:
        model: The variant's id.
        language: The language's code.
        file_bytes: The variant's size.
        bits_per_weight: The variant's, over all tensors.
        chrf: The answers against the references.
        echo_chrf: What the questions themselves would score, as they share words with the
            references: a model that is not above it knows nothing.
        script_share: Share of the answers that are in the language's script.
        n_invalid: Answers with bytes or characters that are no text.
        n_repeating: Answers that end in an endless repetition.
        n_echoes: Answers that only repeat the question.
        n_empty: Answers that say nothing.
        n_cut: Answers that went on to the most tokens.
        answers: All of them.
    """

    model: str
    language: str
    file_bytes: int
    bits_per_weight: float
    chrf: Chrf
    echo_chrf: float
    script_share: float
    n_invalid: int
    n_repeating: int
    n_echoes: int
    n_empty: int
    n_cut: int
    answers: tuple[Answer, ...]


def check_chat(
    variants: Sequence[Path], options: ChatCheckOptions, settings: Settings, progress: Progress
) -> list[ChatChecks]:
    """Ask variants the shipped prompts, greedily, and record what they answer.

    Returns:
        One result a variant and language, by variant.

    Raises:
        MissingExtraError: The extra `quality` is not installed.
        UsageError: A language without prompts, or fewer than one token to answer with.
        UnsupportedError: A variant makes no text or has no chat template.
        IntegrityError: A file is damaged.
        ResourceError: Memory ran out.
    """
    require_chrf()
    if options.max_tokens < 1:
        raise UsageError(f"answers of {options.max_tokens} tokens say nothing", "--max-tokens 128")
    prompts = {language: read_prompts(language) for language in options.languages}
    unique = list(dict.fromkeys(variants))
    for path in unique:
        header = ensure_loads(path, settings.state_dir)
        require_text(header)
        if not options.plain and not header.text("tokenizer.chat_template"):
            raise UnsupportedError(
                f"{path.name} has no chat template", "a base model is asked with --plain"
            )
    results: list[ChatChecks] = []
    for path in unique:
        with _open_asker(path, options) as asker:
            for language, questions in prompts.items():
                label = f"{path.stem}: {language}"
                with progress.task(label, total=len(questions), unit="answers") as task:
                    answers = asker.answer_all(language, questions, task)
                result = _summary(asker.model, language, questions, answers, settings)
                _record(result, options, settings)
                results.append(result)
    return results


class _Asker:
    """Asks one model."""

    def __init__(self, model: Model, generator: TextGenerator, options: ChatCheckOptions) -> None:
        self.model = model
        self._template = None if options.plain else ChatTemplate.of_model(model)
        self._generator = generator
        self._options = GenerationOptions(
            max_tokens=options.max_tokens,
            stop=("\n",) if options.plain else (),
            sampling=SamplingOptions(temperature=0),
        )

    def answer_all(
        self, language: str, prompts: Sequence[Prompt], task: Task
    ) -> tuple[Answer, ...]:
        answers: list[Answer] = []
        for index, prompt in enumerate(prompts):
            examples = (prompts[index - 2], prompts[index - 1])
            answers.append(self._answer(language, prompt.question, self._ask(prompt, examples)))
            task.update(len(answers))
        return tuple(answers)

    def _ask(self, prompt: Prompt, examples: Sequence[Prompt]) -> list[int]:
        if self._template is None:
            shown = "".join(f"Q: {row.question}\nA: {row.references[0]}\n\n" for row in examples)
            return self.model.vocab.tokenize(f"{shown}Q: {prompt.question}\nA:", add_special=True)
        # Models that can think first are asked not to: what is measured is a short answer.
        return self._template.tokenize(
            self.model,
            [{"role": "user", "content": prompt.question}],
            variables={"enable_thinking": False},
        )

    def _answer(self, language: str, question: str, tokens: list[int]) -> Answer:
        text = "".join(self._generator.generate(tokens, self._options))
        report = self._generator.report
        is_cut = report is not None and report.finish_reason == "length"
        if is_cut:
            # The limit may fall inside a character; that is not the model's doing.
            text = text.removesuffix(_REPLACEMENT)
        return Answer(
            question=question,
            text=text,
            letter_share=script_share(text, scripts_of([language])),
            n_replacements=text.count(_REPLACEMENT),
            is_cut=is_cut,
            is_repeating=is_repeating(text),
            is_echo=is_echo(text, question),
        )


@contextlib.contextmanager
def _open_asker(path: Path, options: ChatCheckOptions) -> Generator[_Asker]:
    with (
        Model.load(path, options.model) as model,
        Context(model, options.context) as context,
        contextlib.closing(TextGenerator(context)) as generator,
    ):
        yield _Asker(model, generator, options)


def _summary(
    model: Model,
    language: str,
    prompts: Sequence[Prompt],
    answers: tuple[Answer, ...],
    settings: Settings,
) -> ChatChecks:
    references = [prompt.references for prompt in prompts]
    return ChatChecks(
        model=model_id(settings, model.path),
        language=language,
        file_bytes=model.header.file_bytes,
        bits_per_weight=round(model.header.bits_per_weight, 4),
        chrf=score_chrf([answer.text for answer in answers], references),
        echo_chrf=score_chrf([prompt.question for prompt in prompts], references).score,
        script_share=sum(answer.is_in_script for answer in answers) / len(answers),
        n_invalid=sum(answer.n_replacements > 0 for answer in answers),
        n_repeating=sum(answer.is_repeating for answer in answers),
        n_echoes=sum(answer.is_echo for answer in answers),
        n_empty=sum(answer.is_empty for answer in answers),
        n_cut=sum(answer.is_cut for answer in answers),
        answers=answers,
    )


def _record(result: ChatChecks, options: ChatCheckOptions, settings: Settings) -> None:
    record = {
        "schema": SCHEMA,
        "created": utc_now(),
        "tools": {"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
        "max_tokens": options.max_tokens,
        "plain": options.plain,
        **asdict(result),
    }
    append_record(settings, "chat", record)
