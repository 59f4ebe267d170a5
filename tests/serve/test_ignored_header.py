import pytest

from llmedge.serve.requests import ignored_header


@pytest.mark.parametrize(
    ("names", "header"),
    [
        ([], {}),
        (["a", "b_c"], {"X-Llmedge-Ignored": "a, b_c"}),
        (["a", "é", "b\r\nX: 1"], {"X-Llmedge-Ignored": "a, 2 more"}),
        (["", " "], {"X-Llmedge-Ignored": "2 more"}),
    ],
)
def test_only_safe_names_reach_the_header(names: list[str], header: dict[str, str]):
    assert ignored_header(names) == header


def test_the_header_stays_short_for_any_number_of_names():
    (value,) = ignored_header([f"n{i}" * 20 for i in range(10_000)]).values()
    assert len(value) < 4000
