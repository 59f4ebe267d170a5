import ctypes

import numpy as np
import pytest

from llmedge.gguf.quant_types import BY_ID
from llmedge.gguf.reader import read_header
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.observer import LoadedWeight, Observation, Product

N_TOKENS = 24


class Recorder:
    def __init__(self, fail_at: str = ""):
        self.weights: dict[str, LoadedWeight] = {}
        self.inputs: dict[str, np.ndarray] = {}
        self.keys: dict[str, tuple[int, bytes]] = {}
        self.experts: dict[str, np.ndarray] = {}
        self.fail_at = fail_at
        self.n_seen = 0

    def wants(self, weight: LoadedWeight, n_rows: int) -> bool:
        return n_rows == N_TOKENS

    def see(self, product: Product) -> None:
        name = product.weight.name
        self.n_seen += 1
        if name == self.fail_at:
            raise LookupError(name)
        self.weights[name] = product.weight
        self.inputs[name] = product.inputs.copy()
        self.keys[name] = product.input_key
        if product.experts is not None:
            self.experts[name] = product.experts.copy()


def watch(path, recorder, n_decodes: int = 1, unneeded: tuple[str, ...] = ()) -> Observation:
    observation = Observation(recorder, unneeded)
    options = ModelOptions(load_mode="read", repack=False)
    small = ContextOptions(n_ctx=64, n_batch=N_TOKENS, n_threads=1)
    with (
        Model.load(path, options) as model,
        Context(model, small, observation) as context,
        Batch(N_TOKENS) as batch,
    ):
        for _ in range(n_decodes):
            context.clear()
            batch.fill(list(range(3, 3 + N_TOKENS)), 0, n_logits=N_TOKENS)
            context.decode(batch)
        recorder.logits = context.logits().copy()
        recorder.bytes = {
            name: ctypes.string_at(
                weight.address,
                BY_ID[weight.type_id].row_bytes(weight.shape[0])
                * weight.shape[1]
                * weight.shape[2],
            )
            for name, weight in recorder.weights.items()
        }
    return observation


def test_every_matrix_of_the_graph_is_seen_where_it_lies_in_memory(tiny_model):
    recorder = Recorder()
    watch(tiny_model, recorder)
    header = read_header(tiny_model)
    data = tiny_model.read_bytes()
    matrices = {t.name: t for t in header.tensors if len(t.shape) > 1}
    matrices.pop("token_embd.weight" if "output.weight" in matrices else "")
    assert set(recorder.weights) == set(matrices)
    for name, tensor in matrices.items():
        start = header.data_offset + tensor.offset
        assert recorder.bytes[name] == data[start : start + tensor.n_bytes]


def test_what_entered_the_output_matrix_gives_the_logits(tiny_model):
    recorder = Recorder()
    watch(tiny_model, recorder)
    weight = recorder.weights["output.weight"]
    stored = BY_ID[weight.type_id].name
    matrix = np.frombuffer(
        recorder.bytes["output.weight"], {"F32": np.float32, "F16": np.float16}[stored]
    ).reshape(weight.shape[1], weight.shape[0])
    (inputs,) = recorder.inputs["output.weight"][0]
    assert np.allclose(inputs @ matrix.astype(np.float32).T, recorder.logits, atol=1e-3)


def test_queries_and_keys_share_their_inputs_and_say_so(tiny_model):
    recorder = Recorder()
    watch(tiny_model, recorder)
    assert recorder.keys["blk.0.attn_q.weight"] == recorder.keys["blk.0.attn_k.weight"]
    assert recorder.keys["blk.0.attn_q.weight"] != recorder.keys["blk.0.ffn_up.weight"]


def test_what_a_watcher_raises_comes_out_of_decode(tiny_model):
    with pytest.raises(LookupError, match=r"blk\.0\.ffn_up"):
        watch(tiny_model, Recorder(fail_at="blk.0.ffn_up.weight"))


def test_an_unneeded_product_at_the_end_is_shown_but_not_computed_again(tiny_model):
    whole, short = Recorder(), Recorder()
    assert not watch(tiny_model, whole).stops_early
    assert watch(tiny_model, short, n_decodes=3, unneeded=("output.weight",)).stops_early
    assert short.weights.keys() == whole.weights.keys()
    for name, inputs in whole.inputs.items():
        assert (short.inputs[name] == inputs).all()
    assert short.n_seen == 3 * len(whole.inputs)
    assert short.weights["output.weight"].shape == whole.weights["output.weight"].shape


def test_the_logits_of_the_first_graph_are_whole(tiny_model):
    whole, short = Recorder(), Recorder()
    watch(tiny_model, whole)
    watch(tiny_model, short, unneeded=("output.weight",))
    assert (whole.logits == short.logits).all()


def test_a_product_that_others_come_after_is_always_computed(tiny_model):
    whole, watched = Recorder(), Recorder()
    watch(tiny_model, whole)
    for unneeded in (("blk.0.attn_k.weight",), ("no.such.weight",)):
        assert not watch(tiny_model, watched, n_decodes=2, unneeded=unneeded).stops_early
        assert (whole.logits == watched.logits).all()


def test_what_a_watcher_raises_at_the_end_of_a_short_graph_comes_out_of_decode(tiny_model):
    class Late(Recorder):
        def see(self, product: Product) -> None:
            super().see(product)
            if self.n_seen > len(self.inputs) and product.weight.name == "output.weight":
                raise LookupError("late")

    with pytest.raises(LookupError, match="late"):
        watch(tiny_model, Late(), n_decodes=2, unneeded=("output.weight",))
