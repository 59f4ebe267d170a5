import numpy as np
import pytest

from llmedge.core.errors import UsageError
from llmedge.core.progress import SilentProgress
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from llmedge.quantize.overrides import expand_types
from tests.gguf_files import write_tiny_model


def test_names_and_patterns_become_exact_names_and_the_last_one_wins(tiny_model):
    types = expand_types(["blk.*.ffn_*=q6_k", "blk.0.ffn_up.weight=Q8_0"], read_header(tiny_model))
    assert types == {
        "blk.0.ffn_gate.weight": "Q6_K",
        "blk.0.ffn_up.weight": "Q8_0",
        "blk.0.ffn_down.weight": "Q6_K",
    }


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("output.weight", "not NAME=TYPE", "output.weight=Q6_K"),
        ("output.weigth=Q6_K", "matches no tensor", "did you mean 'output.weight'"),
        ("output_norm.weight=Q6_K", "matches no tensor", "output"),
        ("output.weight=Q9", "unknown type 'Q9'", "Q8_0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny_model, text: str, message: str, hint: str):
    with pytest.raises(UsageError, match=message) as caught:
        expand_types([text], read_header(tiny_model))
    assert hint in caught.value.hint


def test_a_type_whose_blocks_do_not_fit_is_refused(smollm2):
    with pytest.raises(UsageError, match="rows of 576 do not fit"):
        expand_types(["token_embd.weight=Q4_K"], read_header(smollm2))


def test_an_override_touches_its_tensor_and_no_other_of_a_like_name(tmp_path, settings):
    """An unanchored expression would change `blk.0.…` inside longer names, too."""

    def change(writer):
        for name in ("xblk.0.ffn_up.weight", "blk.0.ffn_up.weight.weight", "blk.00ffn_up.weight"):
            writer.add_tensor(name, np.ones((256, 256), np.float32))

    source = write_tiny_model(tmp_path / "tiny.gguf", change=change)
    types = expand_types(["blk.0.ffn_up.weight=Q6_K"], read_header(source))
    options = QuantizeOptions(output=tmp_path / "out", types=types)
    plan = quantize(source, find_mix("Q4_0"), options, settings, SilentProgress())
    header = read_header(plan.path)
    in_6_bits = {tensor.name for tensor in header.tensors if tensor.quant_type.name == "Q6_K"}
    assert in_6_bits == {"blk.0.ffn_up.weight", "output.weight"}
