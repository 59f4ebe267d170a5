import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from llmedge.core.errors import IntegrityError, ResourceError, UnsupportedError, UsageError
from llmedge.gguf.imatrix_file import read_imatrix
from llmedge.gguf.mixes import MIXES, find_mix
from llmedge.gguf.reader import read_header
from llmedge.host.process import is_running
from llmedge.runtime.quantizer import Quantizer, QuantizerOptions, _LogReader
from tests.gguf.imatrix_files import write_imatrix


def options(mix: str, **more) -> QuantizerOptions:
    return QuantizerOptions(find_mix(mix).ftype, 2, **more)


@pytest.mark.parametrize("mix", ["Q4_0", "Q4_K_M", "IQ4_XS", "Q8_0", "F16"])
def test_the_plan_is_what_is_written(tiny_model: Path, tmp_path: Path, mix: str):
    target = tmp_path / "out.gguf"
    done: list[str] = []
    with Quantizer(read_header(tiny_model), options(mix)) as quantizer:
        plan = quantizer.plan()
        assert not target.exists()
        quantizer.run(target, done.append)
    oracle = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
    assert {tensor.name: tensor.target_type for tensor in plan} == {
        name: tensor.tensor_type.name for name, tensor in oracle.items()
    }
    assert {tensor.name: tensor.n_bytes for tensor in plan} == {
        name: tensor.n_bytes for name, tensor in oracle.items()
    }
    assert sorted(done) == sorted(oracle)


def test_fallbacks_are_planned_with_what_was_wanted(smollm2: Path):
    with Quantizer(read_header(smollm2), options("Q4_K_M", allow_requantize=True)) as quantizer:
        plan = quantizer.plan()
    fallbacks = [tensor for tensor in plan if tensor.is_fallback]
    assert len(fallbacks) == 180
    assert {(tensor.wanted_type, tensor.target_type) for tensor in fallbacks} == {
        ("Q4_K", "Q5_0"),
        ("Q6_K", "Q8_0"),
    }
    assert sum(tensor.n_bytes for tensor in plan) / 2**20 == pytest.approx(98.87, abs=0.005)


def test_a_quantized_source_needs_a_word(smollm2: Path, tmp_path: Path):
    with Quantizer(read_header(smollm2), options("Q4_0")) as quantizer:
        quantizer.plan()
        with pytest.raises(UsageError, match="quantized already") as caught:
            quantizer.run(tmp_path / "out.gguf", lambda _: None)
    assert "--allow-requantize" in caught.value.hint


def test_a_place_that_cannot_be_written_is_a_resource_error(tiny_model: Path, tmp_path: Path):
    with Quantizer(read_header(tiny_model), options("Q4_0")) as quantizer:
        quantizer.plan()
        with pytest.raises(ResourceError, match="could not be written"):
            quantizer.run(tmp_path / "missing" / "out.gguf", lambda _: None)


def test_a_file_that_changed_under_us_is_an_error_of_ours(tiny_copy: Path, tmp_path: Path):
    header = read_header(tiny_copy)
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:5000])
    with Quantizer(header, options("Q4_0")) as quantizer, pytest.raises(IntegrityError):
        quantizer.plan()


def test_closing_in_the_middle_ends_the_child(tiny_model: Path):
    quantizer = Quantizer(read_header(tiny_model), options("Q4_0"))
    quantizer.plan()
    pid = quantizer._child.pid
    quantizer.close()
    quantizer.close()
    assert not is_running(pid)


def test_a_child_that_the_system_kills_is_a_resource_error(tiny_model: Path, tmp_path: Path):
    import os
    import signal

    with Quantizer(read_header(tiny_model), options("Q4_0")) as quantizer:
        quantizer.plan()
        os.kill(quantizer._child.pid, signal.SIGKILL)
        with pytest.raises(ResourceError, match="ran out of memory"):
            quantizer.run(tmp_path / "out.gguf", lambda _: None)


def test_the_bound_on_memory_changes_no_byte(tiny_model: Path, tmp_path: Path):
    files = []
    for name, bound in (("a", 1 << 16), ("b", 1 << 30)):
        files.append(tmp_path / name)
        chosen = options("Q4_K_M", max_buffer_bytes=bound)
        with Quantizer(read_header(tiny_model), chosen) as quantizer:
            quantizer.plan()
            quantizer.run(files[-1], lambda _: None)
    assert files[0].read_bytes() == files[1].read_bytes()


