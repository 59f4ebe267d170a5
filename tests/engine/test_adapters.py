"""LoRA adapters through an engine's core: mixed in one kv cache, and never mixed up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.engine.core import EngineCore, open_core
from llmedge.engine.engine import AdapterInfo
from llmedge.engine.generation import Finished, Generation
from llmedge.engine.messages import Load, LoadLora
from tests.engine.test_core import load, request, run, text_of
from tests.gguf_files import write_merged_model, write_tiny_lora

LONG = "the same beginning of a prompt for all"
KINDS = ((), (("one", 1.0),), (("two", 1.0),), (("one", 1.0), ("two", -1.0)))
SEEDS = {"one": 1, "two": 2}


def with_loras(model: Path, *adapters: tuple[Path, float]) -> Load:
    plain = load(model)
    loras = tuple(LoadLora(bytes(path), scale) for path, scale in adapters)
    return Load(plain.path, "tiny", plain.model, plain.context, plain.scheduler, loras=loras)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_tiny_lora(folder / f"{name}.gguf", seed) for name, seed in SEEDS.items()]


@pytest.fixture
def core(tiny_model: Path, adapters: list[Path]) -> Iterator[EngineCore]:
    loading = with_loras(tiny_model, (adapters[0], 0.0), (adapters[1], 0.0))
    with open_core(loading, lambda _: True) as core:
        assert isinstance(core, EngineCore)
        yield core


def asked(kind: tuple[tuple[str, float], ...], **options: object) -> Generation:
    return request(LONG, adapters=kind, max_tokens=8, **options)


@pytest.fixture(scope="module")
def merged_texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What models say that have the adapters in their weights."""
    folder = tmp_path_factory.mktemp("merged")
    texts: list[str] = []
    for number, kind in enumerate(KINDS):
        pairs = [(SEEDS[name], scale) for name, scale in kind]
        path = write_merged_model(folder / f"{number}.gguf", *pairs)
        with open_core(load(path), lambda _: True) as core:
            assert isinstance(core, EngineCore)
            texts.append(text_of(run(core, request(LONG, max_tokens=8))[0]))
    return texts


def test_mixed_requests_say_what_merged_models_say(core: EngineCore, merged_texts: list[str]):
    assert len(set(merged_texts)) == len(KINDS)
    mixed = run(core, *(asked(kind) for kind in KINDS * 2))
    assert [text_of(answers) for answers in mixed] == merged_texts * 2
    alone = [text_of(run(core, asked(kind))[0]) for kind in KINDS]
    assert alone == merged_texts


def test_a_prefix_is_shared_with_the_same_adapters_and_scales_only(core: EngineCore):
    def n_cached(kind: tuple[tuple[str, float], ...]) -> int:
        (answers,) = run(core, asked(kind))
        assert isinstance(answers[-1], Finished)
        return answers[-1].report.n_cached

    assert n_cached(()) == 0
    assert n_cached((("one", 1.0),)) == 0
    assert n_cached((("one", 0.5),)) == 0
    assert n_cached((("one", 1.0), ("two", 1.0))) == 0
    assert n_cached((("two", 1.0), ("one", 1.0))) > 30  # the order says nothing
    assert n_cached((("one", 0.0),)) > 30  # none is none
    assert n_cached((("one", 1.0),)) > 30


def test_what_was_said_at_the_start_counts_unasked(
    tiny_model: Path, adapters: list[Path], merged_texts: list[str]
):
    loading = with_loras(tiny_model, (adapters[0], 1.0), (adapters[1], -1.0))
    with open_core(loading, lambda _: True) as core:
        assert isinstance(core, EngineCore)
        assert core.info.adapters == (AdapterInfo("one", 1.0), AdapterInfo("two", -1.0))
        texts = [text_of(run(core, asked(kind))[0]) for kind in ((), ((0, 1.0),))]  # type: ignore[arg-type]
        assert texts == [merged_texts[3], merged_texts[1]]


def test_an_adapter_that_cannot_be_added_ends_the_load(
    tiny_model: Path, adapters: list[Path], tmp_path: Path
):
    foreign = write_tiny_lora(tmp_path / "gemma.gguf", 1, architecture="gemma3")
    for path, error in ((foreign, IntegrityError), (tiny_model, UnsupportedError)):
        with pytest.raises(error):
            open_core(with_loras(tiny_model, (adapters[0], 1.0), (path, 1.0)), lambda _: True)
