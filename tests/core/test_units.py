import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import UsageError
from llmedge.core.units import format_mb, format_mib, format_seconds, parse_bytes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1.9GB", 1_900_000_000),
        ("3GiB", 3 << 30),
        ("500k", 500_000),
        ("500 kB", 500_000),
        ("256MiB", 256 << 20),
        ("1.5 KiB", 1536),
        ("2tb", 2 * 10**12),
        ("7b", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, n_bytes: int):
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "1.GB", "1e9", "1,5GB", "3 apples", "٣GB", "0x10"]
)
def test_what_is_no_size_is_refused_with_the_text(text: str):
    with pytest.raises(UsageError, match="not a size") as caught:
        parse_bytes(text)
    assert repr(text) in caught.value.message
    assert "GiB" in caught.value.hint


@given(st.integers(min_value=0, max_value=1 << 62))
def test_whole_bytes_are_exact(n_bytes: int):
    assert parse_bytes(str(n_bytes)) == n_bytes


@given(st.integers(min_value=0, max_value=1 << 30), st.sampled_from(["MiB", "GB", "kB"]))
def test_whole_units_are_exact(n: int, unit: str):
    factor = {"MiB": 1 << 20, "GB": 10**9, "kB": 1000}[unit]
    assert parse_bytes(f"{n}{unit}") == n * factor


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(500, "0.5 kB"), (91_726_912, "91.7 MB"), (1_928_000_000, "1.93 GB")]
)
def test_file_sizes_are_decimal(n_bytes: int, text: str):
    assert format_mb(n_bytes) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(47_185_920, "45.0 MiB"), (3 << 30, "3.00 GiB")])
def test_memory_is_binary(n_bytes: int, text: str):
    assert format_mib(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.40 s"), (12.34, "12.3 s"), (250, "4 min 10 s"), (7500, "2 h 05 min")],
)
def test_durations_are_short(seconds: float, text: str):
    assert format_seconds(seconds) == text
