"""Every mix on every model: the rules against a dry run of llama.cpp's own quantizer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import gguf
import pytest

from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError
from llmedge.gguf.mix_rules import _GLM5_IN_8_BITS, ModelShape, TensorShape, assign_types
from llmedge.gguf.mixes import MIXES, Mix, find_mix
from llmedge.gguf.quant_types import BY_NAME, F16, F32
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import _NEVER_QUANTIZED_PARTS, _NEVER_QUANTIZED_PARTS_OF
from llmedge.host.child import Child, Talk
from llmedge.runtime.library import log_listener
from llmedge.runtime.quantizer import Quantizer, QuantizerOptions, _call, _LogReader
from tests.gguf.imatrix_files import write_imatrix
from tests.gguf.model_headers import MODELS, TIED, ModelHeader, attention, experts, llama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLAIN = ("F32", "F16", "BF16")
QUANTIZED = [mix for mix in MIXES.values() if mix.name not in PLAIN]


class DryRun(NamedTuple):
    """What llama.cpp would do: types by name ("" for the stored one), and what it wanted."""

    types: dict[str, str]
    wanted: dict[str, str]
    needs_imatrix: bool


def serve_dry_runs(talk: Talk) -> None:
    """Run in a child, which a file of a test may crash: answer each request for dry runs."""
    while True:
        path, all_options = talk.hear()
        talk.say([dry_run(path, options) for options in all_options])


def dry_run(path: Path, options: QuantizerOptions) -> DryRun | str:
    types: dict[str, str] = {}
    log: list[str] = []
    reader = _LogReader(types.__setitem__)
    try:
        with log_listener(reader.feed), log_listener(lambda _, text: log.append(text)):
            _call(path, b"unused", options, dry_run=True)
    except LlmedgeError as error:
        return error.message
    return DryRun(types, reader.wanted, "will require an imatrix" in "".join(log))


if TYPE_CHECKING:
    Oracle = Callable[[Path, list[QuantizerOptions]], list[DryRun | str]]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Child(serve_dry_runs) as child:
        answers = child.messages(silence_s=60)

        def ask(path: Path, options: list[QuantizerOptions]) -> list[DryRun | str]:
            child.say((path, options))
            return next(answers)

        yield ask


@pytest.fixture(scope="module")
def imatrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix: that there is one is all that the rules ask."""
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    return write_imatrix(path, {"blk.0.attn_q.weight": ([[1.0]], [1.0])})


def assigned(mix: Mix, model: ModelHeader, *, has_imatrix: bool = False) -> DryRun | str:
    try:
        types = assign_types(mix, model.tensors(), model.shape, has_imatrix=has_imatrix)
    except LlmedgeError as error:
        return error.message
    wanted = {name: given.wanted.name for name, given in types.items() if given.wanted}
    needs_imatrix = not has_imatrix and any(given.needs_imatrix for given in types.values())
    return DryRun(
        {name: given.quant_type.name for name, given in types.items()}, wanted, needs_imatrix
    )


def assert_same(model: ModelHeader, mix: Mix, theirs: DryRun | str, ours: DryRun | str) -> None:
    if isinstance(theirs, str) or isinstance(ours, str):
        assert "no tensor type fallback" in str(theirs), (mix.name, theirs)
        assert "nothing stands in for" in str(ours), (mix.name, ours)
        return
    stored = {tensor.name: tensor.stored.name for tensor in model.tensors()}
    types = {name: kind or stored[name] for name, kind in theirs.types.items()}
    assert (mix.name, ours) == (mix.name, theirs._replace(types=types))


@pytest.mark.parametrize("name", MODELS)
def test_every_mix_gives_the_types_of_llama_cpp(
    oracle: Oracle, tmp_path: Path, imatrix: Path, name: str
):
    model = MODELS[name]
    path = model.write(tmp_path / "model.gguf")
    cases = [(mix, has_imatrix) for mix in QUANTIZED for has_imatrix in (False, True)]
    options = [
        QuantizerOptions(mix.ftype, 1, imatrix=imatrix if has else None) for mix, has in cases
    ]
    for (mix, has), theirs in zip(cases, oracle(path, options), strict=True):
        assert_same(model, mix, theirs, assigned(mix, model, has_imatrix=has))


@pytest.mark.parametrize("n_layers", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65])
def test_the_layers_that_get_more_bits_are_llama_cpps(
    oracle: Oracle, tmp_path: Path, n_layers: int
):
    model = llama(n_layers, 8, 2)
    path = model.write(tmp_path / "model.gguf")
    mixes = [MIXES[name] for name in ("Q4_K_M", "Q3_K_M", "Q4_K_S", "IQ3_XS", "IQ2_M")]
    answers = oracle(path, [QuantizerOptions(mix.ftype, 1) for mix in mixes])
    for mix, theirs in zip(mixes, answers, strict=True):
        assert_same(model, mix, theirs, assigned(mix, model))


# Names that the package gguf does not have yet.
NEW_NAMES = (
    *("ffn_gate_tid2eid", "indexer.k_proj", "indexer.q_proj", "rel_pos_h", "hc_attn_fn"),
    *("indexer_compressor_gate", "indexer_compressor_ape"),
)
ALL_NAMES = [
    *(name.format(bid=0, xid=1) for name in gguf.TENSOR_NAMES.values()),
    *(f"blk.0.{name}" for name in NEW_NAMES),
    *("a.rvq.codebook", "mm.a.code_embd"),
]


