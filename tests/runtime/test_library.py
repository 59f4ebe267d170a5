import logging
import subprocess
import sys

from llmedge.runtime.library import (
    LEVEL_ERROR,
    _parse_features,
    collected_errors,
    library,
    library_info,
    log_listener,
)
from llmedge.runtime.model import Model


def test_the_library_says_what_it_is():
    info = library_info()
    assert info.binding_version.startswith("0.3.")
    assert info.label == f"llama.cpp {info.llama_cpp_version} ({info.commit})"
    assert info.features
    assert "=" in info.openmp


def test_features_are_those_that_are_on():
    text = "CPU : SSE3 = 1 | AVX2 = 0 | FMA = 1 | "
    assert _parse_features(text) == ("SSE3", "FMA")
    assert _parse_features("") == ()


def test_the_library_is_loaded_once():
    assert library() is library()


def test_llama_cpps_log_goes_to_logging_at_debug(smollm2, caplog):
    with caplog.at_level(logging.DEBUG, logger="llmedge.llama_cpp"), Model.load(smollm2):
        pass
    assert any("n_layer" in record.message for record in caplog.records)
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


def test_nothing_is_written_to_the_terminal(smollm2, capfd):
    with Model.load(smollm2):
        pass
    assert capfd.readouterr() == ("", "")


def test_listeners_hear_until_they_leave():
    from llmedge.runtime import library as module

    heard: list[str] = []
    with log_listener(lambda _, text: heard.append(text)), collected_errors() as errors:
        module._on_log(LEVEL_ERROR, b"it broke\n", None)
        module._on_log(2, b"all is well\n", None)
    module._on_log(LEVEL_ERROR, b"later\n", None)
    assert heard == ["it broke\n", "all is well\n"]
    assert errors == ["it broke"]


def test_the_spin_setting_is_in_force_before_openmp_is_loaded():
    code = (
        "import os\n"
        "for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'): os.environ.pop(name, None)\n"
        "import sys; from llmedge.runtime.library import library; library()\n"
        "assert os.environ['GOMP_SPINCOUNT'] == '1000'; print('llama_cpp.llama_cpp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_a_missing_binding_says_how_to_get_it_without_a_compiler():
    code = (
        "import sys; sys.modules['llama_cpp'] = None\n"
        "from llmedge.runtime.library import library\n"
        "from llmedge.core.errors import UnsupportedError\n"
        "try: library()\n"
        "except UnsupportedError as error: print(error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--extra-index-url https://" in done.stdout, done.stderr
