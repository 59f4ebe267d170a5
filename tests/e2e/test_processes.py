"""The command line as its users run it: processes, signals, pipes and sockets."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from llmedge.gguf.reader import read_header
from tests.gguf.test_fuzz import mutations

LLMEDGE = [sys.executable, "-m", "llmedge"]
CODES = (0, 2, 3, 4, 5, 6)


def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*LLMEDGE, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


class Server:
    """`llmedge serve` in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        command = [*LLMEDGE, "serve", *map(str, arguments), "--port", "0"]
        # What only the tests know of is an unknown setting to the command line.
        known = {name: value for name, value in os.environ.items() if "LLMEDGE_TEST_" not in name}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=known)
        assert self.process.stderr is not None
        self.said = ""
        self.url = ""
        for line in self.process.stderr:
            self.said += line
            if match := re.search(r"on (http://\S+)/v1", line):
                self.url = match[1]
                break
        # What it says later must not fill the pipe.
        self.reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self.reader.start()

    def post(self, path: str, body: object, timeout: float = 60):
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


HELLO = {
    "messages": [{"role": "user", "content": "What is the capital of India?"}],
    "temperature": 0,
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_answers_and_stops_cleanly(smollm2: Path, number: signal.Signals):
    server = Server(smollm2, "--ctx", 1024)
    assert "export OPENAI_BASE_URL=" in server.said or server.url
    status, text = server.post("/v1/chat/completions", HELLO)
    assert status == 200
    assert "New Delhi" in json.loads(text)["choices"][0]["message"]["content"]
    assert server.stop(number) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_server_that_is_stopped_in_the_middle_tells_its_clients(tiny_model: Path):
    # Random weights never end their text.
    server = Server(tiny_model, "--ctx", 200_000)
    long = {"prompt": "la la la", "max_tokens": 190_000, "temperature": 0}
    answers: list[tuple[int, str]] = []

    def ask(stream: bool) -> None:
        answers.append(server.post("/v1/completions", {**long, "stream": stream}))

    threads = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
    for thread in threads:
        thread.start()
        time.sleep(0.5)
    assert server.stop() == 0
    for thread in threads:
        thread.join(10)
    by_status = dict(answers)
    assert "the engine was closed" in by_status[200]
    assert by_status[200].rstrip().splitlines()[-1].startswith('data: {"error"')
    assert json.loads(by_status[503])["error"]["type"] == "server_error"


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(smollm2: Path):
    server = Server(smollm2, "--ctx", 512)
    try:
        port = server.url.rpartition(":")[2]
        done = run("serve", smollm2, "--port", port)
        assert done.returncode == 2
        assert "cannot be listened on" in done.stderr
    finally:
        server.stop()


def test_a_piped_question_is_answered_once(smollm2: Path):
    question = "What is the capital of India?"
    done = run("chat", smollm2, "--temperature", 0, "--ctx", 1024, stdin=question)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The capital of India is New Delhi.\n"


def test_a_piped_question_may_be_hindi(smollm2: Path):
    done = run(
        "chat", smollm2, "--temperature", 0, "--max-tokens", 24, stdin="भारत की राजधानी क्या है?"
    )
    assert done.returncode == 0, done.stderr
    assert any("\u0900" <= char <= "\u097f" for char in done.stdout)


def test_an_empty_question_is_a_usage_error(smollm2: Path):
    done = run("chat", smollm2, stdin=" \n")
    assert done.returncode == 2
    assert "is empty" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["chat", "evaluate", "bench", "serve"])
def test_an_interrupt_at_any_moment_ends_the_process(
    smollm2: Path, command: str, number: signal.Signals
):
    arguments = {
        "chat": ["--max-tokens", "5000", "--temperature", "2"],
        "evaluate": ["--reference", str(smollm2)],
        "bench": ["-r", "100"],
        "serve": ["--port", "0"],
    }[command]
    for delay_s in (0.4, 0.7, 1.5):
        process = subprocess.Popen(
            [*LLMEDGE, command, str(smollm2), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write("Tell me a long story.")
        process.stdin.close()
        process.stdin = None
        time.sleep(delay_s)
        process.send_signal(number)
        try:
            _, stderr = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            _, stderr = process.communicate()
        assert process.returncode in ((130, 0) if command == "serve" else (130,)), stderr
        assert "Traceback" not in stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell is needed")
@pytest.mark.parametrize(
    "line",
    [
        "show {model} --tensors | head -1",
        "list | true",
        "--help | true",
        "list >&-",
        "show {model} >/dev/full",
        "list >/dev/full",
        "show nosuch 2>&-",
    ],
)
def test_closed_and_full_outputs_are_no_tracebacks(tiny_model: Path, line: str):
    shell = " ".join(LLMEDGE) + " " + line.format(model=tiny_model)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    expected = {"/dev/full": 5, "nosuch": 3}
    code = next((code for word, code in expected.items() if word in line), 0)
    assert done.returncode == code


SOME, MANY = 30, pytest.param(200, marks=pytest.mark.slow)


@pytest.mark.parametrize("n_files", [SOME, MANY])
def test_damaged_files_through_the_commands(tiny_model: Path, tmp_path: Path, n_files: int):
    data = tiny_model.read_bytes()
    header_end = read_header(tiny_model).data_offset
    path = tmp_path / "damaged.gguf"
    for number, damaged in enumerate(mutations(data, header_end, n_files)):
        path.write_bytes(damaged)
        command = (
            ["show"],
            ["quantize", "--no-imatrix", "-t", "Q4_0", "-o", str(tmp_path / "out"), "--overwrite"],
        )
        for name, *options in command:
            done = run(name, path, *options)
            assert done.returncode in CODES, (number, name, done.stderr)
            assert "Traceback" not in done.stderr
            assert (done.returncode == 0) == ("error:" not in done.stderr)
            assert len(done.stderr) < 5000


@pytest.mark.parametrize("n_files", [SOME, MANY])
def test_damaged_files_through_the_server(tiny_model: Path, tmp_path: Path, n_files: int):
    data = tiny_model.read_bytes()
    header_end = read_header(tiny_model).data_offset
    path = tmp_path / "damaged.gguf"
    served = 0
    for number, damaged in enumerate(mutations(data, header_end, n_files)):
        path.write_bytes(damaged)
        server = Server(path, "--ctx", 256)
        if not server.url:
            code = server.process.wait(60)
            assert code in CODES, (number, server.said)
            assert "error:" in server.said
            server.process.stderr.close()  # type: ignore[union-attr]
            continue
        served += 1
        status, _ = server.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
        assert status in (200, 400, 500, 503)
        assert server.stop() == 0
    assert served < n_files


def test_completion_is_shown(home: Path):
    # Which shell calls is found by looking at the parent process; here it is said instead.
    environ = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [*LLMEDGE, "--show-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert "_LLMEDGE_COMPLETE" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_two_signals_at_once_are_one_error(tmp_path: Path):
    # What `timeout` does: to the process, and then to its group.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path)}
    with subprocess.Popen(
        [*LLMEDGE, "pull", "a/b"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()  # it waits to try again
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.0005)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in stderr
