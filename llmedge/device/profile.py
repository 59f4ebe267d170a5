"""Devices as data: what is known of each, and where that comes from."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.core.units import parse_bytes
from llmedge.device.speed import (
    DeviceScale,
    Isa,
    Work,
    calibrate,
    load_parameters,
    scale_from_bandwidth,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FACTS = ("ram", "soc", "footprint", "battery_wh", "power_w", "tg_per_s", "pp_per_s")
_TEXTS = ("title", "os")
_OWN = ("visible_ram", *_FACTS)
# Qwen2.5-1.5B as Q4_0, the model that devices are calibrated with: 706 MiB of layers in Q4_0,
# 182.6 MiB of output matrix in Q6_K, 28 layers, 7 MiB of kv cache for 256 tokens.
REFERENCE = Work({"Q4_0": 740e6, "Q6_K": 191.4e6}, {"Q4_0": 1.316e9}, 7 << 20, 28)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something known of a device.

    Attributes:
        value: A number or a text.
        source: Where it was found; empty where nobody shows it.
    """

    value: str | float
    source: str = ""

    @property
    def number(self) -> float:
        """The value as a number."""
        return float(self.value)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a device's memory one program may use.

    Attributes:
        safe_bytes: Below this a model fits.
        limit_bytes: Above this it does not.
        footprint_bytes: A limit of its own for what is no mapped file, as on iOS.
        source: Where this comes from.
    """

    safe_bytes: int
    limit_bytes: int
    footprint_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A device.

    Attributes:
        name: What `--target` takes.
        title: For people.
        os: `android`, `ios` or `linux`; `host` is this machine.
        isa: What kernels it runs.
        n_threads: How many run fastest.
        budget: Its memory.
        scale: Its speed; `None` where nothing tells.
        is_calibrated: Whether a run of the reference model is known.
        facts: Everything, by name.
    """

    name: str
    title: str
    os: str
    isa: Isa
    n_threads: int
    budget: Budget
    scale: DeviceScale | None
    is_calibrated: bool
    facts: Mapping[str, Fact]

    @property
    def unsourced(self) -> list[str]:
        """Names of facts that nobody shows."""
        return sorted(name for name, fact in self.facts.items() if not fact.source)


def shipped_profiles() -> dict[str, Profile]:
    """Return the devices that llmedge knows."""
    tables = _table("profiles.toml")
    return {name: _profile(name, table) for name, table in tables.items()}


def load_profiles(path: Path) -> dict[str, Profile]:
    """Read devices from a TOML file of the form of the shipped ones.

    Raises:
        UsageError: The file is malformed, or a key or system on chip is unknown.
        NotFoundError: There is no such file.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"there is no {path}", "llmedge devices list") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", f"mend {path}") from None
    try:
        return {name: _profile(name, table) for name, table in tables.items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} does not describe a device: {error}",
            'each fact is [value, source], such as ram = ["4GiB", "the box"]',
        ) from None


def find_profile(name: str, folder: Path) -> Profile:
    """Return a device by its name, or the only one of a file.

    Args:
        name: A shipped or added device, or the path of a TOML file.
        folder: Where added devices are.

    Raises:
        NotFoundError: Nobody knows it.
        UsageError: The file is malformed or describes several.
    """
    if name.endswith(".toml"):
        from pathlib import Path

        found = list(load_profiles(Path(name)).values())
        if len(found) != 1:
            raise UsageError(f"{name} describes {len(found)} devices", "one is wanted")
        return found[0]
    profiles = all_profiles(folder)
    if name not in profiles:
        raise NotFoundError(f"no device is called {name!r}", "llmedge devices list")
    return profiles[name]


def all_profiles(folder: Path) -> dict[str, Profile]:
    """Return all devices: the shipped ones, and those in a folder, which win."""
    profiles = shipped_profiles()
    for path in sorted(folder.glob("*.toml")):
        profiles |= load_profiles(path)
    return profiles


@functools.cache
def _table(name: str) -> dict[str, Any]:
    text = resources.files("llmedge.device").joinpath(name).read_text(encoding="utf-8")
    return tomllib.loads(text)


def _facts(table: Mapping[str, Any]) -> dict[str, Fact]:
    return {key: Fact(*cast("list[Any]", value)) for key, value in table.items()}


def _profile(name: str, table: Mapping[str, Any]) -> Profile:
    unknown = set(table) - {*_TEXTS, *_OWN}
    if unknown:
        raise UsageError(
            f"{name} has an unknown key {min(unknown)!r}", f"known: {', '.join((*_TEXTS, *_OWN))}"
        )
    facts = _facts({key: value for key, value in table.items() if key not in _TEXTS})
    system = str(table["os"])
    if system not in _table("budgets.toml"):
        raise UsageError(f"{name} has an unknown os {system!r}", "known: android, ios, linux")
    chip = str(facts["soc"].value)
    socs = _table("socs.toml")
    if chip not in socs:
        raise UsageError(f"{name} has an unknown soc {chip!r}", f"known: {', '.join(socs)}")
    facts |= {f"soc.{key}": fact for key, fact in _facts(socs[chip]).items()}
    shares = _facts(_table("budgets.toml")[system])
    facts |= {f"budget.{key}": fact for key, fact in shares.items()}
    isa = cast("Isa", str(facts["soc.isa"].value))
    scale, is_calibrated = _scale(facts, isa)
    return Profile(
        name,
        str(table.get("title", name)),
        system,
        isa,
        int(facts["soc.threads"].number),
        _budget(facts, shares),
        scale,
        is_calibrated,
        facts,
    )


def _budget(facts: Mapping[str, Fact], shares: Mapping[str, Fact]) -> Budget:
    visible = parse_bytes(str(facts["ram"].value)) * shares["visible"].number
    if "visible_ram" in facts:
        visible = parse_bytes(str(facts["visible_ram"].value))
    limit = int(visible * shares["limit"].number)
    footprint = facts.get("footprint")
    return Budget(
        int(visible * shares["safe"].number),
        limit,
        parse_bytes(str(footprint.value)) if footprint else limit,
        (footprint or shares["safe"]).source or "a usual share of memory; nobody shows it",
    )


def _scale(facts: Mapping[str, Fact], isa: Isa) -> tuple[DeviceScale, bool]:
    if "tg_per_s" in facts:
        prompt = facts["pp_per_s"].number if "pp_per_s" in facts else None
        own = calibrate(load_parameters(isa), REFERENCE, facts["tg_per_s"].number, prompt)
        return own, True
    return scale_from_bandwidth(facts["soc.bandwidth_gb_per_s"].number * 1e9), False
