import pytest

from llmedge.core.errors import UsageError
from llmedge.serve.exchange import require_small
from llmedge.serve.requests import ignored_header


def test_only_names_that_are_safe_in_a_header_are_told():
    names = ["options.num_gpu", "a\r\nSet-Cookie: x", "ü", *(f"n{i}" for i in range(40))]
    (value,) = ignored_header(names).values()
    assert value.startswith("options.num_gpu, n0, ")
    assert value.endswith("n30, 11 more")
    assert ignored_header([]) == {}


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "x"]}, [[]] * 100, (1 << 64) - 1])
def test_a_small_value_is_small(value: object):
    require_small(value, "it")


def test_values_that_are_deep_large_or_of_huge_numbers_are_refused():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, [0] * 20_001, {"a": 1 << 64}, [-(1 << 63) - 1]):
        with pytest.raises(UsageError, match="it "):
            require_small(value, "it")
