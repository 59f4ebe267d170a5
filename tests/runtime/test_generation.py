import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import ContextLengthError, UsageError
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.generation import GenerationOptions, StopMatcher, TextGenerator
from llmedge.runtime.model import Model
from llmedge.runtime.sampler import SamplingOptions

GREEDY = SamplingOptions(temperature=0)


@pytest.fixture
def generator(context: Context):
    generator = TextGenerator(context)
    yield generator
    generator.close()


def ask(context: Context, question: str) -> list[int]:
    template = ChatTemplate.of_model(context.model)
    return template.tokenize(context.model, [{"role": "user", "content": question}])


def run(generator: TextGenerator, prompt: list[int], **options) -> str:
    return "".join(generator.generate(prompt, GenerationOptions(sampling=GREEDY, **options)))


def test_the_model_answers_and_ends_by_itself(generator: TextGenerator, context: Context):
    text = run(generator, ask(context, "What is the capital of India?"))
    assert "New Delhi" in text
    report = generator.report
    assert report is not None
    assert report.finish_reason == "stop"
    assert report.n_cached == 0
    assert report.n_generated < 30
    assert report.pp_tokens_per_s > 0
    assert report.tg_tokens_per_s > 0


def test_a_limit_ends_the_answer(generator: TextGenerator, context: Context):
    prompt = ask(context, "Tell me a story.")
    text = run(generator, prompt, max_tokens=7)
    assert generator.report is not None
    assert (generator.report.n_generated, generator.report.finish_reason) == (7, "length")
    assert len(context.model.vocab.tokenize(text)) <= 7
    assert run(generator, prompt, max_tokens=1)
    assert generator.report.n_generated == 1
    assert generator.report.tg_tokens_per_s == 0.0


def test_what_the_next_prompt_shares_is_not_computed_again(
    generator: TextGenerator, context: Context
):
    prompt = ask(context, "What is the capital of India?")
    first = run(generator, prompt)
    assert generator.report is not None
    assert generator.report.n_cached == 0
    again = run(generator, prompt)
    assert first == again
    assert generator.report is not None
    assert generator.report.n_cached == len(prompt) - 1
    other = ask(context, "What is the capital of France?")
    text = run(generator, other, max_tokens=20)
    assert 0 < generator.report.n_cached < len(other)
    generator.forget()
    assert run(generator, other, max_tokens=20) == text
    assert generator.report.n_cached == 0


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(
    generator: TextGenerator, context: Context
):
    text = run(generator, ask(context, "What is the capital of India?"), stop=("Del",))
    assert text.endswith("New ")
    assert generator.report is not None
    assert generator.report.finish_reason == "stop"


def test_text_is_the_same_with_and_without_a_stop_that_never_comes(
    generator: TextGenerator, context: Context
):
    prompt = ask(context, "Count to five.")
    assert run(generator, prompt) == run(generator, prompt, stop=("¶¶¶", "five hundred"))


def test_hindi_comes_in_whole_characters(generator: TextGenerator, context: Context):
    prompt = context.model.vocab.tokenize("भारत की राजधानी")
    options = GenerationOptions(max_tokens=60, sampling=GREEDY)
    parts = list(generator.generate(prompt, options))
    assert any(
        "\N{DEVANAGARI LETTER A}" <= char <= "\N{DEVANAGARI LETTER HA}" for char in "".join(parts)
    )
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts[:-1])


def test_the_same_seed_gives_the_same_text(generator: TextGenerator, context: Context):
    prompt = ask(context, "Tell me a story.")
    texts = [
        "".join(
            generator.generate(
                prompt, GenerationOptions(max_tokens=30, sampling=SamplingOptions(seed=seed))
            )
        )
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_full_context_ends_the_answer(loaded: Model):
    with Context(loaded, ContextOptions(n_ctx=256)) as context:
        generator = TextGenerator(context)
        prompt = ask(context, "Tell me a story.")
        options = GenerationOptions(sampling=GREEDY, ignore_end=True)
        assert "".join(generator.generate(prompt, options))
        assert generator.report is not None
        assert generator.report.finish_reason == "length"
        assert len(prompt) + generator.report.n_generated == context.n_ctx + 1
        generator.close()


@pytest.mark.parametrize("n", [256, 257, 5000])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_counts(loaded: Model, n: int):
    with Context(loaded, ContextOptions(n_ctx=256)) as context:
        generator = TextGenerator(context)
        with pytest.raises(ContextLengthError, match=f"{n} tokens, the context holds 256"):
            run(generator, [5] * n)
        assert run(generator, [5] * 255, max_tokens=1) is not None
        generator.close()


def test_an_empty_prompt_and_an_empty_stop_are_refused(generator: TextGenerator):
    with pytest.raises(UsageError, match="prompt is empty"):
        run(generator, [])
    with pytest.raises(UsageError, match="stop text is empty"):
        run(generator, [1], stop=("",))


def test_closing_the_iterator_ends_the_work_and_keeps_the_cache_right(
    generator: TextGenerator, context: Context
):
    prompt = ask(context, "What is the capital of India?")
    expected = run(generator, prompt)
    stream = generator.generate(prompt, GenerationOptions(sampling=GREEDY))
    next(stream)
    stream.close()
    assert generator.report is not None
    assert generator.report.finish_reason == "cancelled"
    assert run(generator, prompt) == expected


def test_an_interrupt_between_a_decode_and_its_note_breaks_nothing(
    generator: TextGenerator, context: Context
):
    prompt = ask(context, "What is the capital of India?")
    expected = run(generator, prompt)
    list(generator.generate(prompt, GenerationOptions(max_tokens=5, sampling=GREEDY)))
    generator._cached.pop()  # decoded, and interrupted before it was noted
    assert run(generator, prompt) == expected
    generator._cached.pop()
    assert run(generator, [*prompt, *generator._cached[len(prompt) :]], max_tokens=3)


def test_an_abort_from_another_thread_ends_a_long_prompt(loaded: Model):
    with Context(loaded, ContextOptions(n_ctx=8192, n_batch=512)) as context:
        generator = TextGenerator(context)
        threading.Timer(0.3, context.abort).start()
        start = time.monotonic()
        assert run(generator, [7] * 8000) == ""
        assert time.monotonic() - start < 3
        assert generator.report is not None
        assert generator.report.finish_reason == "cancelled"
        context.clear_abort()
        assert "New Delhi" in run(generator, ask(context, "What is the capital of India?"))
        generator.close()


@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_any_split_of_the_text_stops_at_the_same_place(text: str, stops: list[str], data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    matcher = StopMatcher(stops)
    shown, is_stopped = "", False
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        part, is_stopped = matcher.feed(text[start:end])
        shown += part
        if is_stopped:
            break
    shown += matcher.finish()
    # The earliest place where a stop text is complete decides; pieces may end later.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert is_stopped == bool(ends)
    if ends:
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
    else:
        assert shown == text