def block_imatrix(path: Path, tiny_model: Path, n_in: int | None = None) -> Path:
    random = np.random.default_rng(5)
    entries = {
        tensor.name: (random.random((1, n_in or tensor.shape[0])), [1.0])
        for tensor in read_header(tiny_model).tensors
        if len(tensor.shape) > 1 and tensor.name.startswith("blk.")
    }
    return write_imatrix(path, entries)


def test_an_importance_matrix_changes_what_it_covers_and_nothing_else(
    tiny_model: Path, tmp_path: Path
):
    imatrix = block_imatrix(tmp_path / "imatrix.gguf", tiny_model)
    files = []
    for name, more in (("without", {}), ("with", {"imatrix": imatrix})):
        files.append(tmp_path / name)
        with Quantizer(read_header(tiny_model), options("Q4_K_S", **more)) as quantizer:
            quantizer.plan()
            quantizer.run(files[-1], lambda _: None)
    without, with_it = (gguf.GGUFReader(path).tensors for path in files)
    changed = {a.name for a, b in zip(without, with_it, strict=True) if (a.data != b.data).any()}
    assert changed == set(read_imatrix(imatrix).weights)


def test_a_mix_that_needs_an_importance_matrix_works_with_one_only(
    tiny_model: Path, tmp_path: Path
):
    imatrix = block_imatrix(tmp_path / "imatrix.gguf", tiny_model)
    with Quantizer(read_header(tiny_model), options("IQ2_XXS")) as quantizer:
        quantizer.plan()
        with pytest.raises(UnsupportedError, match="requires an imatrix"):
            quantizer.run(tmp_path / "none.gguf", lambda _: None)
    with Quantizer(read_header(tiny_model), options("IQ2_XXS", imatrix=imatrix)) as quantizer:
        plan = quantizer.plan()
        quantizer.run(tmp_path / "out.gguf", lambda _: None)
    written = {t.name: t.quant_type.name for t in read_header(tmp_path / "out.gguf").tensors}
    assert written == {tensor.name: tensor.target_type for tensor in plan}
    assert "IQ2_XXS" in written.values()


def test_an_importance_matrix_of_another_model_is_refused(tiny_model: Path, tmp_path: Path):
    imatrix = block_imatrix(tmp_path / "imatrix.gguf", tiny_model, n_in=64)
    with Quantizer(read_header(tiny_model), options("Q4_K_S", imatrix=imatrix)) as quantizer:
        quantizer.plan()
        with pytest.raises(UnsupportedError, match="imatrix size 64 is different from tensor size"):
            quantizer.run(tmp_path / "out.gguf", lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_can_be_written(tiny_model: Path, tmp_path: Path, mix: str):
    imatrix = block_imatrix(tmp_path / "imatrix.gguf", tiny_model)
    target = tmp_path / "out.gguf"
    with Quantizer(read_header(tiny_model), options(mix, imatrix=imatrix)) as quantizer:
        plan = quantizer.plan()
        quantizer.run(target, lambda _: None)
    written = {tensor.name: tensor.quant_type.name for tensor in read_header(target).tensors}
    assert written == {tensor.name: tensor.target_type for tensor in plan}


def test_the_log_is_read_in_any_pieces():
    log = (
        "warning: blk.0.attn_k.weight                  - ncols    576 not divisible by 256 "
        "(required for type    q4_K) -> falling back to    q5_0\n"
        "[   1/   3] token embd.weight                    - [  32,  4,  1,  1], type =    f32, "
        "converting to q8_0 .. size =     8.00 MiB ->     4.00 MiB\n"
        "[   2/   3] blk.0.attn_norm.weight              - [   576,      1,      1,      1], "
        "type =    f32, size =    0.002 MiB\n"
        "[   3/   3] blk.0.attn_k.weight                 - [   576,    192,      1,      1], "
        "type =   q4_1, size =     0.07 MiB ->     0.07 MiB (q5_0)\n"
    )
    for width in (1, 7, 1000):
        seen: list[tuple[str, str]] = []
        reader = _LogReader(lambda name, kind, seen=seen: seen.append((name, kind)))
        for piece in re.findall(f"(?s).{{1,{width}}}", log):
            reader.feed(2, piece)
        assert seen == [
            ("token embd.weight", "Q8_0"),
            ("blk.0.attn_norm.weight", ""),
            ("blk.0.attn_k.weight", "Q5_0"),
        ]
        assert reader.wanted == {"blk.0.attn_k.weight": "Q4_K"}
