from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmedge.convert import pipeline
from llmedge.convert.config import read_config
from llmedge.convert.model import plan_model
from llmedge.convert.pipeline import convert, open_checkpoint, plan
from llmedge.convert.report import ConversionReport, ConvertOptions
from llmedge.core.errors import (
    IntegrityError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.core.progress import SilentProgress
from llmedge.gguf.imatrix_file import read_imatrix
from llmedge.gguf.mixes import MIXES, find_mix
from llmedge.gguf.reader import Array, read_header
from llmedge.runtime.library import library
from llmedge.runtime.model import Model
from llmedge.runtime.quantizer import Quantizer, QuantizerOptions
from llmedge.store.manifest import hash_file, read_manifest
from tests.convert.parity import convert as convert_model
from tests.convert.tiny_llama import make_llama
from tests.gguf.imatrix_files import write_imatrix

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with rows that every type's blocks fit, in BF16."""
    folder = tmp_path_factory.mktemp("checkpoints") / "Tiny Llama"
    make_llama(folder, **WIDE)
    path = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- x\n---\n# Tiny\n")
    return folder


@pytest.fixture(autouse=True)
def tokenizers_are_converted_once(monkeypatch: pytest.MonkeyPatch):
    """Each folder's tokenizer takes a second or two; these tests are about all the rest."""
    monkeypatch.setattr(pipeline, "convert_tokenizer", _convert_tokenizer_once)


_convert_tokenizer_once = functools.cache(pipeline.convert_tokenizer)


@pytest.fixture(scope="module")
def imatrix(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    with open_checkpoint(checkpoint) as source:
        rows = plan_model(source, read_config(checkpoint)).rows
    weights = {
        name: (random.random((1, part.n_columns)) + 0.01, [1.0])
        for name, part in rows.items()
        if len(part.shape) == 2
    }
    return write_imatrix(tmp_path_factory.mktemp("imatrix") / "i.gguf", weights)


def run(checkpoint: Path, options: ConvertOptions, settings: Settings) -> ConversionReport:
    with open_checkpoint(checkpoint) as source:
        conversion = plan(checkpoint, source, options, settings)
        return convert(conversion, SilentProgress())


def tensor_bytes(path: Path) -> dict[str, tuple[str, bytes]]:
    header = read_header(path)
    data = path.read_bytes()
    return {
        tensor.name: (
            tensor.quant_type.name,
            data[header.data_offset + tensor.offset :][: tensor.n_bytes],
        )
        for tensor in header.tensors
    }


def test_a_variant_lands_in_the_store_with_its_sidecar(checkpoint: Path, settings: Settings):
    report = run(checkpoint, ConvertOptions(find_mix("Q8_0")), settings)
    assert report.path == settings.models_dir / "tiny-llama" / "tiny-llama-Q8_0.gguf"
    manifest = read_manifest(report.path)
    assert manifest is not None
    assert manifest.sha256 == hash_file(report.path) == report.sha256[0]
    assert (manifest.license, manifest.architecture) == ("apache-2.0", "llama")
    assert manifest.file_bytes == report.file_bytes == report.path.stat().st_size


def test_the_file_says_what_it_is(checkpoint: Path, settings: Settings, tmp_path: Path):
    path = run(checkpoint, ConvertOptions(find_mix("Q4_0"), tmp_path), settings).path
    header = read_header(path)
    assert header.text("general.name") == "Tiny Llama"
    assert header.text("general.license") == "apache-2.0"
    assert header.number("general.file_type") == find_mix("Q4_0").ftype
    assert header.number("general.quantization_version") == 2
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Array)
    assert tokens.length == 320
    with Model.load(path) as model:
        assert model.vocab.tokenize("<s>hello", parse_special=True)[0] == 1


# The quantizers for two bits and less search for seconds.
_SLOW = ("IQ1_S", "IQ1_M", "IQ2_S", "IQ2_M", "IQ2_XS", "IQ3_XXS", "IQ3_XS")


@pytest.fixture(scope="module")
def half(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_model(checkpoint, tmp_path_factory.mktemp("half") / "half.gguf", mix="BF16")


@pytest.mark.parametrize(
    "mix",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else [])
        for name in MIXES
        if name not in ("F32", "F16", "BF16")
    ],
)
def test_one_pass_writes_the_bytes_of_llama_model_quantize(
    mix: str, checkpoint: Path, half: Path, imatrix: Path, tmp_path: Path
):
    given = imatrix if MIXES[mix].imatrix != "none" else None
    weights = read_imatrix(given) if given else None
    ours = convert_model(checkpoint, tmp_path / "ours.gguf", mix=mix, imatrix=weights)
    theirs = tmp_path / "theirs.gguf"
    options = QuantizerOptions(find_mix(mix).ftype, n_threads=1, imatrix=given)
    with Quantizer(read_header(half), options) as quantizer:
        quantizer.plan()
        quantizer.run(theirs, lambda _: None)
    assert tensor_bytes(ours) == tensor_bytes(theirs)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("memory", ["least", "ample"])
