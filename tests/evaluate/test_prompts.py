import unicodedata

import pytest

from llmedge.core.errors import UsageError
from llmedge.evaluate.prompts import read_prompts
from llmedge.measure.corpus import LANGUAGES
from llmedge.measure.scripts import script_share, scripts_of


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_eight_questions_with_answers_in_its_script(language: str):
    prompts = read_prompts(language)
    assert len({prompt.question for prompt in prompts}) == len(prompts) == 8
    for prompt in prompts:
        assert 1 <= len(prompt.references) <= 2
        for text in (prompt.question, *prompt.references):
            assert text == unicodedata.normalize("NFC", text).strip()
            share = script_share(text, scripts_of([language]))
            assert share is not None
            assert share > 0.95


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_are_one_or_two_short_sentences(language: str):
    for prompt in read_prompts(language):
        assert "?" in prompt.question or "؟" in prompt.question
        for reference in prompt.references:
            assert 10 < len(reference) < 130
            assert reference[-1] in ".।۔"
            assert reference not in prompt.question


def test_a_language_without_prompts_is_refused_with_those_that_have_some():
    with pytest.raises(UsageError, match="'xx'") as caught:
        read_prompts("xx")
    assert "hi-Latn" in caught.value.hint
