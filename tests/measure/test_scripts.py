import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import UsageError
from llmedge.measure.corpus import LANGUAGES
from llmedge.measure.scripts import COMMON, SCRIPTS, script_of, script_share, scripts_of
from llmedge.measure.sentences import read_sentences


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_written_in_its_script(language: str):
    shares = [
        script_share(sentence.text, scripts_of(language))
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


@pytest.mark.parametrize(
    ("char", "script"),
    [
        *[("z", "Latin"), ("ß", "Latin"), ("Ａ", "Latin"), ("×", COMMON), ("क", "Devanagari")],
        *[("ि", COMMON), ("৯", COMMON), ("ਲ", "Gurmukhi"), ("ଓ", "Oriya"), ("ക", "Malayalam")],
        *[("ے", "Arabic"), ("ﷺ", "Arabic"), ("ж", "Cyrillic"), ("中", "Cjk"), ("\ud800", COMMON)],
    ],
)
def test_a_letter_has_one_script(char: str, script: str):
    assert script_of(char) == script


def test_every_script_of_a_language_has_letters():
    named = {name for names in SCRIPTS.values() for name in names}
    found = {script_of(chr(code)) for code in range(0x20, 0x2000)}
    assert named <= found


def test_the_names_of_letters_agree_with_the_table():
    for code in range(0x10000):
        char = chr(code)
        first = unicodedata.name(char, "").partition(" ")[0].title()
        if first in {name for names in SCRIPTS.values() for name in names}:
            assert script_of(char) in (first, COMMON), hex(code)


def test_an_unknown_language_is_refused():
    with pytest.raises(UsageError, match="'xx'"):
        scripts_of("xx")


@given(st.text())
def test_a_share_is_a_share(text: str):
    share = script_share(text, ("Latin", "Devanagari"))
    assert share is None or 0 <= share <= 1
