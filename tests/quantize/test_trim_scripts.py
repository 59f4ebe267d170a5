import unicodedata

import pytest

from llmedge.core.errors import UsageError
from llmedge.quantize.trim_scripts import COMMON, SCRIPTS, find_scripts, script_of, scripts_of

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
