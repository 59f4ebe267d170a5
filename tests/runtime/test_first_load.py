import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.runtime import first_load
from llmedge.runtime.first_load import ensure_loads, remember
from tests.fakes import works_or_is_refused
from tests.gguf_files import replace_value, write_tiny_model


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note which files are tried."""
    tried: list[Path] = []
    original = first_load._try_in_child

    def watch(header):
        tried.append(header.path)
        original(header)

    monkeypatch.setattr(first_load, "_try_in_child", watch)
    return tried


def test_a_file_is_tried_once(tiny_copy: Path, state: Path, trials: list[Path]):
    assert ensure_loads(tiny_copy, state).path == tiny_copy
    ensure_loads(tiny_copy, state)
    assert trials == [tiny_copy]


def test_a_changed_file_is_tried_again(tiny_copy: Path, state: Path, trials: list[Path]):
    ensure_loads(tiny_copy, state)
    os.utime(tiny_copy, ns=(1, 1))
    ensure_loads(tiny_copy, state)
    assert len(trials) == 2


def test_what_llmedge_wrote_itself_is_not_tried(tiny_copy: Path, state: Path, trials: list[Path]):
    remember(tiny_copy, state)
    ensure_loads(tiny_copy, state)
    assert trials == []


def test_a_home_that_cannot_be_written_only_forgets(tiny_copy: Path, tmp_path: Path, trials):
    (tmp_path / "file").touch()
    for _ in range(2):
        ensure_loads(tiny_copy, tmp_path / "file" / "state")
    assert len(trials) == 2


def test_a_damaged_header_never_reaches_llama_cpp(tiny_copy: Path, state: Path, trials: list[Path]):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match="is damaged"):
        ensure_loads(tiny_copy, state)
    assert trials == []


def test_a_part_of_a_split_model_is_refused(tmp_path: Path, state: Path):
    path = write_tiny_model(tmp_path / "part.gguf", change=lambda w: w.add_uint16("split.count", 2))
    with pytest.raises(UnsupportedError, match="one of 2 parts"):
        ensure_loads(path, state)


def with_value(key: str, value: object) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: replace_value(writer, key, value)


# Sound headers that llama.cpp must not be trusted with: some it refuses, some end it by a signal.
HOSTILE: dict[str, Callable[[gguf.GGUFWriter], None]] = {
    "no heads": with_value("llama.attention.head_count", 0),
    "more key heads than heads": with_value("llama.attention.head_count_kv", 3),
    "a huge rope": with_value("llama.rope.dimension_count", 1 << 30),
    "an odd rope": with_value("llama.rope.dimension_count", 63),
    "many layers": with_value("llama.block_count", 1 << 20),
    "another architecture": with_value("general.architecture", "qwen2"),
    "an unknown tokenizer": with_value("tokenizer.ggml.model", "zzz"),
    "an end token that is not there": with_value("tokenizer.ggml.eos_token_id", 1 << 30),
    "no scores": lambda writer: writer.kv_data[0].pop("tokenizer.ggml.scores") and None,
    "a wide embedding": with_value("llama.embedding_length", 1 << 20),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_an_error_or_works_but_no_crash(what: str, tmp_path: Path, state: Path):
    path = write_tiny_model(tmp_path / "hostile.gguf", change=HOSTILE[what])
    with works_or_is_refused("hostile.gguf"):
        ensure_loads(path, state)


def test_a_crash_in_llama_cpp_is_an_integrity_error_with_its_last_words(
    tmp_path: Path, state: Path
):
    # Rows in double precision: the loader takes them, the first decode aborts the process.
    path = tmp_path / "crash.gguf"
    write_f64_model(path)
    with pytest.raises(IntegrityError, match="ended a trial process by SIGABRT") as caught:
        ensure_loads(path, state)
    assert "do not use it" in caught.value.hint
    assert not (state / "loads").exists()


def write_f64_model(path: Path) -> None:
    import tests.gguf_files as files

    original = files.add_weights

    def wide(writer: gguf.GGUFWriter, n_vocab: int, random: np.random.Generator) -> None:
        original(writer, n_vocab, random)
        tensor = writer.tensors[0]["token_embd.weight"]
        data = np.asarray(tensor.tensor, dtype=np.float64)
        tensor.tensor, tensor.dtype, tensor.nbytes = (
            data,
            gguf.GGMLQuantizationType.F64,
            data.nbytes,
        )

    files.add_weights = wide
    try:
        write_tiny_model(path)
    finally:
        files.add_weights = original


def test_a_model_that_computes_no_numbers_is_refused(tiny_model: Path, tmp_path: Path, state: Path):
    path = Path(shutil.copy(tiny_model, tmp_path / "nan.gguf"))
    reader = gguf.GGUFReader(path, "r+")
    output = next(tensor for tensor in reader.tensors if tensor.name == "output.weight")
    output.data[:] = np.nan
    reader.data.flush()  # type: ignore[attr-defined]
    with pytest.raises(IntegrityError, match="no finite numbers"):
        ensure_loads(path, state)


def test_a_load_that_hangs_is_ended(tiny_copy: Path, state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(first_load, "_SILENCE_S", -10.0 + 0.05)
    monkeypatch.setattr(first_load, "_SLOWEST_DISK_BYTES_PER_S", tiny_copy.stat().st_size / 10)
    with pytest.raises(IntegrityError, match="hung for 0 s"):
        ensure_loads(tiny_copy, state)
