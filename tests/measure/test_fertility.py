from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.settings import Settings
from llmedge.measure.corpus import Corpus, file_corpus, shipped_corpus, udhr_corpus
from llmedge.measure.fertility import count_fertility, model_fertility, newest_tg_rate
from llmedge.store.records import append_record


def letters(text: str) -> list[int]:
    return [ord(char) for char in text if not char.isspace()]


def bench_record(
    model: str, rates: list[float], file_bytes: int = 100, **changes: object
) -> dict[str, object]:
    return {
        "schema": "llmedge.bench/2",
        "model": model,
        "facts": {"file_bytes": file_bytes},
        "fingerprint": {"place": "host"},
        "n_depth": 0,
        "flags": [],
        "generation": {"n_tokens": 64, "samples": rates},
        **changes,
    }


def test_words_tokens_and_bytes_are_counted(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("One, two — three!\n\nयह ३ शब्द ।\n" * 5000, encoding="utf-8")
    found = count_fertility(file_corpus(path), letters)
    assert found is not None
    assert found.text == "text.txt"
    assert found.n_words == 5000 * 6  # neither the dash nor the danda
    assert found.n_tokens == 5000 * (4 + 3 + 1 + 6 + 2 + 1 + 4 + 1)
    assert found.n_bytes == path.stat().st_size
    assert found.tokens_per_word == pytest.approx(22 / 6)
    assert found.bytes_per_token == pytest.approx(found.n_bytes / found.n_tokens)


def test_a_language_is_counted_on_the_declaration_where_it_is_shipped():
    hindi, declared = (
        count_fertility(make("hi"), letters) for make in (shipped_corpus, udhr_corpus)
    )
    assert hindi == declared
    assert hindi is not None
    assert hindi.text == "udhr:hi"
    odia = count_fertility(shipped_corpus("or"), letters)
    assert odia is not None
    assert odia.text == "or"


def test_a_file_is_counted_on_itself_whatever_its_name(tmp_path: Path):
    path = tmp_path / "hi"
    path.write_text("three little words")
    found = count_fertility(file_corpus(path), letters)
    assert found is not None
    assert found.n_words == 3


def test_conversations_and_texts_without_words_have_none(tmp_path: Path):
    path = tmp_path / "marks.txt"
    path.write_text("... --- ...")
    assert count_fertility(shipped_corpus("chat"), letters) is None
    assert count_fertility(file_corpus(path), letters) is None


def test_a_models_vocabulary_spends_more_on_scripts_it_hardly_knows(smollm2: Path):
    english, tamil = shipped_corpus("en"), shipped_corpus("ta")
    found = model_fertility(smollm2, [english, tamil])
    assert 1.0 < found[english].tokens_per_word < 1.5  # type: ignore[union-attr]
    assert found[tamil].tokens_per_word > 10  # type: ignore[union-attr]


def test_no_text_is_counted_without_words_to_count(smollm2: Path):
    assert model_fertility(smollm2, []) == {}
    chat: Corpus = shipped_corpus("chat")
    assert model_fertility(smollm2, [chat]) == {chat: None}


def test_the_newest_record_of_this_very_file_counts(settings: Settings):
    assert newest_tg_rate(settings, "m:Q4_0", 100) is None
    append_record(settings, "bench", bench_record("m:Q4_0", [1.0]))
    append_record(settings, "bench", bench_record("m:Q4_0", [10.0, 20.0]))
    append_record(settings, "bench", bench_record("m:Q8_0", [2.0]))
    append_record(settings, "bench", bench_record("m:Q4_0", [3.0], file_bytes=101))
    append_record(settings, "bench", bench_record("m:Q4_0", [4.0], schema="llmedge.bench/1"))
    append_record(settings, "bench", bench_record("m:Q4_0", [5.0], flags=["contended"]))
    append_record(settings, "bench", bench_record("m:Q4_0", [6.0], n_depth=512))
    append_record(settings, "bench", bench_record("m:Q4_0", []))
    assert newest_tg_rate(settings, "m:Q4_0", 100) == 15.0
    assert newest_tg_rate(settings, "m:Q4_0", 101) == 3.0
    assert newest_tg_rate(replace(settings, home=Path("/nowhere")), "m:Q4_0", 100) is None