def test_the_file_does_not_depend_on_threads_or_memory(
    n_threads: int, memory: str, checkpoint: Path, settings: Settings, tmp_path: Path
):
    reference = run(checkpoint, ConvertOptions(find_mix("Q4_K_M"), tmp_path), settings)
    options = ConvertOptions(
        find_mix("Q4_K_M"),
        tmp_path / "other.gguf",
        n_threads=n_threads,
        memory_bytes=(110 if memory == "least" else 1000) << 20,
    )
    assert run(checkpoint, options, settings).sha256 == reference.sha256


def test_a_plan_knows_the_size_to_the_byte_and_writes_nothing(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    options = ConvertOptions(find_mix("Q4_K_M"), tmp_path / "m.gguf")
    with open_checkpoint(checkpoint) as source:
        conversion = plan(checkpoint, source, options, settings)
        assert not list(tmp_path.iterdir()) or not (tmp_path / "m.gguf").exists()
        report = convert(conversion, SilentProgress())
    assert conversion.report.file_bytes == report.path.stat().st_size
    assert {share.quant_type for share in report.types} == {"F32", "Q4_K", "Q6_K"}


def test_parts_are_loaded_as_one_model(checkpoint: Path, settings: Settings, tmp_path: Path):
    options = ConvertOptions(find_mix("F16"), tmp_path / "m.gguf", split_bytes=1 << 20)
    report = run(checkpoint, options, settings)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) == report.n_parts > 1
    assert parts[0] == report.path
    assert sum(part.stat().st_size for part in parts) == report.file_bytes
    assert report.sha256 == tuple(hash_file(part) for part in parts)
    lib = library()
    model = lib.llama_model_load_from_file(str(parts[0]).encode(), lib.llama_model_default_params())
    assert model
    n_weights = sum(
        tensor.numel() for tensor in load_file(checkpoint / "model.safetensors").values()
    )
    assert lib.llama_model_n_params(model) == n_weights
    lib.llama_model_free(model)


def test_a_tensor_larger_than_a_part_is_an_error(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    with pytest.raises(UsageError, match="token_embd"):
        run(checkpoint, ConvertOptions(find_mix("F32"), tmp_path, split_bytes=1000), settings)


class _StopAt:
    """Progress that fails once a share of the bytes is written: a kill at that moment."""

    def __init__(self, n_bytes: float) -> None:
        self._n_bytes = n_bytes

    def task(self, description: str, *, total: float, unit: str) -> _StopAt:
        del description, total, unit
        return self

    def __enter__(self) -> _StopAt:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, completed: float, note: str = "") -> None:
        if completed >= self._n_bytes:
            raise KeyboardInterrupt(note)


@pytest.mark.parametrize("split", [None, 1 << 20])
def test_a_conversion_that_is_stopped_goes_on_and_ends_the_same(
    split: int | None, checkpoint: Path, settings: Settings, tmp_path: Path
):
    options = ConvertOptions(find_mix("F16"), tmp_path / "peace" / "m.gguf", split_bytes=split)
    peace = run(checkpoint, options, settings)
    options = replace(options, output=tmp_path / "war" / "m.gguf", overwrite=True)
    with open_checkpoint(checkpoint) as source:
        conversion = plan(checkpoint, source, options, settings)
        for share in (0.2, 0.5, 0.9):
            with pytest.raises(KeyboardInterrupt):
                convert(conversion, _StopAt(share * peace.file_bytes))
        report = convert(conversion, SilentProgress())
    assert report.n_resumed > 5
    assert report.sha256 == peace.sha256
    assert not [path for path in report.path.parent.iterdir() if path.name.startswith(".")]


