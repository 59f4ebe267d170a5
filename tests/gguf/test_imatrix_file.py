import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from llmedge.gguf import imatrix_file
from llmedge.gguf.imatrix_file import (
    Imatrix,
    ImatrixEntry,
    ImatrixSums,
    is_imatrix,
    merge,
    read_imatrix,
    read_sums,
)
from llmedge.gguf.reader import read_header
from tests.fakes import works_or_is_refused
from tests.gguf.imatrix_files import old_imatrix, write_imatrix

MATRIX = "blk.0.attn_q.weight"
EXPERTS = "blk.0.ffn_down_exps.weight"
ENTRIES = {
    MATRIX: ([[2.0, 4.0, 8.0, 0.0]], [2.0]),
    EXPERTS: ([[3.0, 6.0], [5.0, 7.0], [9.0, 9.0]], [3.0, 0.0, 1.4]),
}
OLD_ENTRIES = {MATRIX: (2, [2.0, 4.0, 8.0, 0.0]), EXPERTS: (0, [3.0, 6.0])}
OLD = old_imatrix(OLD_ENTRIES)
LITTLE = float(np.float32(0.01 * 7 / 4))  # of the mean, where nothing but zeros enters


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_imatrix(tmp_path / "imatrix.gguf", ENTRIES)


def old(folder: Path, data: bytes) -> Path:
    path = folder / "imatrix.dat"
    path.write_bytes(data)
    return path


def lists(imatrix: Imatrix) -> dict[str, list[list[float]]]:
    for weights in imatrix.weights.values():
        assert weights.dtype == np.float32
        assert weights.flags.c_contiguous
    return {name: weights.tolist() for name, weights in imatrix.weights.items()}


def test_the_sums_are_divided_by_what_each_expert_saw_and_an_unseen_one_has_ones(new: Path):
    imatrix = read_imatrix(new)
    assert lists(imatrix) == {
        MATRIX: [[1.0, 2.0, 4.0, LITTLE]],
        EXPERTS: [[1.0, 2.0], [1.0, 1.0], [9.0, 9.0]],
    }
    assert imatrix.unreached == {EXPERTS: (1,)}
    assert (imatrix.datasets, imatrix.n_chunks) == (("wiki.txt",), 12)


def test_the_old_format_is_divided_by_its_calls(tmp_path: Path):
    imatrix = read_imatrix(old(tmp_path, old_imatrix(OLD_ENTRIES)))
    assert lists(imatrix) == {MATRIX: [[1.0, 2.0, 4.0, LITTLE]], EXPERTS: [[3.0, 6.0]]}
    assert (imatrix.datasets, imatrix.n_chunks) == (("wiki.txt",), 12)


def test_the_oldest_files_end_after_the_entries(tmp_path: Path):
    imatrix = read_imatrix(old(tmp_path, old_imatrix(OLD_ENTRIES, tail=b"")))
    assert (imatrix.datasets, imatrix.n_chunks) == ((), 0)
    assert set(imatrix.weights) == set(OLD_ENTRIES)


def test_many_random_entries_come_back_to_the_bit(tmp_path: Path):
    random = np.random.default_rng(7)
    sums = {f"blk.{n}.ffn_up.weight": random.random((3, 40), dtype=np.float32) for n in range(9)}
    counts = random.integers(1, 5000, 3).tolist()
    path = write_imatrix(tmp_path / "i", {name: (rows, counts) for name, rows in sums.items()})
    for name, weights in read_imatrix(path).weights.items():
        assert (weights == sums[name] / np.array(counts, dtype=np.float32)[:, None]).all()
    entries = {name: (7, rows[0].tolist()) for name, rows in sums.items()}
    for name, weights in read_imatrix(old(tmp_path, old_imatrix(entries))).weights.items():
        assert (weights == sums[name][:1] / np.float32(7)).all()


def test_an_importance_matrix_has_a_header_like_any_gguf_file(new: Path):
    header = read_header(new)
    assert header.architecture == ""
    assert header.text("general.type") == "imatrix"


