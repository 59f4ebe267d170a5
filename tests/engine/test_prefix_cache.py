from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmedge.engine.prefix_cache import PrefixTrie, common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=12)
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "extend", "cut", "remove"]), TOKENS, st.integers(0, 99)),
    max_size=40,
)


def naive_common(left: list[int], right: list[int]) -> int:
    n = 0
    while n < min(len(left), len(right)) and left[n] == right[n]:
        n += 1
    return n


@given(left=TOKENS, right=TOKENS, offset=st.integers(0, 3))
def test_common_prefix_counts_equal_first_tokens(left: list[int], right: list[int], offset: int):
    assert common_prefix(left, [9] * offset + right, offset) == naive_common(left, right)


@given(steps=STEPS, query=TOKENS)
def test_the_trie_finds_what_comparing_with_everything_finds(
    steps: list[tuple[str, list[int], int]], query: list[int]
):
    trie = PrefixTrie[str, int]()
    model: dict[int, list[int]] = {}
    for number, (action, tokens, chosen) in enumerate(steps):
        value = sorted(model)[chosen % len(model)] if model else -1
        if action == "add" or not model:
            trie.add(number, "", tokens)
            model[number] = tokens
        elif action == "extend":
            trie.extend(value, tokens)
            model[value] = model[value] + tokens
        elif action == "cut":
            trie.cut(value, chosen % 5)
            model[value] = model[value][: chosen % 5]
        else:
            trie.remove(value)
            del model[value]
        trie.check_integrity()
        assert all(trie.length(one) == len(held) for one, held in model.items())
    found = list(trie.matches("", query))
    assert {value: n for n, value in found} == {
        value: naive_common(held, query) for value, held in model.items()
    }
    assert [n for n, _ in found] == sorted((n for n, _ in found), reverse=True)
    assert list(trie.matches("other", query)) == []
    for value, held in model.items():
        longer = {one for one, other in model.items() if other[: len(held)] == held} - {value}
        assert set(trie.others_below(value)) == longer


def test_an_empty_trie_keeps_nothing():
    trie = PrefixTrie[str, str]()
    trie.add("a", "key", [1, 2, 3])
    trie.add("b", "key", [1, 2, 4])
    trie.remove("a")
    trie.remove("b")
    assert len(trie) == 0
    assert trie._roots == {}