def test_another_source_does_not_go_on_with_what_is_there(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    options = ConvertOptions(find_mix("F16"), tmp_path / "m.gguf")
    with open_checkpoint(checkpoint) as source, pytest.raises(KeyboardInterrupt):
        convert(plan(checkpoint, source, options, settings), _StopAt(1 << 20))
    other = tmp_path / "other"
    make_llama(other, **WIDE, rms_norm_eps=1e-3)
    assert run(other, options, settings).n_resumed == 0


def stop_half_way(checkpoint: Path, target: Path, settings: Settings) -> ConvertOptions:
    options = ConvertOptions(find_mix("F16"), target)
    with open_checkpoint(checkpoint) as source, pytest.raises(KeyboardInterrupt):
        convert(plan(checkpoint, source, options, settings), _StopAt(1 << 20))
    return options


def test_other_weights_under_the_same_header_start_anew(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    copy = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, copy)
    options = stop_half_way(copy, tmp_path / "m.gguf", settings)
    tensors = load_file(copy / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, copy / "model.safetensors")
    report = run(copy, options, settings)
    assert report.n_resumed == 0
    assert report.sha256 == run(copy, replace(options, output=tmp_path / "x.gguf"), settings).sha256


def test_a_setting_that_changes_only_weights_starts_anew(settings: Settings, tmp_path: Path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    folder = tmp_path / "tiny"
    make_llama(folder, **WIDE, rope_parameters=rope)
    options = stop_half_way(folder, tmp_path / "m.gguf", settings)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["factor"] = 32.0
    (folder / "config.json").write_text(json.dumps(config))
    assert run(folder, options, settings).n_resumed == 0


def test_what_is_there_is_replaced_only_on_demand(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    options = ConvertOptions(find_mix("Q8_0"), tmp_path / "m.gguf")
    run(checkpoint, options, settings)
    with pytest.raises(UsageError, match="exists"):
        run(checkpoint, options, settings)
    run(checkpoint, replace(options, overwrite=True), settings)


def test_an_output_that_is_no_gguf_is_refused(checkpoint: Path, settings: Settings, tmp_path: Path):
    with pytest.raises(UsageError, match=r"\.gguf"):
        run(checkpoint, ConvertOptions(find_mix("Q8_0"), tmp_path / "model.bin"), settings)


def test_a_mix_that_needs_an_imatrix_is_refused_without(checkpoint: Path, settings: Settings):
    with pytest.raises(UnsupportedError, match="importance matrix"):
        run(checkpoint, ConvertOptions(find_mix("IQ2_XXS")), settings)


def test_an_imatrix_of_another_model_is_refused(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    weights = {"blk.0.attn_q.weight": (np.ones((1, 128)), [1.0])}
    other = write_imatrix(tmp_path / "other.gguf", weights)
    with pytest.raises(IntegrityError, match="128 columns"):
        run(checkpoint, ConvertOptions(find_mix("Q4_K_M"), imatrix=other), settings)


def test_the_file_says_which_imatrix_it_was_made_with(
    checkpoint: Path, imatrix: Path, settings: Settings, tmp_path: Path
):
    options = ConvertOptions(find_mix("Q4_K_M"), tmp_path, imatrix=imatrix)
    report = run(checkpoint, options, settings)
    header = read_header(report.path)
    assert header.text("quantize.imatrix.dataset") == "wiki.txt"
    assert header.number("quantize.imatrix.entries_count")
    assert not any("--imatrix" in note for note in report.notes)


def test_a_mix_that_would_do_better_with_an_imatrix_says_so(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    report = run(checkpoint, ConvertOptions(find_mix("Q4_K_M"), tmp_path), settings)
    assert "--imatrix" in report.notes[0]


def test_a_weight_that_is_not_finite_is_named(checkpoint: Path, settings: Settings, tmp_path: Path):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = torch.nan
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (broken / name).write_bytes((checkpoint / name).read_bytes())
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"blk\.0\.ffn_up\.weight"):
        run(broken, ConvertOptions(find_mix("Q8_0"), tmp_path / "m.gguf"), settings)
    assert not (tmp_path / "m.gguf").exists()


def test_too_little_memory_is_said_before_anything_is_read(checkpoint: Path, settings: Settings):
    with pytest.raises(ResourceError, match="too little"):
        run(checkpoint, ConvertOptions(find_mix("Q8_0"), memory_bytes=50 << 20), settings)


def test_a_class_that_is_not_registered_is_refused(
    checkpoint: Path, settings: Settings, tmp_path: Path
):
    config = json.loads((checkpoint / "config.json").read_text())
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ParamModel"]}))
    with pytest.raises(UnsupportedError, match="ParamModel"):
        run(tmp_path, ConvertOptions(find_mix("Q8_0")), settings)


def test_a_tensor_without_a_place_is_refused(checkpoint: Path, settings: Settings, tmp_path: Path):
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(
        tensors | {"model.layers.0.extra.weight": torch.ones(3)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(UnsupportedError, match="extra"):
        run(tmp_path, ConvertOptions(find_mix("Q8_0")), settings)
