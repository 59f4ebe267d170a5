import math
import struct
from pathlib import Path

import gguf
import pytest

from llmedge.core.errors import IntegrityError, LlmedgeError, NotFoundError, UnsupportedError
from llmedge.gguf.reader import Array, read_header
from tests import gguf_files as files
from tests.gguf_files import ARCHITECTURE, kv_array, kv_string, kv_u32, raw_header, tensor_info

F32, Q4_0, Q4_K = 0, 2, 12
ONE = tensor_info("a", [32], F32, 0)


def read(tmp_path: Path, data: bytes):
    path = tmp_path / "file.gguf"
    path.write_bytes(data)
    return read_header(path)


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(IntegrityError) as caught:
        read(tmp_path, data)
    assert caught.value.hint
    assert "file.gguf" in caught.value.message
    return caught.value.message


def test_a_real_models_header_is_what_the_package_gguf_reads(smollm2: Path):
    header, oracle = read_header(smollm2), gguf.GGUFReader(smollm2)
    assert header.version == 3
    assert header.data_offset == oracle.data_offset
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in oracle.tensors]
    for mine, theirs in zip(header.tensors, oracle.tensors, strict=True):
        assert list(mine.shape) == list(theirs.shape)
        assert mine.quant_type.name == theirs.tensor_type.name
        assert mine.n_bytes == theirs.n_bytes
        assert header.data_offset + mine.offset == theirs.data_offset
    own = {key for key in oracle.fields if not key.startswith("GGUF.")}
    assert set(header.metadata) == own
    assert header.text("general.name") == oracle.fields["general.name"].contents()
    assert header.hyperparameter("block_count") == 30


def test_real_bits_per_weight_count_every_tensor(smollm2: Path):
    header = read_header(smollm2)
    assert header.n_weights == 134_515_008
    assert header.bits_per_weight == pytest.approx(5.7437, abs=1e-4)
    assert header.tensor_bytes / 2**20 == pytest.approx(92.10, abs=0.005)


def test_long_arrays_are_hashed_and_not_kept(smollm2: Path):
    tokens = read_header(smollm2).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Array)
    assert (tokens.type_name, tokens.length, tokens.items) == ("str", 49152, ())
    assert read_header(smollm2).vocabulary_sha256() == tokens.sha256


