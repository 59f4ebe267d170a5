import dataclasses
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.gguf.reader import read_header
from llmedge.measure.calibration import CalibrationOptions
from llmedge.quantize.imatrix import collect_imatrix
from llmedge.quantize.job import QuantizeOptions
from llmedge.quantize.target import Target
from llmedge.recipe.variants import VariantsOptions, VariantsReport, make_variants
from llmedge.store.plan_file import PlanFile, write_plan
from tests.convert.tiny_llama import make_llama
from tests.fakes import RecordingProgress
from tests.gguf.imatrix_files import write_imatrix
from tests.gguf_files import replace_value, write_tiny_model

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
TEXT = CalibrationOptions({"en": 1.0}, n_tokens=1024)


@pytest.fixture
def make(settings, tmp_path):
    said: list[str] = []

    def make(source, **changes) -> VariantsReport:
        quantize = QuantizeOptions(output=tmp_path / "out", n_threads=1)
        fields = {field.name for field in dataclasses.fields(QuantizeOptions)}
        own = {name: changes.pop(name) for name in list(changes) if name in fields}
        quantize = dataclasses.replace(quantize, **own)
        changes.setdefault("calibration", TEXT)
        options = VariantsOptions(quantize=quantize, **changes)
        return make_variants(source, options, settings, RecordingProgress(), said.append)

    make.said = said
    return make


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "Tiny Llama"
    make_llama(folder, **WIDE)
    path = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    return folder


def test_a_mix_that_can_use_an_importance_matrix_gets_one(make, tiny_model):
    q4, q8 = make(tiny_model, mixes=("Q4_K_M", "Q8_0")).variants
    assert q4.coverage.n_tensors == 8
    assert q4.coverage.uncovered == ()
    assert q8.coverage is None
    header = read_header(q4.path)
    assert header.number("quantize.imatrix.entries_count") == 8


def test_without_one_the_cost_is_said(make, tiny_model):
    (report,) = make(tiny_model, wants_imatrix=False).variants
    assert report.variant == "Q4_K_M"
    assert report.coverage is None
    assert any("without an importance matrix" in line for line in make.said)
    with pytest.raises(UnsupportedError, match="IQ2_XS needs an importance matrix"):
        make(tiny_model, mixes=("IQ2_XS",), wants_imatrix=False)