@pytest.mark.parametrize("kind", ["new", "old"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, kind: str):
    values = np.linspace(0, 1, 300, dtype=np.float32).tolist()
    names = [f"blk.{n}.attn_q.weight" for n in range(4)]
    if kind == "new":
        whole = write_imatrix(tmp_path / "whole", {name: ([values], [3]) for name in names})
        data = whole.read_bytes()
        end = read_header(whole).tensors[-1].offset + read_header(whole).data_offset + 4
    else:
        data = old_imatrix(dict.fromkeys(names, (3, values)))
        end = len(data)
    path = tmp_path / "damaged"
    path.write_bytes(data)
    read_imatrix(path)
    for length in (*range(0, end, 100), end - 1):
        path.write_bytes(data[:length])
        with pytest.raises(IntegrityError, match=re.escape(str(path))):
            read_imatrix(path)


def with_int(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + value.to_bytes(4, "little", signed=True) + data[at + 4 :]


def test_every_absurd_number_in_the_old_format_is_refused_before_memory_is_taken(tmp_path: Path):
    data = old_imatrix(OLD_ENTRIES)
    name_end = 8 + len(MATRIX)
    for at in (0, 4, name_end + 4):  # entries, length of the first name, number of its values
        for value in (-1, 0, 1 << 30, (1 << 31) - 1, -(1 << 31)):
            with pytest.raises(IntegrityError):
                read_imatrix(old(tmp_path, with_int(data, at, value)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"<!DOCTYPE html><html><head><title>404</title></head></html>", "no importance matrix"),
        (bytes(200), "no importance matrix"),
        (old_imatrix({"a\nb": (1, [1.0] * 4)}), "not plain text"),
        (old_imatrix({MATRIX: (1, [1.0, float("nan")] * 4)}), "not every weight of blk.0.attn_q"),
        (old_imatrix({MATRIX: (1, [1.0, -2.0])}), "a sum of squares of blk.0.attn_q.weight is -2"),
        (old_imatrix({MATRIX: (-3, [1.0, 2.0])}), "2 values of -3 calls"),
        (old_imatrix(OLD_ENTRIES) + b"more", "4 bytes after its end"),
        (with_int(old_imatrix(OLD_ENTRIES), 0, 3), "not plain text"),
        (old_imatrix({"a": (1, [1.0] * 4)}).replace(b"wiki", b"\xff\xff\xff\xff"), "not UTF-8"),
    ],
    ids=[
        "empty",
        "page",
        "zeros",
        "name",
        "nan",
        "negative",
        "calls",
        "longer",
        "fewer entries",
        "dataset",
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, data: bytes, why: str):
    with pytest.raises(IntegrityError, match=why) as caught:
        read_imatrix(old(tmp_path, data))
    assert "again" in caught.value.hint


@given(at=st.integers(0, len(OLD) - 4), value=st.binary(min_size=4, max_size=4))
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_four_bytes_anywhere_in_the_old_format(tmp_path_factory, at: int, value: bytes):
    path = tmp_path_factory.getbasetemp() / "four.dat"
    path.write_bytes(OLD[:at] + value + OLD[at + 4 :])
    with works_or_is_refused():
        assert read_imatrix(path).weights


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path):
    twice = old_imatrix({"a": (1, [1.0]), "b": (1, [1.0])}).replace(b"b", b"a")
    with pytest.raises(IntegrityError, match="a is there twice"):
        read_imatrix(old(tmp_path, twice))


def test_a_model_is_no_importance_matrix(tiny_model: Path):
    with pytest.raises(IntegrityError, match="a GGUF file, but no importance matrix"):
        read_imatrix(tiny_model)


@pytest.mark.parametrize(
    ("entries", "options", "why"),
    [
        (ENTRIES, {"datasets": None}, "does not say what it was computed on"),
        ({}, {}, "it has no entries"),
        ({MATRIX: ([[1.0, 2.0, 3.0]], [1.0, 1.0])}, {}, "3 sums for 2 counts"),
        ({MATRIX: ([[1.0, 2.0]], [float("inf")])}, {}, "2 sums for 1 counts"),
        ({MATRIX: ([[1.0, float("inf")]], [1.0])}, {}, "not every weight of blk.0.attn_q"),
        ({MATRIX: ([[1.0, -2.0]], [1.0])}, {}, "a sum of squares of blk.0.attn_q.weight is -2"),
        ({MATRIX: ([[1.0, 2.0]], [-3.0])}, {}, "was reached by -3 tokens"),
    ],
)
def test_a_gguf_file_that_contradicts_itself_is_refused(tmp_path: Path, entries, options, why: str):
    with pytest.raises(IntegrityError, match=why):
        read_imatrix(write_imatrix(tmp_path / "imatrix.gguf", entries, **options))


def test_sums_without_counts_are_refused(new: Path):
    new.write_bytes(new.read_bytes().replace(b"attn_q.weight.counts", b"attn_q.weight.Counts"))
    with pytest.raises(IntegrityError, match="counts is missing or not F32"):
        read_imatrix(new)


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match="cannot be read"):
        read_imatrix(tmp_path / "none.gguf")


