import importlib

import numpy as np
import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.core.progress import SilentProgress
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import is_quantizable
from llmedge.measure.kl_divergence import DivergenceMeter
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from llmedge.quantize.probe import ProbeOptions, Prober, ProbeText
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model, ModelOptions
from tests.convert.parity import convert, make_checkpoint

TEXT = ProbeText((tuple(range(10, 42)), tuple(range(90, 122))), 12)


def options(path, text: ProbeText = TEXT) -> ProbeOptions:
    return ProbeOptions(path, None, text, 1)


def logits_of(path, chunk):
    with (
        Model.load(path, ModelOptions(repack=False)) as model,
        Context(model, ContextOptions(n_ctx=64, n_threads=1)) as context,
        Batch(len(chunk)) as batch,
    ):
        batch.fill(chunk, 0, n_logits=len(chunk) - TEXT.n_skipped)
        context.decode(batch)
        return context.logits().copy()


def test_every_quantizable_matrix_can_be_changed_the_embedding_too(tiny_model):
    with Prober(options(tiny_model)) as prober:
        assert prober.names == {
            tensor.name for tensor in read_header(tiny_model).tensors if len(tensor.shape) > 1
        }


def test_a_trial_predicts_what_the_file_with_that_type_does(tiny_model, tmp_path, settings):
    name = "blk.0.ffn_down.weight"
    chosen = QuantizeOptions(output=tmp_path / "one.gguf", types={name: "Q2_K"})
    mix = find_mix("Q8_0")
    one = quantize(tiny_model, mix, chosen, settings, SilentProgress()).path
    with Prober(options(tiny_model)) as prober:
        klds = prober.measure({name: "Q2_K"})
    for chunk, kld in zip(TEXT.chunks, klds, strict=True):
        meter = DivergenceMeter()
        reference, variant = logits_of(tiny_model, chunk), logits_of(one, chunk)
        meter.add(reference, variant, np.zeros(len(reference), np.int64))
        assert kld == pytest.approx(meter.result().mean_kld, rel=0.25)


def test_a_change_is_undone_to_the_bit(tiny_model):
    with Prober(options(tiny_model)) as prober:
        first = prober.measure({"output.weight": "Q4_K"})
        everything = prober.measure(dict.fromkeys(prober.names, "Q2_K"))
        assert prober.measure({}) == pytest.approx((0.0, 0.0), abs=1e-6)
        assert prober.measure({"output.weight": "Q4_K"}) == first
    assert all(many > one > 0 for many, one in zip(everything, first, strict=True))


def test_finer_types_lose_less(tiny_model):
    with Prober(options(tiny_model)) as prober:
        losses = [
            sum(prober.measure({"blk.0.attn_output.weight": kind}))
            for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
        ]
    assert losses == sorted(losses, reverse=True)


def test_weights_of_4_bits_cannot_be_changed_and_the_error_says_which_can(
    tiny_model, tmp_path, settings
):
    chosen = QuantizeOptions(output=tmp_path / "q4.gguf", is_pure=True)
    q4 = quantize(tiny_model, find_mix("Q4_0"), chosen, settings, SilentProgress()).path
    with pytest.raises(UnsupportedError, match="no weight of") as caught:
        Prober(options(q4))
    assert "F16" in caught.value.hint


@pytest.mark.parametrize("family", ["cases_qwen", "cases_deepseek", "cases_lfm2", "cases_mamba"])
def test_experts_compressed_attention_and_recurrent_layers_can_be_changed(family, tmp_path):
    cases = importlib.import_module(f"tests.convert.{family}").CASES
    for case in (cases[0], cases[-1]):
        folder = tmp_path / case.name
        make_checkpoint(case, folder)
        path = convert(folder, folder / "model.gguf")
        header = read_header(path)
        wanted = {
            tensor.name
            for tensor in header.tensors
            if is_quantizable(tensor.name, tensor.shape, header.architecture)
            and tensor.shape[0] % 32 == 0
        }
        with Prober(options(path, TEXT)) as prober:
            assert wanted <= prober.names
            before = prober.measure({})
            changed = prober.measure(dict.fromkeys(wanted, "Q4_0"))
            assert sum(changed) > sum(before)
            assert prober.measure({}) == before
