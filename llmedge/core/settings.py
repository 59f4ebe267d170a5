"""What the environment and the config file say, read once into one frozen value.

Order: flag > recipe > `LLMEDGE_*` > config file > default. This module is the only reader of the
environment; whoever needs a setting is given it.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import platformdirs

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG_LEVELS = ("debug", "info", "warning", "error")
_KEYS = ("home", "threads", "log", "api_keys")
_CONFIG_VARIABLE = "LLMEDGE_CONFIG"
_HF_ENDPOINT = "https://huggingface.co"

# libgomp's barrier spins 300,000 rounds or forever by default; one loaded core then stalls all
# others. 1,000 rounds keep the speed of an idle machine. Measured in docs/threads.md.
_GOMP_SPIN_COUNT = "1000"

# What a name holds that is nobody else's business; proxies and databases carry passwords in URLs.
_SECRET = re.compile(
    r"TOKEN|SECRET|PASS(WORD|WD|PHRASE)|CREDENTIAL|COOKIE|AUTH|PROXY|HEADERS|(^|_)(KEYS?|APIKEY|DSN|URL|URI)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's settings.

    Attributes:
        home: Folder of models, records and caches.
        threads: Threads to compute with; `None` means the performance cores within the limits.
        log: Level of the log on stderr, `None` for none.
        hf_cache: Folder of the Hugging Face Hub cache.
        has_hf_token: Whether a Hub token is set or stored. The token itself is not kept.
        api_keys: Keys that let clients use the endpoint, separated by commas or white space.
        hf_endpoint: Address of the Hub or a mirror, without a slash at the end.
        is_hf_offline: Whether the Hub must not be asked.
        traces_exporter: How OpenTelemetry's `OTEL_*` variables want traces, with the protocol after
            a colon where they name one; `None` where they want none.
    """

    home: Path
    threads: int | None
    log: str | None
    hf_cache: Path
    has_hf_token: bool
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    hf_endpoint: str = _HF_ENDPOINT
    is_hf_offline: bool = False
    traces_exporter: str | None = None

    @property
    def models_dir(self) -> Path:
        """Where variants lie, one folder a name."""
        return self.home / "models"

    @property
    def state_dir(self) -> Path:
        """What llmedge remembers between runs and can do without."""
        return self.home / "state"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment and the config file.

    Raises:
        UsageError: An unknown `LLMEDGE_*` variable or config key, or a value that cannot be meant.
    """
    env = os.environ if environ is None else environ
    values: dict[str, str] = _read_config(env)
    for name, value in env.items():
        if not name.startswith("LLMEDGE_") or name == _CONFIG_VARIABLE:
            continue
        key = name.removeprefix("LLMEDGE_").lower()
        _check_key(key, f"environment variable {name}")
        values[key] = value
    home = values.get("home") or platformdirs.user_data_dir("llmedge", appauthor=False)
    try:
        folder = Path(home).expanduser().absolute()
    except RuntimeError:
        raise UsageError(f"home is {home!r}: nobody known here", "set LLMEDGE_HOME") from None
    return Settings(
        home=folder,
        threads=_parse_threads(values.get("threads")),
        log=_parse_log(values.get("log")),
        hf_cache=_hf_cache(env),
        has_hf_token=_has_hf_token(env),
        api_keys=split_keys(values.get("api_keys", "")),
        hf_endpoint=_hf_endpoint(env),
        is_hf_offline=any(_is_on(env, name) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")),
        traces_exporter=_traces_exporter(env),
    )


def read_hf_token(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the Hub token that is set or stored; kept out of `Settings`, which are shown."""
    env = os.environ if environ is None else environ
    if token := env.get("HF_TOKEN", "").strip():
        return token
    if _is_on(env, "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return None
    try:
        return _hf_token_path(env).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def environment_without_secrets(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child that runs what was downloaded: no tokens, no keys."""
    env = os.environ if environ is None else environ
    return {name: value for name, value in env.items() if not _SECRET.search(name)}


def split_keys(text: str) -> tuple[str, ...]:
    """Return the API keys in a text, separated by commas or white space."""
    return tuple(text.replace(",", " ").split())


def _traces_exporter(env: Mapping[str, str]) -> str | None:
    """Read how traces are wanted.

    Source: OpenTelemetry specification, "Environment variables" and "OTLP exporter".
    """
    places = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = env.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(env.get, places)) else "none")
    if exporter == "none" or env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(env.get, protocols)), None)
    return f"{exporter}:{protocol}" if protocol and exporter == "otlp" else exporter


def prepare_openmp() -> str:
    """Bound libgomp's spin wait, unless the user chose otherwise; call before it is loaded.

    Also keeps ggml from starting a debugger for a backtrace before it aborts.

    Returns:
        What is in force, as `NAME=value`, for `doctor` and the benchmark's fingerprint.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        if name in os.environ:
            return f"{name}={os.environ[name]}"
    os.environ["GOMP_SPINCOUNT"] = _GOMP_SPIN_COUNT
    return f"GOMP_SPINCOUNT={_GOMP_SPIN_COUNT}"


def _read_config(env: Mapping[str, str]) -> dict[str, str]:
    explicit = env.get(_CONFIG_VARIABLE)
    folder = Path(platformdirs.user_config_dir("llmedge", appauthor=False))
    path = Path(explicit) if explicit else folder / "config.toml"
    if not path.is_file():
        if explicit:
            raise UsageError(f"{_CONFIG_VARIABLE} names {path}, which is not a file", "unset it")
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of numbers
        raise UsageError(f"{path} is not valid TOML: {error}", f"mend or remove {path}") from None
    for key in table:
        _check_key(key, f"key {key!r} in {path}")
        if not isinstance(table[key], str | int):
            raise UsageError(f"key {key!r} in {path} is neither a text nor a number")
    return {key: str(cast("object", value)) for key, value in table.items()}


def _check_key(key: str, what: str) -> None:
    if key not in _KEYS:
        close = difflib.get_close_matches(key, _KEYS, n=1)
        known = ", ".join(f"LLMEDGE_{name.upper()}" for name in (*_KEYS, "config"))
        hint = f"did you mean {close[0]!r}?" if close else f"known: {known}"
        raise UsageError(f"unknown {what}", hint)


def _parse_threads(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > 9 or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1024:
        raise UsageError(f"threads is {text!r}, not a number from 1 to 1024", "set LLMEDGE_THREADS")
    return int(text)


def _parse_log(text: str | None) -> str | None:
    if text is not None and text not in _LOG_LEVELS:
        raise UsageError(f"log is {text!r}, not one of {', '.join(_LOG_LEVELS)}", "set LLMEDGE_LOG")
    return text


def _hf_home(env: Mapping[str, str]) -> Path:
    # Source: huggingface_hub documentation, "Environment variables".
    if "HF_HOME" in env:
        return Path(env["HF_HOME"]).expanduser()
    base = env.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "huggingface"


def _hf_cache(env: Mapping[str, str]) -> Path:
    explicit = env.get("HF_HUB_CACHE")
    return Path(explicit).expanduser() if explicit else _hf_home(env) / "hub"


def _has_hf_token(env: Mapping[str, str]) -> bool:
    if env.get("HF_TOKEN"):
        return True
    return _hf_token_path(env).is_file()


def _hf_token_path(env: Mapping[str, str]) -> Path:
    explicit = env.get("HF_TOKEN_PATH")
    return Path(explicit) if explicit else _hf_home(env) / "token"


def _hf_endpoint(env: Mapping[str, str]) -> str:
    address = env.get("HF_ENDPOINT", "").strip().rstrip("/") or _HF_ENDPOINT
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", address):
        raise UsageError(f"HF_ENDPOINT is {address!r}, not an address", "https://huggingface.co")
    return address


def _is_on(env: Mapping[str, str], name: str) -> bool:
    # Source: huggingface_hub documentation, "Environment variables", boolean values.
    return env.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