def test_numpy_holds_no_memory_beside_the_quantizer(tiny_model, home, tmp_path):
    code = (
        "import sys\n"
        "from llmedge.cli.app import main\n"
        "from llmedge.runtime.quantizer import Quantizer\n"
        "def run(self, target, advance, run=Quantizer.run):\n"
        "    run(self, target, advance)\n"
        "    print('ran beside', sorted({'numpy', 'jinja2', 'llama_cpp'} & set(sys.modules)))\n"
        "Quantizer.run = run\n"
        "main(['quantize', *sys.argv[1:], '--no-imatrix'])"
    )
    arguments = [sys.executable, "-c", code, tiny_model, "-o", tmp_path / "out.gguf"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ran beside []" in done.stdout


def test_a_dry_run_knows_the_exact_size_without_computing_anything(make, tiny_model, home):
    (planned,) = make(tiny_model, mixes=("Q4_0",), dry_run=True).variants
    assert not (home / "imatrix").exists()
    (made,) = make(tiny_model, mixes=("Q4_0",)).variants
    assert planned.file_bytes == made.path.stat().st_size
    assert planned.types == made.types


def test_a_checkpoint_is_converted_first_and_the_large_file_removed(make, checkpoint, home):
    (report,) = make(checkpoint, mixes=("Q4_K_M",)).variants
    assert report.path.name == "tiny-llama-Q4_K_M.gguf"
    assert report.coverage is not None
    assert [*(home / "work").iterdir()] == []  # its folder for the 16-bit file is gone
    assert {path.suffix for path in report.path.parent.iterdir()} == {".gguf", ".json"}


def test_what_is_there_is_said_before_a_checkpoint_is_converted(make, checkpoint, monkeypatch):
    make(checkpoint, mixes=("Q4_K_M",))
    monkeypatch.setattr("llmedge.recipe.intermediate.convert", pytest.fail)
    with pytest.raises(UsageError, match="exists"):
        make(checkpoint, mixes=("Q8_0", "Q4_K_M"))


def test_the_16_bit_file_can_be_kept(make, checkpoint, tmp_path):
    make(checkpoint, mixes=("Q4_K_M",), keep_intermediate=True)
    names = {path.name for path in (tmp_path / "out").glob("*.gguf")}
    assert names == {"tiny-llama-Q4_K_M.gguf", "tiny-llama-BF16.gguf"}


def test_a_checkpoint_of_16_bit_floats_loses_none_of_them_on_the_way(make, checkpoint, tmp_path):
    floats = tmp_path / "Tiny Llama"
    shutil.copytree(checkpoint, floats)
    path = floats / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    make(floats, mixes=("Q4_K_M",), keep_intermediate=True)
    assert [path.name for path in (tmp_path / "out").glob("*F16.gguf")] == ["tiny-llama-F16.gguf"]


def test_a_target_works_from_a_checkpoint_and_its_plan_again(make, checkpoint, tmp_path):
    plan = tmp_path / "plan.json"
    target = Target("bpw", 5.5, "5.5BPW")
    (report,) = make(checkpoint, target=target, save_plan=plan).searches
    assert report.variant.bits_per_weight <= 5.5
    if report.is_plan:
        (again,) = make(checkpoint, plan=plan, overwrite=True).variants
        assert again.types == report.variant.types
        assert again.coverage == report.variant.coverage
        assert again.variant == "5.5BPW"


def test_a_model_trained_in_4_bits_is_quantized_as_it_was_trained(make, tiny_model, monkeypatch):
    monkeypatch.setattr("llmedge.recipe.variants.trained_type", lambda _: "Q4_0")
    (report,) = make(tiny_model).variants
    assert report.variant == "Q4_0"
    assert report.coverage is None
    assert report.types == {"Q4_0": 8, "F32": 3, "Q6_K": 1}
    assert any("trained for Q4_0" in line for line in make.said)


def test_single_tensors_get_the_users_types(make, tiny_model):
    (report,) = make(tiny_model, mixes=("Q4_K_S",), tensor_types=("blk.*.ffn_*=Q8_0",)).variants
    types = {tensor.name: tensor.quant_type.name for tensor in read_header(report.path).tensors}
    assert types["blk.0.ffn_gate.weight"] == "Q8_0"
    assert types["blk.0.attn_q.weight"] == "Q4_K"


def test_a_tensor_whose_type_needs_importance_gets_a_matrix_whatever_the_mix(make, tiny_model):
    (report,) = make(tiny_model, mixes=("Q8_0",), tensor_types=("*.ffn_up.*=IQ2_XS",)).variants
    assert report.coverage is not None
    assert report.types["IQ2_XS"] == 1
    with pytest.raises(UnsupportedError, match="importance matrix"):
        make(
            tiny_model,
            mixes=("Q8_0",),
            tensor_types=("*.ffn_up.*=IQ2_XS",),
            wants_imatrix=False,
            overwrite=True,
        )


@pytest.mark.parametrize("victim", ["imatrix", "save_plan", "sidecar", "source"])
def test_no_file_of_a_run_takes_the_place_of_another(make, tiny_model, tmp_path, victim):
    output = tmp_path / "made.gguf"
    given = tmp_path / "given.gguf"
    shutil.copyfile(tiny_model, given)
    changes = {
        "imatrix": {"imatrix": given, "output": given, "mixes": ("Q4_0",)},
        "save_plan": {"save_plan": given, "output": output},
        "sidecar": {"save_plan": output.with_suffix(".json"), "output": output},
        "source": {"output": given, "mixes": ("Q4_0",)},
    }[victim]
    if "save_plan" in changes:
        changes["target"] = Target("bpw", 5.5, "5.5BPW")
    before = given.read_bytes()
    with pytest.raises(UsageError, match="read or written by this very run"):
        make(given, overwrite=True, **changes)
    assert given.read_bytes() == before
    assert not output.exists()


def test_types_for_floats_are_refused_before_anything_is_computed(make, tiny_model, home):
    with pytest.raises(UsageError, match="F16 keeps every tensor a float"):
        make(tiny_model, mixes=("Q4_0", "F16"), tensor_types=("output.weight=Q8_0",))
    assert not (home / "imatrix").exists()


def plan_file(path, **changes):
    plan = PlanFile(
        model="tiny",
        architecture="llama",
        base="Q4_K_M",
        types={"output.weight": "Q6_K"},
        target="MINE",
        kernels="generic",
        weights={},
        bits_per_weight=5.0,
        predicted_kld=0.01,
    )
    write_plan(path, dataclasses.replace(plan, **changes))
    return path


def test_tensors_that_a_plan_does_not_name_are_counted(make, tiny_model, tmp_path):
    make(tiny_model, plan=plan_file(tmp_path / "plan.json"), wants_imatrix=False)
    assert any("does not name 8 of 9 tensors" in line for line in make.said)


def test_a_plan_on_floats_is_refused(make, tiny_model, tmp_path):
    with pytest.raises(UsageError, match="F32 keeps every tensor a float"):
        make(tiny_model, plan=plan_file(tmp_path / "plan.json", base="F32"))


def test_a_source_replaced_after_it_was_calibrated_is_an_error(
    make, tiny_copy, tmp_path, monkeypatch
):
    def collect_and_replace(source, *arguments):
        report = collect_imatrix(source, *arguments)
        write_tiny_model(tmp_path / "other.gguf", seed=1).replace(source)
        return report

    monkeypatch.setattr("llmedge.quantize.imatrix.collect_imatrix", collect_and_replace)
    with pytest.raises(IntegrityError, match="another file than the one that was measured"):
        make(tiny_copy, mixes=("Q4_0",))
    assert not (tmp_path / "out").exists()


def test_a_broken_chat_template_leaves_conversations_out_and_that_is_said(make, tmp_path):
    source = write_tiny_model(
        tmp_path / "broken.gguf",
        change=lambda writer: replace_value(writer, "tokenizer.chat_template", "{% for %}"),
    )
    text = CalibrationOptions({"en": 1.0, "chat": 1.0}, n_tokens=1024)
    (report,) = make(source, mixes=("Q4_0",), calibration=text).variants
    assert report.coverage is not None
    assert any(line.startswith("chat is left out") for line in make.said)


def test_an_importance_matrix_is_no_source(make, tmp_path):
    path = write_imatrix(tmp_path / "i.gguf", {"output.weight": ([[1.0]], [1.0])})
    with pytest.raises(UnsupportedError, match="is an importance matrix, not a model"):
        make(path)


@pytest.mark.parametrize("way", ["mix", "plan", "target"])
def test_a_quantized_source_is_refused_before_anything_is_computed(
    make, tiny_model, tmp_path, monkeypatch, way: str
):
    (source,) = make(tiny_model, mixes=("Q8_0",), name="small").variants
    plan = tmp_path / "plan.json"
    types = {"blk.0.ffn_up.weight": "Q4_K"}
    write_plan(plan, PlanFile("small", "llama", "Q4_K_M", types, "X", "generic", {}, 5.0, 0.1))
    changes = {
        "mix": {"mixes": ("Q8_0", "Q4_K_M")},
        "plan": {"plan": plan},
        "target": {"target": Target("bpw", 5.5, "5.5BPW")},
    }[way]
    monkeypatch.setattr("llmedge.quantize.imatrix.collect_imatrix", pytest.fail)
    with pytest.raises(UsageError, match=r"quantized already \(.* is Q8_0\)") as caught:
        make(source.path, name="again", **changes)
    assert "--allow-requantize" in caught.value.hint


def test_a_tensor_that_keeps_its_quantized_type_loses_nothing(make, tiny_model):
    (source,) = make(tiny_model, mixes=("Q8_0",), name="small").variants
    (copy,) = make(source.path, mixes=("Q8_0",), name="again").variants
    assert copy.types == source.types
