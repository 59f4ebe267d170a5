from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import gguf
import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.gguf.quant_types import BY_NAME
from llmedge.gguf.reader import Array, read_header
from llmedge.gguf.writer import (
    StringList,
    encode_header,
    encode_metadata,
    lay_out,
    padded_bytes,
)

if TYPE_CHECKING:
    from pathlib import Path

METADATA = {
    "general.architecture": "llama",
    "general.name": "नमस्ते",
    "a.small": 7,
    "a.negative": -1,
    "a.large": 1 << 40,
    "a.float": 0.5,
    "a.flag": True,
    "a.words": ["one", b"\xe0\xa4\x85", ""],
    "a.numbers": [1, -2, 3],
    "a.floats": [0.5, 1.5],
    "a.flags": [True, False],
}


def write(path: Path) -> Path:
    tensors = lay_out(
        [
            ("token_embd.weight", (64, 10), BY_NAME["Q8_0"]),
            ("output_norm.weight", (3,), BY_NAME["F32"]),
            ("blk.0.ffn_up_exps.weight", (32, 4, 2), BY_NAME["F16"]),
        ]
    )
    head = encode_header(encode_metadata(METADATA), tensors)
    bodies = (bytes([n + 1]) * padded_bytes(tensor) for n, tensor in enumerate(tensors))
    path.write_bytes(head + b"".join(bodies))
    return path


def test_our_reader_reads_what_is_written(tmp_path: Path):
    header = read_header(write(tmp_path / "m.gguf"))
    scalars = {key: value for key, value in METADATA.items() if not isinstance(value, list)}
    assert {key: header.metadata[key] for key in scalars} == scalars
    numbers = header.metadata["a.numbers"]
    assert isinstance(numbers, Array)
    assert (numbers.type_name, numbers.items) == ("i32", (1, -2, 3))
    assert [tensor.shape for tensor in header.tensors] == [(64, 10), (3,), (32, 4, 2)]
    assert header.data_offset % 32 == 0


def test_the_package_gguf_reads_what_is_written(tmp_path: Path):
    reader = gguf.GGUFReader(write(tmp_path / "m.gguf"))
    assert reader.fields["a.words"].contents() == ["one", "अ", ""]
    assert reader.fields["a.flags"].contents() == [True, False]
    assert reader.fields["a.large"].contents() == 1 << 40
    assert [int(tensor.data.view("u1").flat[0]) for tensor in reader.tensors] == [1, 2, 3]


@pytest.mark.parametrize(("name", "shape"), [("x" * 64, (32,)), ("x", (1, 1, 1, 1, 1)), ("x", ())])
def test_what_the_format_cannot_hold_is_refused(name: str, shape: tuple[int, ...]):
    with pytest.raises(UnsupportedError):
        lay_out([(name, shape, BY_NAME["F32"])])


def test_long_lists_are_written_as_short_ones_are():
    words = StringList()
    for word in ("one", b"\xe0\xa4\x85", ""):
        words.append(word)
    long = {"w": words, "i": array("i", [1, -2]), "f": array("f", [0.5])}
    short = {"w": ["one", "अ", ""], "i": [1, -2], "f": [0.5]}
    assert encode_metadata(long) == encode_metadata(short)


def test_bytes_are_written_as_u8(tmp_path: Path):
    path = tmp_path / "m.gguf"
    values = {"general.architecture": "llama", "a.bytes": array("B", [0, 255])}
    path.write_bytes(encode_header(encode_metadata(values), ()))
    value = read_header(path).metadata["a.bytes"]
    assert isinstance(value, Array)
    assert (value.type_name, value.items) == ("u8", (0, 255))