# What llmedge writes itself.


def entry(sums: list[list[float]], counts: list[int]) -> ImatrixEntry:
    return ImatrixEntry(np.array(sums, np.float32), np.array(counts, np.int64))


def computed(entries: dict[str, ImatrixEntry], n_chunks: int = 3, name: str = "a") -> ImatrixSums:
    return ImatrixSums((name,), n_chunks, 512, entries)


ONE = {
    MATRIX: entry([[2.0, 4.0, 8.0, 0.0]], [1536]),
    EXPERTS: entry([[3.0, 6.0], [0.0, 0.0]], [1000, 0]),
}


def assert_equal(one: ImatrixSums, other: ImatrixSums) -> None:
    assert (one.datasets, one.n_chunks, one.chunk_tokens) == (
        other.datasets,
        other.n_chunks,
        other.chunk_tokens,
    )
    assert one.entries.keys() == other.entries.keys()
    for name, mine in one.entries.items():
        assert mine.sums.tolist() == other.entries[name].sums.tolist()
        assert mine.counts.tolist() == other.entries[name].counts.tolist()


def test_what_is_written_is_read_back_and_always_the_same_bytes(tmp_path: Path):
    imatrix_file.write_imatrix(tmp_path / "a.gguf", computed(ONE))
    assert_equal(read_sums(tmp_path / "a.gguf"), computed(ONE))
    imatrix_file.write_imatrix(tmp_path / "b.gguf", computed(dict(reversed(ONE.items()))))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_it_is_written_as_llama_cpp_writes_it(tmp_path: Path):
    path = tmp_path / "i.gguf"
    imatrix_file.write_imatrix(path, computed(ONE))
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["a"]
    for key, value in (("imatrix.chunk_count", 3), ("imatrix.chunk_size", 512)):
        field = reader.get_field(key)
        assert (field.contents(), field.types) == (value, [gguf.GGUFValueType.UINT32])
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors) == [
        f"{name}.{part}" for name in sorted(ONE) for part in ("in_sum2", "counts")
    ]
    assert tensors[f"{EXPERTS}.in_sum2"].shape.tolist() == [2, 2]
    assert tensors[f"{EXPERTS}.counts"].shape.tolist() == [1, 2]
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32"}


def test_a_tensor_name_that_does_not_fit_is_refused(tmp_path: Path):
    with pytest.raises(UnsupportedError, match="does not fit"):
        imatrix_file.write_imatrix(tmp_path / "i.gguf", computed({"x" * 60: ONE[MATRIX]}))


def test_the_sums_of_the_old_format_are_read_with_its_calls_as_counts(tmp_path: Path):
    sums = read_sums(old(tmp_path, OLD))
    assert sums.chunk_tokens == 0
    assert {name: entry.counts.tolist() for name, entry in sums.entries.items()} == {
        MATRIX: [2],
        EXPERTS: [1],  # none were said: what is there are means
    }


