import re
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.gguf.memory import KvCacheOptions, estimate_memory, kv_type
from llmedge.gguf.reader import Header, read_header
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.library import log_listener
from llmedge.runtime.model import Model
from tests.gguf_files import replace_value, write_tiny_model

BUFFER = re.compile(r"(\w+) (model|KV) buffer size = +([\d.]+) MiB")
CASES = [
    (256, "f16", 512),
    (2048, "f16", 512),
    (1000, "q8_0", 128),
    (4096, "q4_0", 512),
    (2048, "f32", 64),
]


def logged_mib(path: Path, options: ContextOptions) -> tuple[float, float]:
    """Load a model and return llama.cpp's own lines: weights as mapped, kv cache."""
    text: list[str] = []
    with log_listener(lambda _, part: text.append(part)), Model.load(path) as model:
        Context(model, options)
    weights = kv = 0.0
    for buffer, kind, size in BUFFER.findall("".join(text)):
        if kind == "KV":
            kv += float(size)
        elif "Mapped" in buffer:
            weights += float(size)
    return weights, kv


@pytest.mark.parametrize(("n_ctx", "kind", "n_ubatch"), CASES)
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_weights_and_kv_cache_are_llama_cpps_own_lines(
    name: str, n_ctx: int, kind: str, n_ubatch: int, request: pytest.FixtureRequest
):
    path: Path = request.getfixturevalue(name)
    options = ContextOptions(
        n_ctx=n_ctx, n_batch=n_ubatch, n_ubatch=n_ubatch, type_k=kind, type_v=kind
    )
    weights, kv = logged_mib(path, options)
    memory = estimate_memory(read_header(path), KvCacheOptions(n_ctx, kind, kind, n_ubatch))
    assert memory.weights_bytes / 2**20 == pytest.approx(weights, abs=0.006)
    assert memory.kv_cache_bytes / 2**20 == pytest.approx(kv, abs=0.011)


def test_several_sequences_share_a_wider_window(gemma3: Path):
    options = ContextOptions(n_ctx=8192, n_seq_max=4)
    _, kv = logged_mib(gemma3, options)
    memory = estimate_memory(read_header(gemma3), KvCacheOptions(8192, n_seq_max=4))
    assert memory.kv_cache_bytes / 2**20 == pytest.approx(kv, abs=0.011)


def test_the_sum_is_the_sum(smollm2: Path):
    memory = estimate_memory(read_header(smollm2), KvCacheOptions(2048))
    assert memory.kv_cache_bytes == 45 << 20
    assert memory.total_bytes == memory.weights_bytes + memory.kv_cache_bytes


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_more_context_never_takes_less(smollm2: Path, a: int, b: int):
    header = _cached(smollm2)
    small, large = sorted((a, b))
    less = estimate_memory(header, KvCacheOptions(small))
    more = estimate_memory(header, KvCacheOptions(large))
    assert less.kv_cache_bytes <= more.kv_cache_bytes
    assert less.n_ctx % 256 == 0
    assert small <= less.n_ctx < small + 256


_headers: dict[Path, Header] = {}


def _cached(path: Path) -> Header:
    return _headers.setdefault(path, read_header(path))


def changed(tmp_path: Path, change: Callable[[gguf.GGUFWriter], None]) -> Header:
    return read_header(write_tiny_model(tmp_path / "changed.gguf", change=change))


def test_an_architecture_that_is_not_modelled_is_refused_and_not_guessed(tmp_path: Path):
    header = changed(tmp_path, lambda w: replace_value(w, "general.architecture", "rwkv7"))
    with pytest.raises(UnsupportedError, match="'rwkv7' is not modelled"):
        estimate_memory(header, KvCacheOptions(512))


def test_heads_may_differ_from_layer_to_layer(tmp_path: Path):
    def change(writer: gguf.GGUFWriter) -> None:
        del writer.kv_data[0]["llama.attention.head_count_kv"]
        writer.add_array("llama.attention.head_count_kv", [2])

    header = changed(tmp_path, change)
    assert estimate_memory(header, KvCacheOptions(256)).kv_cache_bytes == 256 * 2 * 64 * 2 * 2


def test_a_list_of_heads_of_the_wrong_length_is_damage(tmp_path: Path):
    def change(writer: gguf.GGUFWriter) -> None:
        del writer.kv_data[0]["llama.attention.head_count_kv"]
        writer.add_array("llama.attention.head_count_kv", [2, 2, 2])

    with pytest.raises(IntegrityError, match="3 of 1 layers"):
        estimate_memory(changed(tmp_path, change), KvCacheOptions(256))


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "attention.head_count_kv"])
def test_a_hyperparameter_of_zero_is_damage(tmp_path: Path, key: str):
    header = changed(tmp_path, lambda w: replace_value(w, f"llama.{key}", 0))
    with pytest.raises(IntegrityError, match=f"no usable llama.{key}"):
        estimate_memory(header, KvCacheOptions(256))


def test_an_absurd_number_of_layers_is_damage(tmp_path: Path):
    header = changed(tmp_path, lambda w: replace_value(w, "llama.block_count", 1 << 31))
    with pytest.raises(IntegrityError, match="claims 2147483648 layers"):
        estimate_memory(header, KvCacheOptions(256))


def test_a_window_pattern_in_the_file_wins(tmp_path: Path):
    def change(writer: gguf.GGUFWriter) -> None:
        for key in list(writer.kv_data[0]):
            if key.startswith("llama."):
                writer.kv_data[0][key.replace("llama.", "gemma3.")] = writer.kv_data[0].pop(key)
        replace_value(writer, "general.architecture", "gemma3")
        writer.add_uint32("gemma3.attention.sliding_window", 128)
        writer.add_uint32("gemma3.attention.sliding_window_pattern", 1)

    full = estimate_memory(changed(tmp_path, change), KvCacheOptions(4096, n_ubatch=128))
    assert full.kv_cache_bytes == 4096 * 2 * 64 * 2 * 2


def test_unknown_kv_types_are_refused():
    with pytest.raises(UsageError, match="'q3_k'"):
        kv_type("q3_k")
    assert kv_type("q8_0").name == "Q8_0"


def test_heads_that_do_not_fit_a_block_need_f16(tmp_path: Path):
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_uint32("llama.attention.key_length", 9)

    with pytest.raises(UnsupportedError, match="18 key"):
        estimate_memory(changed(tmp_path, change), KvCacheOptions(256, "q8_0", "q8_0"))
