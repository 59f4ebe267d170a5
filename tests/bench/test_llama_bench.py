import json
import sqlite3
from pathlib import Path

import pytest

from llmedge.bench.files import import_llama_bench, read_results
from llmedge.bench.llama_bench import export_rows, import_rows
from llmedge.bench.rows import flat_row, to_sql
from llmedge.core.errors import IntegrityError, NotFoundError
from llmedge.core.settings import Settings
from llmedge.store.records import append_record, read_records
from tests.bench.results import make_result

# Source: `test::get_fields` of llama.cpp's tools/llama-bench/llama-bench.cpp, and its samples.
_FIELDS = """
build_commit build_number cpu_info gpu_info backends model_filename model_type model_size
model_n_params n_batch n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers
n_cpu_moe split_mode main_gpu no_kv_offload flash_attn devices tensor_split tensor_buft_overrides
load_mode lazy_mode embeddings no_op_offload no_host repack fit_target fit_min_ctx n_prompt n_gen
n_depth test_time avg_ns stddev_ns avg_ts stddev_ts samples_ns samples_ts
"""
FIELDS = _FIELDS.split()


def test_rows_have_llama_benchs_fields_in_its_order():
    prompt, generation = export_rows([make_result(n_depth=64)])
    assert list(prompt) == list(generation) == FIELDS
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"]) == (512, 0, 64)
    assert (generation["n_prompt"], generation["n_gen"]) == (0, 128)
    assert generation["avg_ts"] == pytest.approx(20.0)
    assert generation["samples_ns"][0] == round(128 / 20.0 * 1e9)  # type: ignore[index]
    assert prompt["build_commit"] == "abc123"


@pytest.mark.parametrize("as_lines", [False, True])
def test_what_is_exported_is_imported_with_the_same_figures(as_lines: bool):
    rows = export_rows([make_result(), make_result(n_depth=1024)])
    text = "\n".join(map(json.dumps, rows)) if as_lines else json.dumps(rows)
    results, n_left_out = import_rows(text, "x.json")
    assert n_left_out == 0
    assert [result.n_depth for result in results] == [0, 1024]
    assert results[0].prompt == make_result().prompt
    assert results[0].generation == make_result().generation
    assert results[0].fingerprint.n_threads == 2
    assert results[0].flags == ("unchecked",)


def test_rows_of_prompt_and_generation_at_once_are_left_out():
    rows = export_rows([make_result()])
    results, n_left_out = import_rows(json.dumps([{**rows[0], "n_gen": 64}, rows[1]]), "x")
    assert n_left_out == 1
    assert results[0].prompt.samples == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "nonsense", "[1]", '[{"model": "x"}]', "[" * 9999]
)
def test_anything_else_is_refused(text: str):
    with pytest.raises(IntegrityError, match="no output of llama-bench"):
        import_rows(text, "x.json")


def test_an_import_is_recorded_and_files_of_each_form_are_read(settings: Settings, tmp_path: Path):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(export_rows([make_result()])))
    assert import_llama_bench(path, settings)[0] == read_results(path)
    (record,) = read_records(settings, "bench")
    assert record["measured_by"] == "llama-bench"
    records = append_record(settings, "bench", make_result())
    assert [result.measured_by for result in read_results(records)] == ["llama-bench", "llmedge"]
    with pytest.raises(NotFoundError):
        read_results(tmp_path / "none.json")


def test_sql_fills_a_table_whatever_the_names_hold(tmp_path: Path):
    results = [make_result(model="it's; DROP"), make_result(flags=("contended", "charging"))]
    with sqlite3.connect(":memory:") as database:
        database.executescript(to_sql(results) + to_sql(results))
        rows = database.execute(
            "SELECT model, tg_tokens_per_s, flags, load_cold_s FROM llmedge_bench"
        ).fetchall()
    database.close()
    assert rows[0] == ("it's; DROP", pytest.approx(20.0), "", None)
    assert rows[1][2] == "contended,charging"
    assert len(rows) == 4
    assert to_sql([]) == ""
    assert flat_row(results[0])["features"] == "AVX2"
