import re

import numpy as np
import pytest

from llmedge.core.errors import IntegrityError
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import is_quantizable
from llmedge.quantize import sensitivity as sensitivity_module
from llmedge.quantize.plan import allocate
from llmedge.quantize.probe import ProbeOptions, Prober, ProbeText
from llmedge.quantize.sensitivity import Sensitivity, first_type, measure_sensitivity
from llmedge.store.journal import Journal
from tests.fakes import RecordingProgress
from tests.gguf_files import write_tiny_model

TEXT = ProbeText((tuple(range(10, 42)), tuple(range(90, 122))), 12)
WEIGHTS = (0.25, 0.75)


@pytest.fixture
def measure(tiny_model, tmp_path):
    def measure(source=tiny_model, header=None) -> Sensitivity:
        header = header or read_header(source)
        return measure_sensitivity(
            header,
            [t for t in header.tensors if is_quantizable(t.name, t.shape, "llama")],
            ProbeOptions(source, None, TEXT, 1),
            WEIGHTS,
            Journal(tmp_path / "facts.jsonl"),
            RecordingProgress(),
        )

    return measure


class CountingProber(Prober):
    n_trials = 0

    def measure(self, types):
        type(self).n_trials += 1
        return super().measure(types)


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.setattr(sensitivity_module, "Prober", CountingProber)
    monkeypatch.setattr(CountingProber, "n_trials", 0)
    return CountingProber


def test_every_tensor_has_a_loss_for_every_type_and_finer_types_lose_less(measure):
    found = measure()
    assert len(found.tensors) == 9
    choices = found.choices("generic")
    for row in choices.values():
        losses = {choice.quant_type: choice.loss for choice in row}
        assert losses["Q2_K"] > losses["Q4_K"] > losses["Q6_K"] > losses["Q8_0"] > 0


def test_the_embedding_and_the_heaviest_are_tried_with_every_type(measure):
    found = measure()
    whole = {tensor.name for tensor in found.tensors if (tensor.name, "Q6_K") in found.klds}
    assert {"token_embd.weight", "output.weight"} < whole
    assert len(whole) == 2 + 5


def test_chunks_count_as_they_are_weighed(measure):
    found = measure()
    tensor = found.tensors[0]
    one, other = found.klds[tensor.name, first_type(tensor).name]
    expected = 0.25 * one + 0.75 * other
    assert found.loss(tensor, first_type(tensor).name) == pytest.approx(expected)


def test_a_second_look_measures_nothing(measure, trials):
    first = measure()
    n_trials = trials.n_trials
    second = measure()
    assert trials.n_trials == n_trials > 9
    assert second == first


def test_what_a_killed_process_found_is_not_measured_again(measure, trials, tmp_path):
    expected = measure()
    n_trials = trials.n_trials
    path = tmp_path / "facts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-8]) + lines[-8][:20])
    trials.n_trials = 0
    assert measure() == expected
    assert trials.n_trials == 8 < n_trials


def test_losses_are_those_of_real_files_in_order(measure, tiny_model):
    """The plan with more predicted loss really loses more."""
    found = measure()
    choices = found.choices("generic")
    sizes = [sum(row[i].n_bytes for row in choices.values()) for i in (2, 5, -2)]
    plans = [allocate(choices, size) for size in sizes]
    with Prober(ProbeOptions(tiny_model, None, TEXT, 1)) as prober:
        measured = [sum(prober.measure(plan.types)) for plan in plans]
    assert measured == sorted(measured, reverse=True)
    assert [plan.loss for plan in plans] == sorted([plan.loss for plan in plans], reverse=True)


@pytest.mark.parametrize("values", [b"[]", b"[0.1,0.2,0.3]", b"[-1]"])
def test_what_was_kept_and_is_damaged_is_measured_again(measure, tmp_path, values: bytes):
    expected = measure()
    path = tmp_path / "facts.jsonl"
    path.write_bytes(re.sub(rb"\[[^]]*\]", values, path.read_bytes()))
    assert measure() == expected


def test_what_is_found_in_another_file_is_not_kept(measure, tiny_copy, tmp_path):
    header = read_header(tiny_copy)
    write_tiny_model(tmp_path / "other.gguf", seed=1).replace(tiny_copy)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        measure(tiny_copy, header)
    assert not (tmp_path / "facts.jsonl").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named(measure, tiny_copy, value: float):
    header = read_header(tiny_copy)
    (info,) = [tensor for tensor in header.tensors if tensor.name == "blk.0.ffn_up.weight"]
    data = bytearray(tiny_copy.read_bytes())
    at = header.data_offset + info.offset
    data[at : at + 4] = np.float32(value).tobytes()
    tiny_copy.write_bytes(data)
    with pytest.raises(
        IntegrityError, match=r"copy\.gguf is damaged: a weight of blk\.0\.ffn_up\.weight"
    ) as caught:
        measure(tiny_copy)
    assert "convert it again" in caught.value.hint
