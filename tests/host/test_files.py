import ctypes
from pathlib import Path

from llmedge.host.files import append, flush, flush_folder
from llmedge.host.native import byte_test
from llmedge.host.process import has_program


def test_appending_keeps_what_was_there(tmp_path: Path):
    path = tmp_path / "lines"
    append(path, b"one\n")
    append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_flushing_changes_nothing(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    flush(path)
    flush_folder(tmp_path)
    assert path.read_bytes() == b"x"


def test_a_byte_is_tested_without_python():
    flag = ctypes.create_string_buffer(2)
    function = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
    test = ctypes.cast(byte_test(), function)
    assert test(ctypes.addressof(flag)) is False
    flag[0] = b"\x01"
    assert test(ctypes.addressof(flag)) is True


def test_programs_are_found_by_name():
    assert not has_program("no-such-program-anywhere")
