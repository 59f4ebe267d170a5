import pytest

from llmedge.core.progress import SilentProgress
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import is_quantizable
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions, prepare
from llmedge.quantize.kernels import KERNELS, fast_types
from llmedge.quantize.plans import Plans
from llmedge.quantize.sensitivity import Sensitivity, first_type
from llmedge.quantize.target import Target

# Made up: later tensors matter more, and half of the bits lose four times as much.
LOSSES = {"Q2_K": 64, "Q3_K": 16, "IQ4_XS": 5, "Q4_K": 4, "Q5_K": 2, "Q6_K": 1, "Q8_0": 0.2}


@pytest.fixture
def plans(tiny_model, tmp_path, settings):
    options = QuantizeOptions(output=tmp_path / "out", variant="X")
    job = prepare(tiny_model, find_mix("Q4_K_M"), options, settings)
    tensors = tuple(t for t in job.header.tensors if is_quantizable(t.name, t.shape, "llama"))
    klds = {(tensor.name, first_type(tensor).name): (0.001,) for tensor in tensors}
    errors = {
        (tensor.name, kind.name): LOSSES.get(kind.name, 8) * (number + 1)
        for number, tensor in enumerate(tensors)
        for kind in {*fast_types("generic", tensor.shape[0]), first_type(tensor)}
    }
    return Plans(job, Sensitivity(tensors, errors, klds, (1.0,)), "generic")


def test_a_plan_for_a_size_gives_a_file_of_at_most_that_size(plans, tiny_model, tmp_path, settings):
    plan = plans.best(Target("size", 300_000, "300KB"))
    options = QuantizeOptions(output=tmp_path / "plan.gguf", types=plan.types)
    path = quantize(tiny_model, find_mix("Q4_K_M"), options, settings, SilentProgress()).path
    assert 295_000 < path.stat().st_size <= 300_000
    stored = read_header(path)
    assert plans.tensor_bytes(plan) == sum(-(-t.n_bytes // 32) * 32 for t in stored.tensors)


def test_less_loss_takes_more_bytes(plans):
    loose, tight = plans.within_loss(0.02), plans.within_loss(0.005)
    assert tight.loss <= 0.005 < loose.loss <= 0.02
    assert loose.n_bytes < tight.n_bytes


def test_a_loss_that_no_type_keeps_to_gives_the_best_there_is(plans):
    best = plans.within_loss(1e-9)
    assert set(best.types.values()) == {"Q8_0"}
    assert set(KERNELS["generic"]) >= set(best.types.values())
