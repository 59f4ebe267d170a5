import dataclasses
import json

import pytest

from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from llmedge.gguf.reader import read_header
from llmedge.store.plan_file import PlanFile, read_plan, require_types, write_plan

PLAN = PlanFile(
    model="tiny",
    architecture="llama",
    base="Q4_K_M",
    types={"output.weight": "Q6_K", "blk.0.ffn_up.weight": "Q4_K"},
    target="4.5BPW",
    kernels="arm",
    weights={"en": 1.0},
    bits_per_weight=4.5,
    predicted_kld=0.05,
)


def test_a_plan_comes_back_as_it_was_written(tiny_model, tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, PLAN)
    assert read_plan(path, read_header(tiny_model)) == PLAN


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"types": {"outptu.weight": "Q6_K"}}, UsageError, "outptu"),
        ({"types": {"output.weight": "Q7"}}, UsageError, "unknown type 'Q7'"),
        ({"types": {"output.weight": 6}}, IntegrityError, "no plan"),
        ({"types": {"output_norm.weight": "Q6_K"}}, UsageError, "output_norm"),
        ({"target": "../../../x"}, IntegrityError, "is no name"),
        ({"schema": "llmedge.plan/2"}, UnsupportedError, "llmedge.plan/2"),
        ({"architecture": "gemma3"}, UnsupportedError, "architecture 'gemma3', and .* is 'llama'"),
        ({"kernels": "abacus"}, IntegrityError, "no plan: .*kernels"),
        ({"bits_per_weight": 0}, IntegrityError, "no plan: .*bits_per_weight"),
        ({"bits_per_weight": -4.5}, IntegrityError, "no plan: .*bits_per_weight"),
        ({"weights": {"en": -1}}, IntegrityError, "no plan: .*weights"),
        ({"types": {}}, IntegrityError, "no plan: .*types"),
    ],
)
def test_an_edited_plan_is_checked(tiny_model, tmp_path, change, error, message: str):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**dataclasses.asdict(PLAN), **change}))
    with pytest.raises(error, match=message):
        read_plan(path, read_header(tiny_model))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b"{" + b" " * 99])
def test_what_is_no_plan_is_called_so(tiny_model, tmp_path, data: bytes):
    path = tmp_path / "plan.json"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="no plan"):
        read_plan(path, read_header(tiny_model))


def test_a_missing_plan_is_not_found(tiny_model, tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.json"):
        read_plan(tmp_path / "none.json", read_header(tiny_model))


def test_a_plan_that_an_editor_marked_as_utf8_is_read(tiny_model, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(dataclasses.asdict(PLAN)), encoding="utf-8-sig")
    assert read_plan(path, read_header(tiny_model)) == PLAN


@pytest.mark.parametrize("type_name", ["Q8_K", "Q8_1", "I8", "I16", "I32", "I64", "F64"])
def test_a_type_that_nothing_can_write_is_refused(tiny_model, type_name: str):
    """llama.cpp's quantizer would end the process."""
    with pytest.raises(UsageError, match=f"type '{type_name}', which cannot be written") as caught:
        require_types({"output.weight": type_name}, read_header(tiny_model), "here")
    assert "Q8_0" in caught.value.hint
    assert type_name not in caught.value.hint.split(": ")[1].split(", ")
