import unicodedata
from collections import Counter
from importlib import resources

import pytest

from llmedge.core.errors import UsageError
from llmedge.measure.sentences import KINDS, Sentence, read_sentences

SCRIPTS = {
    "en": ("LATIN",),
    "hi": ("DEVANAGARI",),
    "hi-Latn": ("LATIN",),
    "mr": ("DEVANAGARI",),
    "bn": ("BENGALI",),
    "ta": ("TAMIL",),
    "te": ("TELUGU",),
    "kn": ("KANNADA",),
    "ml": ("MALAYALAM",),
    "gu": ("GUJARATI",),
    "pa": ("GURMUKHI",),
    "or": ("ORIYA",),
    "ur": ("ARABIC",),
    "th": ("THAI",),
    "ar": ("ARABIC",),
    "ru": ("CYRILLIC",),
    "zh": ("CJK",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ko": ("HANGUL",),
}
UNSPACED = {"th", "zh", "ja"}
# Letters and signs that tell a language from others in its script.
OWN_LETTERS = {"hi": "़।", "mr": "ळॲऱ", "ur": "ٹڈڑےںھ", "ar": "ةىأك", "zh": "的们这", "ja": "のをは"}
NATIVE_ZEROS = {
    "hi": "०",
    "mr": "०",
    "bn": "০",
    "ta": "௦",
    "te": "౦",
    "kn": "೦",
    "ml": "൦",
    "gu": "૦",
    "pa": "੦",
    "or": "୦",
    "ur": "۰",
    "th": "๐",
    "ar": "٠",
}


def texts(kind: str) -> list[str]:
    return [sentence.text for sentence in read_sentences([kind])]


def raw_file(kind: str) -> bytes:
    return (resources.files("llmedge.measure") / "sentences" / f"{kind}.txt").read_bytes()


def is_in_script(char: str, scripts: tuple[str, ...]) -> bool:
    return unicodedata.name(char, "").startswith(scripts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_forty_sentences_and_none_is_empty(kind: str):
    assert len(texts(kind)) >= 40
    assert all(texts(kind))


def test_every_natural_language_has_forty_four_sentences():
    assert min(len(texts(kind)) for kind in SCRIPTS) >= 44


def test_no_two_sentences_are_alike():
    counts = Counter(sentence.text for sentence in read_sentences())
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_language_is_written_in_its_own_script(kind: str):
    letters = [
        char for text in texts(kind) for char in text if unicodedata.category(char)[0] in "LM"
    ]
    own = sum(is_in_script(char, SCRIPTS[kind]) for char in letters)
    assert own >= 0.6 * len(letters)


@pytest.mark.parametrize("kind", OWN_LETTERS)
def test_languages_that_share_a_script_are_told_apart_by_their_letters(kind: str):
    assert set(OWN_LETTERS[kind]) <= set("".join(texts(kind)))


@pytest.mark.parametrize("kind", NATIVE_ZEROS)
def test_digits_are_both_native_and_ascii(kind: str):
    zero = ord(NATIVE_ZEROS[kind])
    digits = {ord(char) for text in texts(kind) for char in text if char.isdecimal()}
    assert digits & set(range(zero, zero + 10))
    assert digits & set(range(ord("0"), ord("9") + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_few_runs_of_five_words_come_twice(kind: str):
    runs: list[tuple[str, ...]] = []
    for text in texts(kind):
        # Two characters stand for a word where none are divided by spaces.
        words = [text[i : i + 2] for i in range(0, len(text), 2)]
        words = words if kind in UNSPACED else text.split()
        runs += [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    assert len(runs) > 20
    assert len(runs) - len(set(runs)) < 0.02 * len(runs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_utf8_in_lines_that_end_as_everywhere(kind: str):
    raw = raw_file(kind)
    text = raw.decode("utf-8")
    assert b"\r" not in raw
    assert text.endswith("\n")
    assert all(text.split("\n")[:-1])
    assert not any(line != line.strip() for line in text.splitlines()), "white space is escaped"


def test_all_files_together_stay_small():
    assert sum(len(raw_file(kind)) for kind in KINDS) < 250_000


def test_there_is_no_file_that_no_kind_names():
    folder = resources.files("llmedge.measure") / "sentences"
    assert {file.name for file in folder.iterdir()} == {f"{kind}.txt" for kind in KINDS}


def test_every_sentence_can_be_encoded():
    for sentence in read_sentences():
        assert sentence.text.encode("utf-8").decode("utf-8") == sentence.text


def test_escapes_are_decoded():
    whitespace = texts("whitespace")
    assert " one leading space" in whitespace
    assert "line one\nline two" in whitespace
    assert "tab\tbetween\twords" in whitespace
    assert "Windows line\r\nand another\r\n" in whitespace
    assert "東京\u3000大阪\u3000名古屋" in whitespace
    assert any('"""Return the sum."""\n    return' in text for text in texts("code"))
    assert any(r"\d{9}" in text for text in texts("code"))
    assert any("葛\U000e0100" in text for text in texts("combining"))


@pytest.mark.parametrize(
    ("kind", "rare"),
    [
        ("hi", "पितॄन्"),
        ("hi", "कॢप्त"),
        ("mr", "सुर्\u200dया"),
        ("bn", "র\u200d্যা"),
        ("te", "సాఫ్ట్\u200cవేర్"),
        ("kn", "ರ\u200d್ಯಾ"),
        ("ml", "അവന്\u200d"),
        ("ml", "അവൻ"),
        ("pa", "ੴ"),
        ("ta", "எஃகு"),
        ("or", "ଣ୍ଡ"),
        ("emoji", "👩🏾\u200d🌾"),
        ("emoji", "1\ufe0f\u20e3"),
        ("emoji", "🇮🇳"),
        ("numbers", "I'LL"),
        ("combining", "cafe\u0301"),
        ("combining", "\ufeff"),
    ],
)
def test_what_tokenizers_get_wrong_is_there(kind: str, rare: str):
    assert any(rare in text for text in texts(kind))


def test_kinds_come_in_the_order_asked_for():
    sentences = read_sentences(["ta", "en"])
    assert sentences[0].kind == "ta"
    assert sentences[-1].kind == "en"
    assert len(sentences) == len(texts("ta")) + len(texts("en"))
    assert read_sentences([]) == ()


def test_all_kinds_are_read_by_default():
    assert tuple(dict.fromkeys(sentence.kind for sentence in read_sentences())) == tuple(KINDS)


def test_a_sentence_is_a_value():
    assert Sentence("en", "No.") in read_sentences(["en"])


def test_an_unknown_kind_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError, match="'xx'") as caught:
        read_sentences(["en", "xx"])
    assert "hi-Latn" in caught.value.hint
