"""Damaged headers, many of them, through the reader in this process, with a fixed budget."""

import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmedge.core.errors import LlmedgeError
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import read_header
from tests.fakes import works_or_is_refused

N_FILES = 200
ABSURD = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def mutations(data: bytes, header_end: int, n: int) -> Iterator[bytes]:
    """Yield damaged copies: cuts, flipped bits, absurd numbers, moved and repeated parts."""
    source = random.Random(20261123)
    for number in range(n):
        kind = number % 5
        copy = bytearray(data)
        at = source.randrange(header_end)
        if kind == 0:
            copy = copy[: source.randrange(len(data))]
        elif kind == 1:
            for _ in range(source.randint(1, 8)):
                copy[source.randrange(header_end)] ^= 1 << source.randrange(8)
        elif kind == 2:
            value = struct.pack("<Q", source.choice(ABSURD))
            copy[at : at + 8] = value
        elif kind == 3:
            width = source.randint(1, 64)
            copy[at : at + width] = source.randbytes(width)
        else:
            width = source.randint(1, 256)
            other = source.randrange(header_end)
            copy[at:at] = copy[other : other + width]
        yield bytes(copy)


def use(path: Path) -> None:
    header = read_header(path)
    assert header.tensor_bytes <= header.file_bytes
    memory = estimate_memory(header, KvCacheOptions(n_ctx=4096))
    assert memory.weights_bytes <= header.file_bytes


def test_two_hundred_damaged_files_each_end_in_an_error_of_ours_or_work(
    tiny_model: Path, tmp_path: Path
):
    data = tiny_model.read_bytes()
    header_end = read_header(tiny_model).data_offset
    path = tmp_path / "damaged.gguf"
    refused = 0
    for damaged in mutations(data, header_end, N_FILES):
        path.write_bytes(damaged)
        del damaged
        tracemalloc.start()
        refused += 1
        try:
            with works_or_is_refused():
                use(path)
                refused -= 1
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 10 * len(data)
    assert N_FILES // 2 < refused < N_FILES


@given(st.binary(max_size=512))
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_bytes_behind_the_magic_end_in_an_error_of_ours(tmp_path_factory, tail: bytes):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + tail)
    with pytest.raises(LlmedgeError):
        use(path)


@given(st.data())
@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_eight_bytes_anywhere_in_the_header(tiny_model: Path, tmp_path_factory, data):
    original = tiny_model.read_bytes()
    at = data.draw(st.integers(0, read_header(tiny_model).data_offset - 8))
    value = data.draw(st.sampled_from(ABSURD) | st.integers(0, (1 << 64) - 1))
    path = tmp_path_factory.getbasetemp() / "eight.gguf"
    path.write_bytes(original[:at] + struct.pack("<Q", value) + original[at + 8 :])
    with works_or_is_refused():
        use(path)
