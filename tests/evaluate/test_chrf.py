import pytest

from llmedge.core.errors import MissingExtraError
from llmedge.evaluate.chrf import score_chrf


def test_a_reference_word_for_word_is_100():
    chrf = score_chrf([" भारत की राजधानी नई दिल्ली है। "], [("भारत की राजधानी नई दिल्ली है।",)])
    assert chrf.score == 100
    assert "nc:6|nw:0" in chrf.signature


def test_an_answer_is_held_against_the_best_of_its_references():
    references = [("entirely other words", "New Delhi is it."), ("Twelve.",)]
    assert score_chrf(["New Delhi is it.", "Twelve."], references).score == 100
    swapped = [references[0][::-1], references[1]]
    assert score_chrf(["New Delhi is it.", "Twelve."], swapped).score == 100


def test_an_empty_answer_matches_nothing():
    assert score_chrf([""], [("New Delhi is it.",)]).score == 0


def test_a_nearer_answer_scores_more():
    reference = [("The capital of India is New Delhi.",)]
    near, far = (
        score_chrf([text], reference).score
        for text in ("India's capital is New Delhi.", "I like mangoes very much.")
    )
    assert 100 > near > 2 * far


def test_equal_letters_of_other_code_points_are_equal():
    # The letter with its dot in one character, and in two.
    assert score_chrf(["पढ़ना"], [("पढ़ना",)]).score == 100


def test_a_missing_extra_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        score_chrf(["a"], [("b",)])
    assert caught.value.hint == "pip install 'llmedge[quality]'"
