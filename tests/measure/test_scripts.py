import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import UsageError
from llmedge.measure.corpus import LANGUAGES
from llmedge.measure.scripts import (
    COMMON,
    SCRIPTS,
    find_scripts,
    script_of,
    script_share,
    scripts_of,
)
from llmedge.measure.sentences import read_sentences


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_written_in_its_script(language: str):
    shares = [
        script_share(sentence.text, scripts_of([language]))
        for sentence in read_sentences([language])
        if any(char.isalpha() for char in sentence.text)
    ]
    known = [share for share in shares if share is not None]
    # Loan words and names in Latin letters are part of how people write.
    assert sum(known) / len(known) > 0.9


def test_another_script_has_no_share():
    assert script_share("भारत की राजधानी", ("Tamil",)) == 0
    assert script_share("AC चालू करो", ("Devanagari",)) == pytest.approx(4 / 6)
    assert script_share("Привет, мир", ("Latin",)) == 0


@pytest.mark.parametrize(
    "text", ["", " \n", "1 + 2 = 3", "❤️🙂", "।॥", "…?!", "\N{REPLACEMENT CHARACTER}"]
)
def test_what_has_no_letters_has_no_share(text: str):
    assert script_share(text, ("Latin",)) is None


# What the names of a script's characters begin with; letters and vowel signs have no other.
NAMED = (
    *("Latin", "Devanagari", "Bengali", "Tamil", "Telugu", "Kannada", "Malayalam", "Gujarati"),
    *("Gurmukhi", "Oriya", "Arabic", "Greek", "Cyrillic", "Hiragana", "Katakana", "Hangul"),
    *("Thai", "Hebrew", "Georgian", "Armenian"),
)


def test_every_letter_has_the_script_of_its_name():
    # Letters that Unicode counts among the shared characters, whatever they are called.
    shared = {"ـ", "ー", "ｰ", "゠", "ﾞ", "ﾟ"}
    for script in NAMED:
        for code in range(0x20000):
            char = chr(code)
            is_letter = unicodedata.category(char) in ("Lu", "Ll", "Lo", "Mc")
            name = unicodedata.name(char, "")
            if is_letter and name.startswith(f"{script.upper()} ") and char not in shared:
                assert script_of(char) == script, name


@pytest.mark.parametrize("char", "0 \n.,।॥-€₹🙂→́\u200d\u200c\ufe0f▁µ∑、")
def test_what_many_scripts_use_belongs_to_none(char: str):
    assert script_of(char) == COMMON


def test_what_is_not_assigned_belongs_to_none():
    assert {script_of(char) for char in "\ue000\U0002fffe\ud800"} == {COMMON}


def test_a_text_has_the_scripts_of_its_letters():
    assert find_scripts("नमस्ते, 5 kg आलू!") == {"Devanagari", "Latin"}
    assert find_scripts("漢字かなカナ한글") == {"Han", "Hiragana", "Katakana", "Hangul"}
    assert find_scripts("12:30 …") == frozenset()


@pytest.mark.parametrize(
    ("char", "script"),
    [
        ("\N{OLD ITALIC LETTER A}", "Old Italic"),
        ("\N{OLD CHINESE HOOK MARK}", "Han"),
        ("\N{HALFWIDTH KATAKANA LETTER A}", "Katakana"),
        ("\N{CIRCLED HANGUL KIYEOK}", "Hangul"),
        ("\N{COMBINING CYRILLIC LETTER BE}", "Cyrillic"),
        ("\N{MODIFIER LETTER GEORGIAN NAR}", "Georgian"),
        ("\N{NEW TAI LUE LETTER HIGH QA}", "New Tai Lue"),
        ("\N{TAI THAM LETTER HIGH KA}", "Tai Tham"),
        ("\N{CANADIAN SYLLABICS E}", "Canadian Aboriginal"),
        ("\N{EGYPTIAN HIEROGLYPH A001}", "Egyptian Hieroglyphs"),
        ("\N{KANGXI RADICAL ONE}", "Han"),
        ("\U00017000", "Tangut"),
    ],
)
def test_scripts_outside_the_table_have_unicodes_names(char: str, script: str):
    assert script_of(char) == script


def test_languages_have_scripts():
    assert scripts_of(["hi", "mr", "en"]) == {"Devanagari", "Latin"}
    assert scripts_of(["maths"]) == {"Latin", "Greek"}
    assert all(script_of(char) != COMMON for char in "aअঅஅఅಅഅઅਅଅاα")
    assert len(frozenset().union(*SCRIPTS.values())) == 12


def test_a_language_that_is_not_known_is_named():
    with pytest.raises(UsageError, match="'xx' are not known"):
        scripts_of(["hi", "xx"])
    with pytest.raises(UsageError, match="no language"):
        scripts_of([])


@given(st.text())
def test_a_share_is_a_share(text: str):
    share = script_share(text, ("Latin", "Devanagari"))
    assert share is None or 0 <= share <= 1
