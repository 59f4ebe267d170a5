import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmedge.core.errors import UsageError
from llmedge.core.settings import (
    environment_without_secrets,
    load_settings,
    prepare_openmp,
)


def load(tmp_path: Path, config: str | None = None, **variables: str):
    environ = dict(variables)
    if config is not None:
        path = tmp_path / "config.toml"
        path.write_text(config, encoding="utf-8")
        environ["LLMEDGE_CONFIG"] = str(path)
    return load_settings(environ)


def test_the_defaults_name_a_folder_of_the_user():
    settings = load_settings({})
    assert settings.home.is_absolute()
    assert settings.home.name == "llmedge"
    assert (settings.threads, settings.log) == (None, None)


def test_the_environment_beats_the_config_file(tmp_path: Path):
    settings = load(tmp_path, 'home = "/from/file"\nthreads = 3\n', LLMEDGE_THREADS="5")
    assert (settings.home, settings.threads) == (Path("/from/file").absolute(), 5)


def test_models_and_state_lie_in_the_home(tmp_path: Path):
    settings = load(tmp_path, LLMEDGE_HOME=str(tmp_path))
    assert settings.models_dir == tmp_path / "models"
    assert settings.state_dir == tmp_path / "state"


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "", "1025", "٣"])
def test_threads_must_be_a_sensible_number(tmp_path: Path, value: str):
    with pytest.raises(UsageError, match="threads is"):
        load(tmp_path, LLMEDGE_THREADS=value)


def test_an_unknown_log_level_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="log is 'loud'"):
        load(tmp_path, LLMEDGE_LOG="loud")


def test_an_unknown_variable_is_refused_with_what_is_close(tmp_path: Path):
    with pytest.raises(UsageError, match="LLMEDGE_THREAD") as caught:
        load(tmp_path, LLMEDGE_THREAD="2")
    assert "'threads'" in caught.value.hint


def test_an_unknown_config_key_is_refused_with_the_file(tmp_path: Path):
    with pytest.raises(UsageError, match=r"key 'colour' in .*config.toml") as caught:
        load(tmp_path, "colour = true\n")
    assert "LLMEDGE_HOME" in caught.value.hint


@pytest.mark.parametrize("config", ["[home]\nx = 1", "home = [1]", "threads = 1.5"])
def test_a_config_value_of_a_wrong_type_is_refused(tmp_path: Path, config: str):
    with pytest.raises(UsageError, match="neither a text nor a number"):
        load(tmp_path, config)


@pytest.mark.parametrize("config", ["home = ", "\x00", "threads 3"])
def test_a_broken_config_file_is_refused(tmp_path: Path, config: str):
    with pytest.raises(UsageError, match="not valid TOML"):
        load(tmp_path, config)


def test_a_config_file_that_is_not_utf8_is_refused(tmp_path: Path):
    path = tmp_path / "latin1.toml"
    path.write_bytes('home = "\xe9"'.encode("latin-1"))
    with pytest.raises(UsageError, match="not valid TOML"):
        load_settings({"LLMEDGE_CONFIG": str(path)})


def test_a_config_file_that_is_named_must_exist(tmp_path: Path):
    with pytest.raises(UsageError, match="not a file"):
        load_settings({"LLMEDGE_CONFIG": str(tmp_path / "missing.toml")})


def test_the_hub_cache_follows_the_hubs_own_variables(tmp_path: Path):
    assert load(tmp_path, HF_HUB_CACHE="/c").hf_cache == Path("/c")
    assert load(tmp_path, HF_HOME="/h").hf_cache == Path("/h/hub")
    assert load(tmp_path, XDG_CACHE_HOME="/x").hf_cache == Path("/x/huggingface/hub")


def test_a_hub_token_is_noticed_and_not_kept(tmp_path: Path):
    assert not load(tmp_path, HF_HOME=str(tmp_path)).has_hf_token
    settings = load(tmp_path, HF_TOKEN="hf_secret")
    assert settings.has_hf_token
    assert "hf_secret" not in repr(settings)
    (tmp_path / "token").write_text("hf_secret", encoding="ascii")
    assert load(tmp_path, HF_HOME=str(tmp_path)).has_hf_token


def openmp_in_a_fresh_process(**variables: str) -> str:
    code = "from llmedge.core.settings import prepare_openmp; print(prepare_openmp())"
    environ = {name: value for name, value in os.environ.items() if "OMP" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ | variables, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_openmp_spins_shortly_unless_the_user_chose():
    assert openmp_in_a_fresh_process() == "GOMP_SPINCOUNT=1000"
    assert openmp_in_a_fresh_process(GOMP_SPINCOUNT="7") == "GOMP_SPINCOUNT=7"
    passive = openmp_in_a_fresh_process(OMP_WAIT_POLICY="passive")
    assert passive == "OMP_WAIT_POLICY=passive"


def test_preparing_openmp_twice_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "42")
    assert prepare_openmp() == prepare_openmp() == "GOMP_SPINCOUNT=42"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "LLMEDGE_API_KEYS",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "DATABASE_URL",
        "https_proxy",
        "HUGGING_FACE_HUB_TOKEN",
        "SSH_AUTH_SOCK",
        "OTEL_EXPORTER_OTLP_HEADERS",
    ],
)
def test_a_secret_is_not_passed_on(name: str):
    assert environment_without_secrets({name: "hush", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_what_a_process_needs_is_passed_on():
    names = (
        "PATH",
        "HOME",
        "GOMP_SPINCOUNT",
        "LD_LIBRARY_PATH",
        "SYSTEMROOT",
        "LANG",
        "XKB_KEYMAP",
    )
    assert tuple(environment_without_secrets(dict.fromkeys(names, "x"))) == names


def test_api_keys_are_several_and_never_shown(tmp_path: Path):
    settings = load(tmp_path, LLMEDGE_API_KEYS="first-key, second-key\nthird-key")
    assert settings.api_keys == ("first-key", "second-key", "third-key")
    assert "first-key" not in repr(settings)
    assert load_settings({}).api_keys == ()
