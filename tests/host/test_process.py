import os
import subprocess
import sys

from llmedge.host.process import is_running


def test_a_process_runs_until_it_has_ended():
    assert is_running(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not is_running(process.pid)


def test_a_stdout_whose_reader_has_gone_ends_quietly():
    code = (
        "import os, sys\nfrom llmedge.host.process import discard_stdout\n"
        "sys.stdout.write('x' * 100)\nos.close(1)\nos.open(os.devnull, os.O_RDONLY)\n"
        "discard_stdout()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
