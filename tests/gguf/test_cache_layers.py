from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import ResourceError
from llmedge.gguf.cache_layers import cache_layers
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import read_header
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.library import log_listener
from llmedge.runtime.model import Model
from tests.convert.cases import CASES
from tests.convert.parity import convert, make_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.convert.parity import Case

BUFFER = re.compile(r" (model|KV|RS) buffer size = +([\d.]+) MiB")
SETTINGS = [
    KvCacheOptions(256, n_ubatch=64),
    KvCacheOptions(2048),
    KvCacheOptions(1000, n_ubatch=128),
    KvCacheOptions(4096, n_ubatch=64),
    KvCacheOptions(8192, n_ubatch=512),
    KvCacheOptions(2048, "f32", "f32"),
    KvCacheOptions(2048, "bf16", "bf16"),
    KvCacheOptions(4096, "q8_0", "q8_0"),
    KvCacheOptions(4096, "q4_0", "q4_0", 128),
    KvCacheOptions(4096, n_seq_max=64),  # many states of the recurrent ones
]
CHECKED = list({(case.model_type, case.class_name): case for case in CASES}.values())


def logged_mib(model: Model, options: KvCacheOptions) -> float:
    text: list[str] = []
    asked = ContextOptions(
        n_ctx=options.n_ctx,
        n_batch=options.n_ubatch,
        n_ubatch=options.n_ubatch,
        n_seq_max=options.n_seq_max,
        type_k=options.type_k,
        type_v=options.type_v,
        n_threads=1,
    )
    with log_listener(lambda _, part: text.append(part)), Context(model, asked):
        pass
    return sum(float(size) for kind, size in BUFFER.findall("".join(text)) if kind != "model")


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.name)
def test_what_is_remembered_is_llama_cpps_own_figure(case: Case, tmp_path: Path):
    make_checkpoint(case, tmp_path / "checkpoint")
    path = convert(tmp_path / "checkpoint", tmp_path / "model.gguf")
    header = read_header(path)
    text: list[str] = []
    with log_listener(lambda _, part: text.append(part)):
        model = Model.load(path)
    with model:
        weights = sum(float(size) for kind, size in BUFFER.findall("".join(text)))
        assert header.tensor_bytes / 2**20 == pytest.approx(weights, rel=0.01, abs=0.02)
        for options in SETTINGS:
            try:
                logged = logged_mib(model, options)
            except ResourceError as error:
                assert "block size" in error.message  # noqa: PT017 - heads too small for this type
                continue
            ours = estimate_memory(header, options).kv_cache_bytes / 2**20
            assert ours == pytest.approx(logged, rel=0.01, abs=0.02), options


def test_layers_differ_in_what_they_remember(gemma3: Path):
    layers = cache_layers(read_header(gemma3))
    assert [layer.is_sliding for layer in layers[:6]] == [True] * 5 + [False]
    assert not any(layer.state_bytes for layer in layers)
