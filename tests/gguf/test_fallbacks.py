from __future__ import annotations

from llmedge.gguf.fallbacks import Fallbacks, group_fallbacks


def test_fallbacks_are_grouped_with_their_first_example():
    tensors = [
        ("a", None, "Q4_K"),
        ("b", "Q4_K", "Q5_0"),
        ("c", "Q6_K", "Q8_0"),
        ("d", "Q4_K", "Q5_0"),
    ]
    assert group_fallbacks(tensors) == (
        Fallbacks("Q4_K", "Q5_0", 2, "b"),
        Fallbacks("Q6_K", "Q8_0", 1, "c"),
    )


def test_without_fallbacks_there_are_none():
    assert group_fallbacks([("a", None, "F32")]) == ()