def test_merging_adds_sums_counts_and_chunks(tmp_path: Path):
    two = {
        MATRIX: entry([[1.0, 1.0, 1.0, 1.0]], [512]),
        EXPERTS: entry([[1.0, 0], [7.0, 7.0]], [2, 1]),
    }
    joined = merge([computed(ONE), computed(two, 1, "b"), computed(ONE)])
    assert_equal(
        joined,
        ImatrixSums(
            ("a", "b"),
            7,
            512,
            {
                MATRIX: entry([[5.0, 9.0, 17.0, 1.0]], [3584]),
                EXPERTS: entry([[7.0, 12.0], [7.0, 7.0]], [2002, 1]),
            },
        ),
    )


def test_merging_counts_chunks_of_the_first_ones_length():
    longer = ImatrixSums(("b",), 2, 1024, ONE)
    assert merge([computed(ONE), longer]).n_chunks == 3 + 4


def test_what_only_one_has_outside_the_layers_is_kept():
    output = {**ONE, "output.weight": entry([[1.0]], [3])}
    joined = merge([computed(ONE), computed(output)])
    assert joined.entries["output.weight"].sums.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({MATRIX: ONE[MATRIX]}, "only one of them has blk.0.ffn_down_exps.weight"),
        ({**ONE, MATRIX: entry([[1.0, 2.0]], [1])}, r"attn_q.weight is \(1, 4\) and \(1, 2\)"),
        ({**ONE, EXPERTS: entry([[1.0, 2, 3, 4]], [1])}, r"is \(2, 2\) and \(1, 4\)"),
    ],
)
def test_importance_matrices_of_different_models_are_not_merged(other, why: str):
    with pytest.raises(UsageError, match=f"1 and 2 are of different models: .*{why}"):
        merge([computed(ONE), computed(other)])


def test_the_old_format_is_not_merged_and_the_reason_is_said(tmp_path: Path):
    with pytest.raises(UsageError, match="matrix 2 of 2 does not say how many tokens it saw"):
        merge([computed(ONE), read_sums(old(tmp_path, OLD))])


def test_an_importance_matrix_is_told_from_a_model_and_from_anything_else(
    tmp_path: Path, new: Path, tiny_model: Path
):
    text = tmp_path / "text.txt"
    text.write_text("GGUF is a format")
    for path, is_one in ((new, True), (old(tmp_path, OLD), True), (tiny_model, False)):
        assert is_imatrix(path) == is_one
    assert not is_imatrix(text)
    assert not is_imatrix(tmp_path / "none.gguf")


def test_negative_chunks_are_refused(tmp_path: Path):
    path = tmp_path / "i.gguf"
    imatrix_file.write_imatrix(path, ImatrixSums(("a",), -1, 512, ONE))
    with pytest.raises(IntegrityError, match="-1 chunks of 512 tokens"):
        read_sums(path)


@given(at=st.integers(0, 800), value=st.binary(min_size=4, max_size=4))
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_four_bytes_anywhere_in_the_format_of_today(tmp_path_factory, at: int, value: bytes):
    path = tmp_path_factory.getbasetemp() / "four.gguf"
    imatrix_file.write_imatrix(path, computed(ONE))
    data = path.read_bytes()
    path.write_bytes(data[:at] + value + data[at + 4 :])
    with works_or_is_refused():
        assert read_sums(path).entries
        assert read_imatrix(path).weights


def test_a_matrix_that_only_zeros_entered_is_not_weighed(tmp_path: Path):
    entries = {MATRIX: ([[0.0, 0.0]], [9.0]), "output.weight": ([[5.0, 5.0]], [0.0])}
    imatrix = read_imatrix(write_imatrix(tmp_path / "i.gguf", entries))
    assert lists(imatrix) == {MATRIX: [[1.0, 1.0]], "output.weight": [[1.0, 1.0]]}
    assert imatrix.unreached == {MATRIX: (0,), "output.weight": (0,)}
