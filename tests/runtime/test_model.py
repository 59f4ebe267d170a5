from pathlib import Path

import pytest

from llmedge.core import interrupts
from llmedge.core.errors import (
    IntegrityError,
    InterruptedByUser,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.handle import ClosedHandleError
from llmedge.runtime.library import library
from llmedge.runtime.model import LOAD_MODES, Model, ModelOptions
from tests.gguf.imatrix_files import write_imatrix
from tests.gguf_files import replace_value, write_tiny_model


def test_a_model_knows_itself(loaded: Model, smollm2: Path):
    assert loaded.path == smollm2
    assert loaded.header.architecture == "llama"
    assert (loaded.n_layers, loaded.n_ctx_train) == (30, 8192)
    assert loaded.n_params == loaded.header.n_weights == 134_515_008
    assert loaded.size_bytes == loaded.header.tensor_bytes
    assert "Q4_1" in loaded.description
    assert loaded.can_generate
    assert loaded.can_rewind


@pytest.mark.parametrize("mode", ["auto", "read", "mmap"])
def test_every_load_mode_loads_the_same_model(tiny_model: Path, mode: str):
    with Model.load(tiny_model, ModelOptions(load_mode=mode)) as model:
        assert model.n_params > 0


def test_load_modes_are_llama_cpps_numbers():
    lib = library()

    names = {"auto": "AUTO", "read": "NONE", "direct": "DIRECT_IO", "mmap+mlock": "MMAP_MLOCK"}
    for mode, number in LOAD_MODES.items():
        assert getattr(lib, f"LLAMA_LOAD_MODE_{names.get(mode, mode.upper())}") == number


def test_an_unknown_load_mode_is_refused(tiny_model: Path):
    with pytest.raises(UsageError, match="unknown load mode 'fast'"):
        Model.load(tiny_model, ModelOptions(load_mode="fast"))


def test_a_vocabulary_can_be_loaded_alone(smollm2: Path):
    with Model.load(smollm2, ModelOptions(vocab_only=True)) as model:
        assert model.vocab.n_tokens == 49152


def test_loading_reports_how_far_it_is_and_can_be_stopped(smollm2: Path):
    shares: list[float] = []

    def watch(share: float) -> bool:
        shares.append(share)
        return True

    with Model.load(smollm2, on_progress=watch):
        pass
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(UsageError, match="was stopped"):
        Model.load(smollm2, on_progress=lambda _: False)


def test_an_interrupt_while_loading_is_no_damage(smollm2: Path):
    shares: list[float] = []

    def interrupt(share: float) -> bool:
        shares.append(share)
        interrupts.deliver(InterruptedByUser("stopped by SIGINT"))
        return True

    with pytest.raises(InterruptedByUser):
        Model.load(smollm2, on_progress=interrupt)
    assert shares == [0.0]


def test_a_missing_file_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError):
        Model.load(tmp_path / "none.gguf")


def test_what_llama_cpp_refuses_is_quoted(tmp_path: Path):
    path = write_tiny_model(
        tmp_path / "strange.gguf", change=lambda w: replace_value(w, "general.architecture", "zzz")
    )
    with pytest.raises(
        IntegrityError, match=r"cannot load .*strange.gguf: unknown model arch.*'zzz'"
    ):
        Model.load(path)


def test_a_part_of_a_split_model_is_refused(tmp_path: Path):
    path = write_tiny_model(tmp_path / "part.gguf", change=lambda w: w.add_uint16("split.count", 3))
    with pytest.raises(UnsupportedError, match="one of 3 parts"):
        Model.load(path)


def test_an_importance_matrix_is_no_model(tmp_path: Path):
    path = write_imatrix(tmp_path / "i.gguf", {"output.weight": ([[1.0]], [1.0])})
    with pytest.raises(UnsupportedError, match=r"i\.gguf is an importance matrix") as caught:
        Model.load(path)
    assert "--imatrix" in caught.value.hint


def test_a_closed_model_is_an_error_and_not_a_crash(tiny_model: Path):
    model = Model.load(tiny_model)
    context = Context(model, ContextOptions(n_ctx=256))
    vocab = model.vocab
    model.close()
    model.close()
    assert context.is_closed
    for use in (
        lambda: model.n_params,
        lambda: model.description,
        lambda: vocab.n_tokens,
        lambda: vocab.tokenize("x"),
        lambda: vocab.piece(3),
        lambda: context.n_ctx,
        lambda: context.logits(),
        lambda: context.next_position(),
        lambda: Context(model),
    ):
        with pytest.raises((ClosedHandleError, Exception)) as caught:
            use()
        assert "closed" in str(caught.value) or "no logits" in str(caught.value)
