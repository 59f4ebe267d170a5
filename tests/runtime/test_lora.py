from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmedge.core.errors import IntegrityError, LlmedgeError, NotFoundError, UnsupportedError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.lora import Lora, LoraOptions, require_scale, set_loras, try_lora
from llmedge.runtime.model import Model
from tests.gguf_files import write_merged_model, write_tiny_lora

TOKENS = [1, 70, 71, 72, 73, 74]


@pytest.fixture
def model(tiny_model: Path) -> Iterator[Model]:
    with Model.load(tiny_model) as model:
        yield model


def logits(context: Context) -> np.ndarray:
    with Batch(8) as batch:
        context.clear()
        batch.fill(TOKENS, 0, n_logits=len(TOKENS))
        context.decode(batch)
        return context.logits().copy()


def test_adapters_are_added_as_if_they_were_merged_and_are_gone_again(model: Model, tmp_path: Path):
    first, second = (Lora.load(model, write_tiny_lora(tmp_path / f"{n}.gguf", n)) for n in (1, 2))
    merged = write_merged_model(tmp_path / "m.gguf", (1, 0.5), (2, -1.0))
    options = ContextOptions(n_ctx=64)
    with Context(model, options) as context, Model.load(merged) as other:
        plain = logits(context)
        set_loras(context, [(first, 0.5), (second, -1.0)])
        added = logits(context)
        with Context(other, options) as expected:
            assert np.allclose(added, logits(expected), atol=1e-2)
        assert np.abs(added - plain).max() > 0.5
        set_loras(context, [])
        assert np.allclose(logits(context), plain, atol=1e-5)
        try_lora(context, first)
        assert np.allclose(logits(context), plain, atol=1e-5)


def test_what_is_no_adapter_of_the_model_is_refused_with_its_reason(
    model: Model, tiny_model: Path, tmp_path: Path
):
    whole = write_tiny_lora(tmp_path / "whole.gguf", 1).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.gguf").write_text("no adapter")
    write_tiny_lora(tmp_path / "gemma.gguf", 1, architecture="gemma3")
    write_tiny_lora(tmp_path / "narrow.gguf", 1, n_in=64)
    wrong: list[tuple[Path, type[LlmedgeError], str]] = [
        (tmp_path / "missing.gguf", NotFoundError, "missing"),
        (tmp_path / "cut.gguf", IntegrityError, "cut"),
        (tmp_path / "text.gguf", IntegrityError, "text"),
        (tmp_path / "gemma.gguf", IntegrityError, "gemma3"),
        (tmp_path / "narrow.gguf", IntegrityError, "shape"),
        (tiny_model, UnsupportedError, "not a LoRA adapter"),
    ]
    for path, error, word in wrong:
        with pytest.raises(error, match=word):
            Lora.load(model, path)


def test_an_adapter_that_computes_no_numbers_is_met_at_once(model: Model, tmp_path: Path):
    path = write_tiny_lora(tmp_path / "nan.gguf", 1)
    data = bytearray(path.read_bytes())
    data[-4096:] = np.full(1024, np.nan, dtype=np.float32).tobytes()
    path.write_bytes(data)
    lora = Lora.load(model, path)
    options = ContextOptions(n_ctx=64)
    wrong = pytest.raises(IntegrityError, match="'nan' computes no finite")
    with Context(model, options) as context, wrong:
        try_lora(context, lora)


def test_an_adapter_closes_with_its_model_and_is_named_by_its_file(
    tiny_model: Path, tmp_path: Path
):
    path = write_tiny_lora(tmp_path / "hindi.gguf", 1)
    assert LoraOptions(path).name == "hindi"
    with Model.load(tiny_model) as model:
        lora = Lora.load(model, path)
        assert lora.name == "hindi"
    assert lora.is_closed
    lora.close()


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 101.0, -101.0])
def test_a_scale_that_cannot_be_meant_is_refused(scale: float):
    assert require_scale(-2.0, "x") == -2.0
    with pytest.raises(LlmedgeError, match="scale"):
        require_scale(scale, "x")