def test_vocabularies_are_equal_when_their_hashes_are(
    smollm2: Path, smollm2_q4_0: Path, gemma3: Path
):
    hashes = [read_header(path).vocabulary_sha256() for path in (smollm2, smollm2_q4_0, gemma3)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_smallest_file_is_read(tmp_path: Path):
    header = read(tmp_path, raw_header(kv=[ARCHITECTURE]))
    assert (header.architecture, header.tensors, header.n_weights) == ("llama", (), 0)
    assert header.bits_per_weight == 0.0
    assert header.vocabulary_sha256() is None


def test_every_type_of_value_is_read(tmp_path: Path):
    scalars = [(0, "B", 7), (1, "b", -7), (2, "H", 7), (3, "h", -7), (4, "I", 7), (5, "i", -7)]
    scalars += [(10, "Q", 1 << 63), (11, "q", -7), (6, "f", 0.5), (12, "d", 0.25), (7, "?", True)]
    kv = [
        files.string(f"k{kind}") + struct.pack("<I" + code, kind, value)
        for kind, code, value in scalars
    ]
    kv.append(kv_array("list", 5, 3, struct.pack("<3i", 1, -2, 3)))
    kv.append(kv_array("words", 8, 2, files.string("नमस्ते") + files.string("x")))
    header = read(tmp_path, raw_header(kv=[ARCHITECTURE, *kv]))
    for kind, _, value in scalars:
        assert header.metadata[f"k{kind}"] == value
    numbers, words = header.metadata["list"], header.metadata["words"]
    assert isinstance(numbers, Array)
    assert isinstance(words, Array)
    assert (numbers.type_name, numbers.items) == ("i32", (1, -2, 3))
    assert words.items == ("नमस्ते", "x")


def test_values_of_another_type_are_not_mistaken(tmp_path: Path):
    bool_kv = files.string("b") + struct.pack("<I?", 7, True)
    header = read(tmp_path, raw_header(kv=[ARCHITECTURE, bool_kv, kv_u32("n", 3)]))
    assert (header.number("b"), header.text("n"), header.number("n")) == (None, None, 3)


def test_a_missing_file_is_not_found(tmp_path: Path):
    for path in (tmp_path / "nothing.gguf", tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(NotFoundError, match="not a file"):
            read_header(path)


@pytest.mark.parametrize(
    "data", [b"", b"G", b"GGUF", b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0" + bytes(8)]
)
def test_a_file_that_ends_in_its_front_is_truncated(tmp_path: Path, data: bytes):
    assert "truncated" in refusal(tmp_path, data)


def test_a_captive_portals_page_is_named(tmp_path: Path):
    assert "an HTML page" in refusal(tmp_path, b"<!DOCTYPE html><html>")
    assert "starts with b'PK" in refusal(tmp_path, b"PK\x03\x04 something else")


@pytest.mark.parametrize(
    ("version", "word"), [(1, "version 1"), (4, "version 4"), (0, "version 0")]
)
def test_other_versions_are_refused(tmp_path: Path, version: int, word: str):
    with pytest.raises(UnsupportedError, match=word):
        read(tmp_path, raw_header(version=version))


def test_a_big_endian_file_is_named(tmp_path: Path):
    with pytest.raises(UnsupportedError, match="big-endian"):
        read(tmp_path, b"GGUF" + struct.pack(">IQQ", 3, 1, 1))


@pytest.mark.parametrize(
    ("n_tensors", "n_kv"), [(1 << 63, 0), (0, 1 << 63), (1 << 40, 1 << 40), (9, 1)]
)
def test_counts_that_cannot_fit_are_refused_at_once(tmp_path: Path, n_tensors: int, n_kv: int):
    message = refusal(tmp_path, raw_header(kv=[ARCHITECTURE], n_tensors=n_tensors, n_kv=n_kv))
    assert "cannot fit" in message


WRONG_KV = {
    "a key that is doubled": [ARCHITECTURE, ARCHITECTURE],
    "the metadata key '' is empty": [ARCHITECTURE, kv_u32("", 1)],
    "the metadata key '\\x1b[0m'": [ARCHITECTURE, kv_u32("\x1b[0m", 1)],
    "unknown type 99": [ARCHITECTURE, files.string("x") + struct.pack("<I", 99) + bytes(8)],
    "unsupported type 9": [ARCHITECTURE, kv_array("x", 9, 1, bytes(24))],
    "unsupported type 77": [ARCHITECTURE, kv_array("x", 77, 1, bytes(24))],
    "more than the file has room for": [ARCHITECTURE, kv_array("x", 4, 1 << 20, bytes(8))],
    "more than any model needs": [ARCHITECTURE, kv_array("x", 4, 1 << 61, bytes(8))],
    "x has 4611686018427387904 items": [ARCHITECTURE, kv_array("x", 8, 1 << 62, bytes(8))],
    "x is 1073741824 bytes long": [
        ARCHITECTURE,
        kv_array("x", 8, 1, struct.pack("<Q", 1 << 30)),
        kv_u32("y", 1),
    ],
    "neither true nor false": [ARCHITECTURE, files.string("x") + struct.pack("<IB", 7, 2)],
    "not UTF-8": [ARCHITECTURE, kv_string("x", b"\xff\xfe")],
    "a metadata key is 70000 bytes long": [ARCHITECTURE, kv_string("k" * 70000, "v")],
    "does not say its architecture": [kv_u32("general.architecture", 3)],
    "alignment is 3": [ARCHITECTURE, kv_u32("general.alignment", 3)],
    "alignment is 0": [ARCHITECTURE, kv_u32("general.alignment", 0)],
    "alignment is 2147483648": [ARCHITECTURE, kv_u32("general.alignment", 1 << 31)],
    "alignment is 'x'": [ARCHITECTURE, kv_string("general.alignment", "x")],
}


@pytest.mark.parametrize("word", WRONG_KV)
def test_wrong_metadata_is_refused(tmp_path: Path, word: str):
    message = refusal(tmp_path, raw_header(kv=WRONG_KV[word]))
    assert word.removeprefix("a key that ") in message


WRONG_TENSORS = {
    "has 0 dimensions": [tensor_info("a", [], F32, 0)],
    "has 5 dimensions": [tensor_info("a", [1] * 5, F32, 0)],
    "unknown type 4": [tensor_info("a", [32], 4, 0)],
    "unknown type 1000": [tensor_info("a", [32], 1000, 0)],
    "impossible shape [0]": [tensor_info("a", [0], F32, 0)],
    "impossible shape": [tensor_info("a", [1 << 32, 1 << 32], F32, 0)],
    "no multiple of Q4_K's 256": [tensor_info("a", [32, 4], Q4_K, 0)],
    "starts at 32 instead of 0": [tensor_info("a", [32], F32, 32)],
    "starts at 0 instead of 128": [ONE, tensor_info("b", [32], F32, 0)],
    "same name": [ONE, tensor_info("a", [32], F32, 128)],
    "truncated: tensor b ends": [ONE, tensor_info("b", [1 << 20], F32, 128)],
    "a tensor's name is 64 bytes long": [tensor_info("n" * 64, [32], F32, 0)],
    "the tensor name 'a\\x00b'": [tensor_info("a\0b", [32], F32, 0)],
    "the tensor name 'a '": [tensor_info("a ", [32], F32, 0)],
    "the tensor name ''": [tensor_info("", [32], F32, 0)],
    "a tensor's name is not UTF-8": [tensor_info(b"\xff", [32], F32, 0)],
}


@pytest.mark.parametrize("word", WRONG_TENSORS)
def test_wrong_tensors_are_refused(tmp_path: Path, word: str):
    data = raw_header(kv=[ARCHITECTURE], tensors=WRONG_TENSORS[word], data=bytes(256))
    assert word in refusal(tmp_path, data)


def test_sizes_and_offsets_follow_the_alignment(tmp_path: Path):
    tensors = [tensor_info("a", [32, 3], Q4_0, 0), tensor_info("b", [2], F32, 64)]
    header = read(tmp_path, raw_header(kv=[ARCHITECTURE], tensors=tensors, data=bytes(72)))
    assert [tensor.n_bytes for tensor in header.tensors] == [54, 8]
    assert (header.tensor_bytes, header.n_weights) == (62, 98)
    refused = raw_header(kv=[ARCHITECTURE], tensors=tensors, data=bytes(71))
    assert "truncated" in refusal(tmp_path, refused)


def test_any_cut_of_a_real_file_is_refused(tiny_model: Path, tmp_path: Path):
    data = tiny_model.read_bytes()
    header_end = read_header(tiny_model).data_offset
    cuts = [
        *range(0, header_end, math.ceil(header_end / 150)),
        header_end,
        len(data) // 2,
        len(data) - 1,
    ]
    for cut in cuts:
        with pytest.raises(IntegrityError):
            read(tmp_path, data[:cut])


def test_reading_takes_memory_in_proportion_to_the_header(tmp_path: Path):
    import tracemalloc

    data = raw_header(kv=[ARCHITECTURE, kv_array("x", 8, 1 << 40, bytes(1 << 12))])
    tracemalloc.start()
    try:
        with pytest.raises(LlmedgeError):
            read(tmp_path, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
