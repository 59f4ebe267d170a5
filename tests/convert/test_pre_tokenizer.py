from __future__ import annotations

import pytest

from llmedge.convert.pre_tokenizer import (
    SEARCH_ORDER,
    TEKKEN,
    canonical_pattern,
    canonical_steps,
    match_steps,
)
from llmedge.convert.tokenizer_files import Pattern, Step
from tests.convert import checkpoints

LETTERS = Step("ByteLevel", use_regex=False)


def split(pattern: str, behavior: str = "Isolated", *, invert: bool = False) -> Step:
    return Step("Split", pattern=Pattern(regex=pattern), behavior=behavior, invert=invert)


def name_of(*steps: Step, ignore_merges: bool = False) -> str | None:
    found = match_steps(canonical_steps(steps), ignore_merges=ignore_merges)
    return found.name if found else None


def test_sequences_are_flat_and_steps_without_effect_fall_away():
    nested = Step("Sequence", pretokenizers=(Step("Sequence", pretokenizers=(LETTERS,)),))
    assert canonical_steps(nested.flat()) == ()
    assert name_of(*nested.flat(), split(checkpoints.QWEN2)) == "qwen2"


@pytest.mark.parametrize(
    "spelt",
    [
        checkpoints.CL100K,
        checkpoints.CL100K.replace(r"\r", "\r").replace(r"\n", "\n"),
        checkpoints.CL100K.replace("'s|'t|'re|'ve|'m|'ll|'d", "'s|'t|'re|'ve|'m|'d|'ll"),
        checkpoints.CL100K.replace(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        ),
    ],
)
def test_a_pattern_is_known_in_each_of_its_spellings(spelt: str):
    assert canonical_pattern(spelt) == canonical_pattern(checkpoints.CL100K)
    assert name_of(split(spelt), LETTERS) == "dbrx"
    assert name_of(split(spelt), LETTERS, ignore_merges=True) == "llama-bpe"


def test_keeping_what_matches_is_the_same_as_isolating_it():
    inverted = split(checkpoints.CL100K, "Removed", invert=True)
    assert name_of(inverted, LETTERS) == "dbrx"
    assert name_of(split(checkpoints.CL100K, "Removed"), LETTERS) is None


def test_the_pattern_inside_byte_level_is_gpt2s():
    assert name_of(Step("ByteLevel")) == "gpt-2"
    assert name_of(Step("Digits", individual_digits=True), Step("ByteLevel")) == "smollm"
    assert name_of(Step("Digits"), Step("ByteLevel")) is None


def test_patterns_with_marks_get_the_type_that_keeps_them():
    for pattern, usual in ((TEKKEN, "tekken"), (checkpoints.O200K, "gpt-4o")):
        found = match_steps(canonical_steps((split(pattern), LETTERS)))
        assert found is not None
        assert (found.name, found.compat) == ("granite-embed-multi-97m", usual)


def test_one_character_more_makes_it_unknown():
    assert name_of(split(checkpoints.CL100K + "|x"), LETTERS) is None


def test_the_search_tries_each_name_once():
    assert len(set(SEARCH_ORDER)) == len(SEARCH_ORDER)