@pytest.mark.parametrize("architecture", ["llama", "falcon", "bailingmoe3", "glm5-next"])
@pytest.mark.parametrize("dims", [(256, 8), (256, 8, 4), (256, 1), (96, 8)])
def test_every_tensor_name_of_any_architecture_is_treated_as_llama_cpp_treats_it(
    oracle: Oracle, tmp_path: Path, architecture: str, dims: tuple[int, ...]
):
    names = sorted({name + end for name in ALL_NAMES for end in (".weight", ".bias")})
    keys = MODELS[architecture].keys
    model = ModelHeader(architecture, 2, {}, dict.fromkeys(names, dims), (4, 4), keys=keys)
    path = model.write(tmp_path / "model.gguf")
    mixes = [mix for mix in QUANTIZED if mix.name != "Q1_0"]  # which does not take rows of 96
    answers = oracle(path, [QuantizerOptions(mix.ftype, 1) for mix in mixes])
    for mix, theirs in zip(mixes, answers, strict=True):
        assert_same(model, mix, theirs, assigned(mix, model))


def test_every_rule_for_a_name_meets_a_name():
    parts = [*_NEVER_QUANTIZED_PARTS, *_NEVER_QUANTIZED_PARTS_OF["glm5-next"]]
    for part in (*parts, *_GLM5_IN_8_BITS):
        assert any(part in f"{name}.weight" for name in ALL_NAMES), part


@pytest.mark.parametrize("name", MODELS)
def test_what_a_conversion_stores_is_what_the_quantizer_would_leave(
    oracle: Oracle, tmp_path: Path, name: str
):
    model = MODELS[name]
    for mix in (MIXES[plain] for plain in PLAIN):
        path = model.write(tmp_path / f"{mix.name}.gguf", mix.base)
        (theirs,) = oracle(path, [QuantizerOptions(mix.ftype, 1)])
        assert set(theirs.types.values()) == {""}
        stored = {tensor.name: tensor.stored.name for tensor in model.tensors(mix.base)}
        assert assigned(mix, model) == DryRun(stored, {}, needs_imatrix=False)


def test_the_plan_of_a_quantizer_is_the_assignment(tmp_path: Path):
    model = MODELS["smollm2"]
    header = read_header(model.write(tmp_path / "model.gguf"))
    mix = find_mix("Q4_K_M")
    with Quantizer(header, QuantizerOptions(mix.ftype, 2)) as quantizer:
        plan = quantizer.plan()
    types = assign_types(mix, model.tensors(), model.shape, has_imatrix=False)
    assert [(tensor.name, tensor.target_type, tensor.wanted_type) for tensor in plan] == [
        (name, given.quant_type.name, given.wanted.name if given.wanted else None)
        for name, given in types.items()
    ]


def test_the_mixes_that_require_an_imatrix_are_those_that_llama_cpp_refuses_without():
    for mix in MIXES.values():
        (types, _, needs_imatrix) = assigned(mix, MODELS["llama"])
        assert types
        assert needs_imatrix == (mix.imatrix == "requires"), mix.name


def test_an_expert_outside_the_layers_is_refused_as_llama_cpp_refuses_it(
    oracle: Oracle, tmp_path: Path
):
    model = ModelHeader("llama", 3, attention(8, 2) | experts(4), TIED, n_experts=4)
    path = replace(model, keys={"block_count": 2}).write(tmp_path / "model.gguf")
    (theirs,) = oracle(path, [QuantizerOptions(find_mix("Q6_K").ftype, 1)])
    assert "Bad layer 2" in str(theirs)
    shape = ModelShape("llama", 2, 8, 2, 4)
    with pytest.raises(IntegrityError, match="in none of the model's 2 layers"):
        assign_types(find_mix("Q6_K"), model.tensors(), shape, has_imatrix=False)


def test_rows_that_nothing_fits_are_named_with_what_was_wanted():
    tensors = [TensorShape("blk.0.attn_q.weight", (100, 64), F16)]
    shape = ModelShape("llama", 1, 4, 4)
    with pytest.raises(UnsupportedError, match="rows of 100 weights, no multiple of Q1_0's 128"):
        assign_types(find_mix("Q1_0"), tensors, shape, has_imatrix=False)
    (given,) = assign_types(find_mix("Q4_K_S"), tensors, shape, has_imatrix=False).values()
    assert (given.quant_type, given.wanted) == (F16, BY_NAME["Q4_K"])


def test_the_order_of_the_tensors_changes_nothing():
    model = MODELS["qwen3moe"]
    there = assign_types(find_mix("Q4_K_M"), model.tensors(), model.shape, has_imatrix=False)
    back = assign_types(find_mix("Q4_K_M"), model.tensors()[::-1], model.shape, has_imatrix=False)
    assert there == back
    assert list(there) == list(back)[::-1]


def test_what_is_never_quantized_keeps_the_type_it_is_stored_in():
    tensors = [
        TensorShape("blk.0.attn_norm.weight", (256,), F32),
        TensorShape("blk.0.laurel_l.weight", (256, 64), BY_NAME["BF16"]),
    ]
    shape = ModelShape("gemma3n", 1, 4, 4)
    types = assign_types(find_mix("Q4_0"), tensors, shape, has_imatrix=False)
    assert [given.quant_type.name for given in types.values()] == ["F32", "BF16"]
