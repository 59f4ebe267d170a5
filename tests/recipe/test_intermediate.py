from pathlib import Path

import pytest

from llmedge.gguf.reader import read_header
from llmedge.quantize.job import QuantizeOptions
from llmedge.recipe.intermediate import checkpoint_model, converted
from tests.convert.tiny_llama import make_llama
from tests.fakes import RecordingProgress


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "Tiny Llama"
    make_llama(folder)
    return folder


def test_a_checkpoint_that_fits_is_converted_to_16_bits_and_the_file_removed(checkpoint, settings):
    said: list[str] = []
    options = QuantizeOptions(n_threads=1)
    with converted(
        checkpoint, options, settings, RecordingProgress(), said.append, is_kept=False
    ) as (path, can_requantize):
        assert read_header(path).architecture == "llama"
        assert path.name == f"{checkpoint_model(checkpoint)}-BF16.gguf"
        assert not can_requantize
    assert not path.exists()
    assert said == [f"converting {checkpoint} to BF16 first"]


def test_a_checkpoint_beyond_the_memory_is_converted_to_8_bits(
    checkpoint, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr("llmedge.recipe.intermediate.fits_memory", lambda _: False)
    said: list[str] = []
    options = QuantizeOptions(output=tmp_path / "kept", n_threads=1)
    with converted(
        checkpoint, options, settings, RecordingProgress(), said.append, is_kept=True
    ) as (path, can_requantize):
        assert can_requantize
    assert path.parent == tmp_path / "kept"
    assert path.name.endswith("-Q8_0.gguf")
