from __future__ import annotations

from llmedge.engine.draft import PromptLookup


def test_what_followed_the_last_time_is_guessed():
    assert PromptLookup(4, 2).draft([1, 2, 3, 4, 5, 1, 2], 9) == [3, 4, 5, 1]


def test_the_latest_time_counts():
    assert PromptLookup(1, 2).draft([1, 2, 3, 1, 2, 4, 1, 2], 9) == [4]


def test_nothing_is_guessed_where_nothing_came_before():
    lookup = PromptLookup(4, 3)
    assert lookup.draft([1, 2], 9) == []
    assert lookup.draft([1, 2, 3, 4], 9) == []


def test_no_more_is_guessed_than_wanted():
    assert PromptLookup(8, 1).draft([1, 2, 3, 1], 2) == [2, 3]
    assert PromptLookup(8, 1).draft([1, 2, 3, 1], 0) == []


def test_growing_tokens_are_looked_at_once():
    lookup = PromptLookup(2, 1)
    tokens = [1, 2]
    for token in (3, 1):
        tokens.append(token)
        guess = lookup.draft(tokens, 9)
    assert guess == [2, 3]
