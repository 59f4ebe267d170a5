"""Every command, driven through `main` in this process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmedge
from llmedge.cli import app as app_module
from tests.gguf_files import replace_value, write_tiny_model

COMMANDS = [
    *("imatrix", "quantize", "trim", "evaluate", "choose", "bench", "serve", "chat", "list"),
    *("show", "rm", "up", "run", "report", "link", "du", "verify", "doctor", "demo", "recipe"),
]


@pytest.fixture
def stored(cli, tiny_model: Path) -> str:
    """A variant in the store."""
    assert cli("quantize", tiny_model, "--no-imatrix", "-t", "Q4_0").code == 0
    return "tiny:Q4_0"


def test_help_lists_every_command(cli):
    result = cli("--help")
    assert result.code == 0
    for command in COMMANDS:
        assert f"  {command} " in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli, command: str):
    result = cli(command, "--help")
    assert result.code == 0
    assert "Usage: llmedge" in result.out


def test_no_command_shows_the_help(cli):
    for arguments in ([], ["recipe"]):
        result = cli(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "Usage:" in result.out


def test_the_version_names_llama_cpp_too(cli):
    result = cli("--version")
    assert result.code == 0
    assert re.fullmatch(
        rf"llmedge {llmedge.__version__} \(llama-cpp-python [\d.]+, llama.cpp \S+ \(\w+\)\)\n",
        result.out,
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["quantize"], "MODEL"),
        (["quantize", "x", "-t", "Q4_0", "--target-bpw", "4"], "exclude each other"),
        (["quantize", "x", "--max-kld", "1", "--target-bpw", "4"], "one target at a time"),
        (["quantize", "x", "--target-bpw", "99"], "cannot be meant"),
        (["quantize", "x", "--target-size", "much"], "'much'"),
        (["quantize", "x", "--save-plan", "p.json"], "add one of --target-size"),
        (["quantize", "x", "-t", "Q4_0", "--kernels", "arm"], "add one of --target-size"),
        (["quantize", "x", "--target-bpw", "5", "--ctx", "512"], "leave it away"),
        (["quantize", "x", "-t", "Q4_0", "-t", "Q8_0", "-o", "x.gguf"], "one file for 2 mixes"),
        (["quantize", "x", "--lang", "hi", "--calibration", "english"], "both say what counts"),
        (["show", "x", "--ctx", "many"], "--ctx"),
        (["show", "x", "--ctx", "0"], "--ctx"),
        (["list", "--format", "xml"], "xml"),
        (["quantize", "x y", "-t", "Q4_0"], "'x y'"),
        (["bench", "x.gguf", "--threads", "0"], "--threads"),
        (["chat", "x.gguf", "--temperature", "-1"], "--temperature"),
    ],
)
def test_a_wrong_command_line_is_exit_2_with_the_way_to_help(cli, arguments: list[str], word: str):
    result = cli(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert word in result.err
    assert "hint:" in result.err
    assert "Traceback" not in result.err


def test_an_error_with_json_is_json(cli):
    for arguments in (
        ["show", "nothing", "--json"],
        ["show", "nothing", "--format", "json"],
        ["show", "--json"],
    ):
        result = cli(*arguments)
        error = json.loads(result.err)
        assert error["schema"] == "llmedge.error/1"
        assert error["exit_code"] == result.code in (2, 3)


def test_a_bug_shows_its_traceback(monkeypatch):
    def stumble(**_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(app_module, "app", stumble)
    with pytest.raises(KeyError):
        app_module.main([])


def test_a_mistake_in_the_environment_is_exit_2(cli, monkeypatch):
    monkeypatch.setenv("LLMEDGE_THREADS", "many")
    result = cli("list")
    assert result.code == 2
    assert "threads is 'many'" in result.err


def test_an_empty_store_says_how_to_fill_it(cli):
    result = cli("list")
    assert result.code == 0
    assert "`llmedge convert` fills it" in result.err


def test_quantize_shows_what_it_made(cli, tiny_model: Path, tmp_path: Path):
    result = cli(
        "quantize",
        tiny_model,
        "--no-imatrix",
        "-t",
        "q4_0",
        "-t",
        "Q4_K_M",
        "-t",
        "Q4_0",
        "-o",
        tmp_path / "out",
    )
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()] == ["variant", "Q4_0", "Q4_K_M"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "tiny-Q4_0.gguf",
        "tiny-Q4_0.json",
        "tiny-Q4_K_M.gguf",
        "tiny-Q4_K_M.json",
    ]


def test_quantize_in_json_has_every_figure(cli, tiny_model: Path):
    (report,) = cli("quantize", tiny_model, "--no-imatrix", "-t", "Q8_0", "--json").json["results"]
    assert report["mix"] == "Q8_0"
    assert report["n_fallbacks"] == 0
    assert len(report["sha256"]) == 64


def test_a_dry_run_plans_and_says_what_falls_back(cli, smollm2: Path, home: Path):
    result = cli("quantize", smollm2, "-t", "Q4_K_M", "--dry-run", "--no-imatrix")
    assert result.code == 0
    assert "planned" in result.out
    assert "6.17" in result.out
    assert "Q4_K_M: 166 tensors are Q5_0 instead of Q4_K" in result.err
    assert not (home / "models").exists()


def test_quantize_refuses_a_mix_without_its_importance_matrix_before_it_writes(
    cli, tiny_model: Path, tmp_path: Path
):
    result = cli(
        "quantize", tiny_model, "--no-imatrix", "-t", "Q4_0", "-t", "iq2_xs", "-o", tmp_path / "out"
    )
    assert result.code == 4
    assert "IQ2_XS needs an importance matrix" in result.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_mix_is_refused_before_anything_is_written(cli, tiny_model: Path, home: Path):
    result = cli("quantize", tiny_model, "--no-imatrix", "-t", "Q4_0", "-t", "Q4_Z")
    assert result.code == 2
    assert "unknown mix 'Q4_Z'" in result.err
    assert not (home / "models").exists()


def test_the_store_is_listed_shown_and_emptied(cli, stored: str, monkeypatch):
    listed = cli("list", "--json").json["results"]
    assert [(entry["reference"], entry["problem"]) for entry in listed] == [(stored, None)]
    shown = cli("show", stored)
    assert shown.code == 0
    assert "bits per weight  " in shown.out
    assert "kv cache" in shown.out
    assert "Q4_0" in shown.out
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO("n\n"))
    refused = cli("rm", stored)
    assert refused.code == 2
    assert "nothing was deleted" in refused.err
    removed = cli("rm", stored, "--yes")
    assert removed.code == 0
    assert "are free again" in removed.err
    assert cli("list", "--json").json["results"] == []


def test_rm_takes_all_variants_of_a_name(cli, stored: str, tiny_model: Path):
    cli("quantize", tiny_model, "--no-imatrix", "-t", "Q8_0")
    assert cli("rm", "tiny", "tiny:Q8_0", "--yes").code == 0
    assert cli("rm", "tiny", "--yes").code == 3


def test_rm_takes_no_paths(cli, tiny_copy: Path):
    assert cli("rm", tiny_copy, "--yes").code == 2
    assert tiny_copy.exists()


def test_show_tells_the_memory_at_a_context(cli, smollm2: Path):
    (facts,) = cli("show", smollm2, "--ctx", 2048, "--json").json["results"]
    assert facts["memory"]["kv_cache_bytes"] == 45 << 20
    assert facts["memory"]["n_ctx"] == 2048
    assert facts["types"][0]["quant_type"] == "Q4_1"
    assert facts["metadata"]["general.languages"] == ["en"]
    assert facts["metadata"]["tokenizer.ggml.tokens"] == "[49152 × str]"


def test_show_lists_tensors(cli, tiny_model: Path):
    result = cli("show", tiny_model, "--tensors")
    assert "blk.0.ffn_down.weight" in result.out
    assert "256 × 256" in result.out


def test_show_says_when_the_memory_is_not_modelled(cli, tmp_path: Path):
    path = write_tiny_model(
        tmp_path / "m.gguf", change=lambda w: replace_value(w, "general.architecture", "rwkv7")
    )
    result = cli("show", path)
    assert result.code == 0
    assert "not modelled" in result.err
    assert "kv cache" not in result.out


def test_show_lets_no_control_sequence_through(cli, tmp_path: Path):
    path = write_tiny_model(
        tmp_path / "m.gguf", change=lambda w: replace_value(w, "general.name", "\x1b]0;pwned\x07")
    )
    result = cli("show", path)
    assert "\x1b" not in result.out
    assert "pwned" in result.out


def test_show_needs_no_llama_cpp(tiny_model: Path, home: Path):
    code = (
        "import sys; sys.modules['llama_cpp'] = None; sys.modules['numpy'] = None\n"
        "from llmedge.cli.app import main; main(['show', sys.argv[1]])"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bench_shows_a_row_a_model(cli, tiny_model: Path):
    arguments = ["bench", tiny_model, "--n-prompt", 16, "--n-gen", 4, "-r", 2, "--threads", 1]
    arguments += ["--contended", "flag"]
    result = cli(*arguments)
    assert result.code == 0
    assert "±" in result.out
    (record,) = cli(*arguments, "--json").json["results"]
    assert record["schema"] == "llmedge.bench/2"
    assert record["prompt"]["mean"] > 0
    assert record["fingerprint"]["n_threads"] == 1


def test_a_busy_machine_is_noted_beside_the_result(cli, tiny_model: Path):
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        arguments = ["bench", tiny_model, "--n-prompt", 64, "--n-gen", 32, "-r", 3, "--threads", 1]
        result = cli(*arguments, "--contended", "flag")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert result.code == 0
    assert "contended" in result.out
    assert "do not compare this result" in result.err


def test_doctor_shows_every_topic(cli):
    result = cli("doctor")
    assert result.code in (0, 4)
    assert "kernels in use" in result.out
    assert (result.code == 4) == ("✗" in result.out)


def test_recipes_are_checked(cli, tmp_path: Path):
    assert "smollm2-135m-instruct: ok" in cli("recipe", "check", "smollm2-135m-instruct").err
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("schema_version = 1\n", encoding="utf-8")
    result = cli("recipe", "check", wrong)
    assert result.code == 2
    assert "variant: is missing" in result.err


def test_a_damaged_file_is_exit_6_and_a_missing_one_exit_3(cli, tiny_copy: Path, tmp_path: Path):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:5000])
    missing = tmp_path / "none.gguf"
    for command in (
        ["show"],
        ["quantize", "-t", "Q4_0", "--no-imatrix"],
        ["bench"],
        ["chat"],
        ["serve"],
    ):
        assert cli(command[0], tiny_copy, *command[1:]).code == 6
        assert cli(command[0], missing, *command[1:]).code == 3


def test_a_closed_pipe_is_no_error(tiny_model: Path, home: Path):
    shell = f"{sys.executable} -m llmedge show {tiny_model} --tensors | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 120)


def test_a_name_that_is_no_text_is_refused(cli):
    result = cli("quantize", "bad\udcff.gguf", "-t", "Q8_0")
    assert result.code == 2
    assert "'bad?.gguf' is not UTF-8" in result.err
