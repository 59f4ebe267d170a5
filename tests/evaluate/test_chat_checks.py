from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.core.settings import Settings
from llmedge.evaluate.chat_checks import Answer, ChatCheckOptions, ChatChecks, check_chat
from llmedge.store.records import read_records
from tests.fakes import RecordingProgress

SHORT = ChatCheckOptions(max_tokens=12)
GOOD = Answer("?", "नमस्ते", 1.0, n_replacements=0, is_cut=False, is_repeating=False, is_echo=False)


def ask(path: Path, options: ChatCheckOptions, settings: Settings) -> list[ChatChecks]:
    return check_chat([path], options, settings, RecordingProgress())


@pytest.fixture(scope="module")
def english(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> ChatChecks:
    """SmolLM2's answers to the English questions."""
    from llmedge.core.settings import load_settings

    settings = load_settings({"LLMEDGE_HOME": str(tmp_path_factory.mktemp("chat"))})
    (result,) = ask(smollm2, ChatCheckOptions(max_tokens=32), settings)
    return result


def test_a_real_model_answers_english_in_english(english: ChatChecks):
    assert (english.language, len(english.answers)) == ("en", 8)
    assert english.script_share == 1
    assert english.n_invalid == english.n_empty == english.n_echoes == 0
    assert 20 < english.chrf.score < 60
    assert 30 < english.echo_chrf < 50
    assert "Karnataka" in english.answers[0].text


def test_answers_are_the_same_every_time(tiny_model: Path, settings: Settings):
    (first,), (again,) = (ask(tiny_model, SHORT, settings) for _ in range(2))
    assert again == first


def test_a_base_model_is_asked_in_plain_text(gemma3: Path, settings: Settings):
    with pytest.raises(UnsupportedError, match="no chat template") as caught:
        ask(gemma3, SHORT, settings)
    assert "--plain" in caught.value.hint
    options = ChatCheckOptions(languages=("hi",), max_tokens=24, plain=True)
    (result,) = ask(gemma3, options, settings)
    assert result.script_share > 0.7
    assert result.chrf.score > 25
    assert not any("\n" in answer.text for answer in result.answers)
    (record,) = read_records(settings, "chat")
    assert record["plain"] is True


def test_a_model_that_makes_noise_is_caught(tiny_model: Path, settings: Settings):
    # Random weights over bytes: no text, no end, no script.
    options = ChatCheckOptions(languages=("en", "ta"), max_tokens=40)
    progress = RecordingProgress()
    english, tamil = check_chat([tiny_model, tiny_model], options, settings, progress)
    assert (english.language, tamil.language) == ("en", "ta")
    assert progress.totals == {"tiny-F32: en": 8, "tiny-F32: ta": 8}
    for result in (english, tamil):
        assert result.n_cut == 8
        assert result.n_invalid + result.n_repeating > 0
        assert result.chrf.score < 15
    assert tamil.script_share < 0.5


def test_results_are_recorded_with_their_answers(tiny_model: Path, settings: Settings):
    (result,) = ask(tiny_model, SHORT, settings)
    (record,) = read_records(settings, "chat")
    assert record["schema"] == "llmedge.evaluate-chat/1"
    assert (record["model"], record["max_tokens"]) == ("tiny-F32", 12)
    answers = record["answers"]
    assert isinstance(answers, list)
    assert [answer["text"] for answer in answers] == [answer.text for answer in result.answers]


@pytest.mark.parametrize(
    ("change", "is_in_script", "is_empty"),
    [
        ({}, True, False),
        ({"letter_share": 0.9}, True, False),
        ({"letter_share": 0.89}, False, False),
        ({"text": "7", "letter_share": None}, True, False),
        ({"text": " \n", "letter_share": None}, False, True),
    ],
)
def test_an_answer_is_in_its_script_or_not(
    change: dict[str, object], is_in_script: bool, is_empty: bool
):
    answer = replace(GOOD, **change)  # type: ignore[arg-type]
    assert (answer.is_in_script, answer.is_empty) == (is_in_script, is_empty)


def test_a_limit_inside_a_character_is_not_the_models_doing(smollm2: Path, settings: Settings):
    # SmolLM2 has no Indic tokens: its characters are made of bytes, and most limits cut one.
    options = ChatCheckOptions(languages=("hi",), max_tokens=10)
    (result,) = ask(smollm2, options, settings)
    assert result.n_cut > 4
    assert result.n_invalid == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (ChatCheckOptions(languages=("xx",)), "'xx'"),
        (ChatCheckOptions(max_tokens=0), "0 tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tiny_model: Path, settings: Settings, options: ChatCheckOptions, word: str
):
    with pytest.raises(UsageError, match=word):
        ask(tiny_model, options, settings)


def test_a_damaged_variant_is_refused_before_anything_is_asked(
    tiny_model: Path, tiny_copy: Path, settings: Settings
):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        check_chat([tiny_model, tiny_copy], SHORT, settings, RecordingProgress())
    assert read_records(settings, "chat") == []
