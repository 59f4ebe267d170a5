import json
import re
from dataclasses import replace

import pytest

from llmedge.core.errors import ResourceError, UnsupportedError, UsageError
from llmedge.core.units import parse_bytes
from llmedge.gguf.reader import read_header
from llmedge.measure.calibration import CalibrationOptions
from llmedge.quantize import search as search_module
from llmedge.quantize.job import QuantizeOptions
from llmedge.quantize.judge import Judge, Judgement, judged_kinds
from llmedge.quantize.search import SearchOptions, SearchReport, search
from llmedge.quantize.target import Target
from llmedge.quantize.working_copy import Measured, measured_in
from llmedge.store.manifest import read_manifest
from llmedge.store.plan_file import read_plan
from tests.fakes import RecordingProgress
from tests.gguf_files import write_tiny_model

TEXT = CalibrationOptions({"en": 1.0})


@pytest.fixture
def find(tiny_model, tmp_path, settings):
    def find(target: Target, **changes) -> SearchReport:
        options = QuantizeOptions(output=tmp_path / "out", n_threads=1)
        search_options = SearchOptions(
            target=target,
            kernels=changes.pop("kernels", "generic"),
            calibration=TEXT,
            save_plan=changes.pop("save_plan", None),
            quantize=replace(options, **changes),
        )
        files = Measured(tiny_model, tiny_model)
        return search(tiny_model, files, search_options, settings, RecordingProgress())

    return find


