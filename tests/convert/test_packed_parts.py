import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.convert.packed_parts import E4M3, E8M0, Latest, Ledger, codes
from llmedge.core.errors import IntegrityError, UnsupportedError
from tests.convert.stored import bfloat16, store


def test_every_e4m3_code_stands_for_what_torch_says():
    torch = pytest.importorskip("torch")
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(E4M3, every, equal_nan=True)
    assert np.array_equal(np.signbit(E4M3), np.signbit(every))


def test_every_e8m0_code_stands_for_what_torch_says():
    torch = pytest.importorskip("torch")
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e8m0fnu).float().numpy()
    assert np.array_equal(E8M0, every, equal_nan=True)
    assert E8M0.dtype == np.float32


@pytest.mark.parametrize("bits", [2, 4, 8])
@given(numbers=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5))
def test_codes_come_out_lowest_bits_first(bits: int, numbers: list[int]):
    expected = [
        number >> shift & (2**bits - 1) for number in numbers for shift in range(0, 32, bits)
    ]
    assert codes(np.array([numbers], np.uint32), bits).tolist() == [expected]


def test_codes_of_words_that_lie_apart_in_memory_are_the_same():
    words = np.arange(12, dtype=np.uint32).reshape(3, 4) * 0x01234567
    assert np.array_equal(codes(words.T, 4), codes(words.T.copy(), 4))


def test_each_type_is_read_as_the_numbers_it_holds(tmp_path: Path):
    values = np.array([[1.5, -2.0], [0.25, 448.0]], np.float32)
    tensors = {
        "F64": values.astype(np.float64),
        "F32": values,
        "F16": values.astype(np.float16),
        "BF16": bfloat16(values),
        "F8_E4M3": ("F8_E4M3", np.array([[0x3C, 0xC0], [0x28, 0x7E]], np.uint8)),
    }
    with store(tmp_path / "checkpoint", tensors) as source:
        for name in tensors:
            part = Ledger(source).take(name, (name,), (2, 2))
            assert part.all_floats().tolist() == values.tolist()
            assert part.floats(1, 2).tolist() == values[1:].tolist()


def test_exponents_are_read_as_powers_of_two_whether_or_not_their_type_says_so(tmp_path: Path):
    raw = np.array([[127, 130]], np.uint8)
    with store(tmp_path / "checkpoint", {"a": raw, "b": ("F8_E8M0", raw)}) as source:
        for name in "ab":
            part = Ledger(source).take(name, ("U8", "F8_E8M0"))
            assert part.all_floats().tolist() == [[1.0, 8.0]]


def test_a_tensor_taken_must_be_there_and_be_what_is_expected(tmp_path: Path):
    tensors = {"a": np.zeros((2, 3), np.float32)}
    with store(tmp_path / "checkpoint", tensors) as source:
        ledger = Ledger(source)
        with pytest.raises(IntegrityError, match="b is missing"):
            ledger.take("b", ("F32",))
        with pytest.raises(UnsupportedError, match="a is F32, not I32 or I64"):
            ledger.take("a", ("I32", "I64"))
        with pytest.raises(UnsupportedError, match=r"a has the shape \[2, 3\]; .* 3 axes"):
            ledger.take("a", ("F32",), (2, 3, None))
        with pytest.raises(IntegrityError, match=r"a has the shape \[2, 3\], not \[…, 4\]"):
            ledger.take("a", ("F32",), (None, 4))
        assert ledger.taken == set()
        ledger.take("a", ("F32",), (None, 3))
        assert ledger.taken == {"a"}


def test_what_was_loaded_serves_the_ranges_of_one_tensor_and_is_let_go_after_the_last():
    loads: list[str] = []

    def load(name: str) -> str:
        loads.append(name)
        return name.upper()

    latest: Latest[str] = Latest()
    for is_last in (False, False, True):
        assert latest.get("a", lambda: load("a"), is_last=is_last) == "A"
    assert loads == ["a"]
    assert latest.get("a", lambda: load("a"), is_last=False) == "A"
    assert latest.get("b", lambda: load("b"), is_last=False) == "B"
    assert latest.get("a", lambda: load("a"), is_last=False) == "A"
    assert loads == ["a", "a", "b", "a"]


def test_a_load_that_failed_is_tried_again():
    latest: Latest[int] = Latest()
    with pytest.raises(ZeroDivisionError):
        latest.get("a", lambda: 1 // 0, is_last=False)
    assert latest.get("a", lambda: 7, is_last=False) == 7


def test_threads_that_read_one_tensor_wait_for_one_load():
    loads: list[int] = []
    barrier = threading.Barrier(4)
    latest: Latest[int] = Latest()

    def read() -> None:
        barrier.wait()
        latest.get("a", lambda: loads.append(1) or 1, is_last=False)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [1]