def contents(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_plan_keeps_to_the_size_and_says_what_it_measured(find, tmp_path):
    report = find(Target("size", 400_000, "400KB"), save_plan=tmp_path / "plan.json")
    path = report.variant.path
    assert contents(tmp_path / "out") == {"tiny-400KB.gguf", "tiny-400KB.json"}
    assert path.stat().st_size == report.variant.file_bytes <= 400_000
    assert report.variant.file_bytes > 0.98 * 400_000
    assert report.is_plan == (report.plan.mean_kld < report.stock.mean_kld)
    manifest = read_manifest(path)
    kept = report.plan if report.is_plan else report.stock
    assert manifest.variant == "400KB"
    assert manifest.arguments["mean_kld"] == kept.mean_kld
    assert manifest.arguments["weight en"] == 1.0
    other = report.stock if report.is_plan else report.plan
    assert manifest.arguments["rival"] == (report.stock_mix if report.is_plan else "plan")
    assert manifest.arguments["rival_mean_kld"] == other.mean_kld
    assert 0 < report.other_bytes <= 400_000
    if report.is_plan:
        plan = read_plan(tmp_path / "plan.json", read_header(path))
        types = {tensor.name: tensor.quant_type.name for tensor in read_header(path).tensors}
        assert plan.types.items() <= types.items()


@pytest.mark.parametrize("plan_wins", [True, False])
def test_the_one_that_loses_less_is_shipped(find, tmp_path, monkeypatch, plan_wins: bool):
    def judge(self, *variants):
        klds = [0.1 if path.stem.startswith("plan") == plan_wins else 0.2 for path in variants]
        return [Judgement(kld, {"en": kld}, 0.9, (kld, kld + 0.01)) for kld in klds]

    monkeypatch.setattr(Judge, "judge", judge)
    report = find(Target("bpw", 5.0, "5BPW"), save_plan=tmp_path / "plan.json")
    assert report.is_plan is plan_wins
    assert report.difference[0] == pytest.approx(-0.1 if plan_wins else 0.1)
    header = read_header(report.variant.path)
    assert (header.number("general.file_type") == 15) is (plan_wins or report.stock_mix == "Q4_K_M")
    assert (report.variant.mix == report.stock_mix) or plan_wins
    assert (tmp_path / "plan.json").exists() is plan_wins
    assert report.variant.file_bytes == header.file_bytes


def test_bits_per_weight_are_kept_to(find):
    report = find(Target("bpw", 5.0, "5BPW"))
    assert 4.9 < report.variant.bits_per_weight <= 5.0


def test_quality_is_kept_to_with_few_bytes(find):
    loose = find(Target("kld", 0.05, "KLD0.05"), overwrite=True)
    tight = find(Target("kld", 0.005, "KLD0.005"), overwrite=True)
    assert loose.plan.mean_kld <= 0.05
    assert tight.plan.mean_kld <= 0.005
    assert loose.variant.file_bytes < tight.variant.file_bytes


def test_a_dry_run_writes_nothing_and_has_the_exact_size(find, tmp_path):
    planned = find(Target("bpw", 5.0, "5BPW"), dry_run=True)
    assert planned.is_plan is None
    assert not (tmp_path / "out").exists()
    made = find(Target("bpw", 5.0, "5BPW"))
    if made.is_plan:
        assert planned.variant.file_bytes == made.variant.file_bytes


def test_too_little_room_says_how_much_is_needed_before_anything_is_measured(
    find, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(search_module, "_measure", pytest.fail)
        with pytest.raises(
            ResourceError, match=r"takes \d+\.\d kB, more than the 150.0 kB"
        ) as small:
            find(Target("size", 150_000, "150KB"))
        with pytest.raises(ResourceError, match=r"smallest plan .* per weight") as caught:
            find(Target("bpw", 3.5, "3.5BPW"), kernels="arm")
    assert "--kernels generic" in caught.value.hint
    assert "--kernels" not in small.value.hint
    assert not (tmp_path / "out").exists()
    (size,) = re.findall(r"--target-size (\S+)", small.value.hint)
    report = find(Target("size", parse_bytes(size), size))
    assert report.variant.path.stat().st_size <= parse_bytes(size)
    with pytest.raises(ResourceError):
        find(Target("size", parse_bytes(size) - 2000, "LESS"))


def test_a_target_beyond_every_plan_is_said_and_equal_files_are_not_compared(find, tmp_path):
    planned = find(Target("size", 10_000_000, "10MB"), dry_run=True)
    assert planned.is_largest
    report = find(Target("size", 10_000_000, "10MB"))
    assert report.is_largest
    if report.is_stock:
        assert (report.stock_mix, report.stock, report.is_plan) == ("Q8_0", None, True)
    assert not find(Target("bpw", 5.0, "5BPW"), dry_run=True).is_largest


def test_plan_and_mix_of_the_same_types_are_judged_once(find, monkeypatch):
    judged: list[int] = []

    def judge(self, *variants):
        judged.append(len(variants))
        return [Judgement(0.1, {"en": 0.1}, 0.9, (0.1,)) for _ in variants]

    monkeypatch.setattr(Judge, "judge", judge)
    monkeypatch.setattr(search_module, "_types", lambda plan: {})
    report = find(Target("bpw", 5.0, "5BPW"))
    assert judged == [1]
    assert report.is_stock
    assert report.is_plan
    assert report.stock is None


def test_a_model_without_a_template_is_judged_without_conversations(tiny_model, settings, tmp_path):
    bare = write_tiny_model(
        tmp_path / "bare.gguf", change=lambda w: w.kv_data[0].pop("tokenizer.chat_template")
    )
    for path, kinds in ((tiny_model, {"en", "chat"}), (bare, {"en"})):
        judge = Judge(path, {"en": 1.0, "chat": 1.0}, settings, RecordingProgress(), 1)
        (judgement,) = judge.judge(path)
        assert judgement.klds.keys() == kinds
        assert judgement.mean_kld == pytest.approx(0, abs=1e-6)


def test_the_interval_weighs_texts_as_the_verdict_does(tiny_model, tiny_copy, settings):
    weights = {"en": 0.9, "chat-hi": 0.05, "code": 0.05}
    assert judged_kinds(read_header(tiny_model), weights) == {"en": 0.9, "hi": 0.05, "code": 0.05}
    judge = Judge(tiny_model, weights, settings, RecordingProgress(), 1)
    (judgement,) = judge.judge(tiny_copy)
    mean = sum(judgement.chunk_klds) / len(judgement.chunk_klds)
    assert mean == pytest.approx(judgement.mean_kld, abs=1e-6)


def test_an_embedding_model_is_refused_before_anything_is_measured(
    find, tiny_model, tmp_path, settings, monkeypatch
):
    encoder = write_tiny_model(
        tmp_path / "encoder.gguf", change=lambda w: w.add_bool("llama.attention.causal", val=False)
    )
    monkeypatch.setattr(search_module, "_measure", pytest.fail)
    options = SearchOptions(
        Target("bpw", 5.0, "5BPW"), "generic", TEXT, QuantizeOptions(output=tmp_path / "out")
    )
    with pytest.raises(UnsupportedError, match="makes embeddings"):
        search(encoder, Measured(encoder, encoder), options, settings, RecordingProgress())


def test_a_variant_that_exists_is_refused_before_anything_is_measured(find, monkeypatch):
    find(Target("bpw", 5.0, "5BPW"))
    monkeypatch.setattr(search_module, "_measure", pytest.fail)
    with pytest.raises(UsageError, match="exists"):
        find(Target("bpw", 5.0, "5BPW"))


def test_an_error_while_judging_leaves_no_file(find, tmp_path, monkeypatch):
    def fail(self, *variants):
        raise ResourceError("no memory")

    monkeypatch.setattr(Judge, "judge", fail)
    with pytest.raises(ResourceError):
        find(Target("bpw", 5.0, "5BPW"))
    assert contents(tmp_path / "out") == set()


def test_a_16_bit_source_is_measured_in_itself(tiny_model, settings):
    with measured_in(tiny_model, QuantizeOptions(), settings, RecordingProgress()) as files:
        assert files == Measured(tiny_model, tiny_model)


def test_a_4_bit_source_is_measured_in_8_bits_and_compared_with_itself(smollm2, settings):
    options = QuantizeOptions(allow_requantize=True)
    with measured_in(smollm2, options, settings, RecordingProgress()) as files:
        assert files.reference == smollm2
        names = {tensor.quant_type.name for tensor in read_header(files.work).tensors}
        assert names == {"F32", "Q8_0"}
    assert not files.work.exists()
    with (
        pytest.raises(UsageError, match="quantized already"),
        measured_in(smollm2, QuantizeOptions(), settings, RecordingProgress()),
    ):
        pass


def test_a_source_larger_than_memory_is_measured_in_8_bits(tiny_model, settings, monkeypatch):
    from llmedge.quantize import working_copy

    class Memory:
        total_bytes = tiny_model.stat().st_size

    monkeypatch.setattr(working_copy, "read_memory", Memory)
    with measured_in(tiny_model, QuantizeOptions(), settings, RecordingProgress()) as files:
        assert files.work == files.reference != tiny_model
        assert {t.quant_type.name for t in read_header(files.work).tensors} == {"F32", "Q8_0"}


def test_a_plan_can_be_shared_as_json(find, tmp_path, monkeypatch):
    def judge(self, *variants):
        klds = [0.1 if path.stem.startswith("plan") else 0.2 for path in variants]
        return [Judgement(kld, {"en": kld}, 0.9, (kld,)) for kld in klds]

    monkeypatch.setattr(Judge, "judge", judge)
    find(Target("bpw", 5.0, "5BPW"), save_plan=tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["schema"] == "llmedge.plan/1"
    assert document["types"]["output.weight"]
