"""The verdict over one model on one device: does it fit, how fast is it, and what says so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmedge.core.units import format_mib
from llmedge.device.speed import (
    Interval,
    is_fitted,
    load_parameters,
    passive_sustained_factor,
    predict_pp,
    predict_tg,
)
from llmedge.device.work import work_of
from llmedge.gguf.memory import KvCacheOptions
from llmedge.gguf.quant_types import BY_NAME
from llmedge.gguf.run_memory import RunMemory, run_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.device.profile import Profile
    from llmedge.gguf.reader import Header, TensorInfo

Kind: TypeAlias = Literal["fits", "tight", "thrashes", "killed", "slow"]
_PROMPT_TOKENS = 300
# Source: `ggml_repack_get_optimal_repack_type` in ggml/src/ggml-cpu/repack.cpp of llama.cpp.
_ARM_REPACKED = ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4")
_REPACKED = {
    "i8mm": _ARM_REPACKED,
    "dotprod": _ARM_REPACKED,
    "avx2": ("Q4_0", "Q4_K", "IQ4_NL"),
    "baseline": (),
}
# Mixes to ship instead, the best first; the second type is that of values and of what leads down.
_LADDER = (
    ("Q8_0", "Q8_0", "Q8_0"),
    ("Q6_K", "Q6_K", "Q6_K"),
    ("Q5_K_M", "Q5_K", "Q6_K"),
    ("Q4_K_M", "Q4_K", "Q6_K"),
    ("Q4_0", "Q4_0", "Q4_0"),
)
_PASSIVE = ("android", "ios")
_PROGRAM_BYTES = 8 << 20  # a native program beside the model: assumed


@dataclass(frozen=True, slots=True)
class Demands:
    """What is asked of a model on a device.

    Attributes:
        kv_cache: The context.
        min_tg: Tokens generated a second.
        min_words: Words a second, by language.
        max_ttft_s: Seconds until the answer to a prompt of 300 tokens begins.
        max_battery: Percent of the battery for 1,000 tokens.
        tokens_per_word: What a word costs in this vocabulary, by language.
        compute_reserved_bytes: As llama.cpp says, where it is there.
    """

    kv_cache: KvCacheOptions = KvCacheOptions(4096)
    min_tg: float = 0.0
    min_words: Mapping[str, float] = field(default_factory=dict[str, float])
    max_ttft_s: float | None = None
    max_battery: float | None = None
    tokens_per_word: Mapping[str, float] = field(default_factory=dict[str, float])
    compute_reserved_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be expected of a model on a device.

    Attributes:
        model: Its name.
        target: The device's.
        verdict: In one word.
        reason: In a sentence.
        evidence: What speaks for the speed: `calibrated`, `predicted`, or `indicative` where a
            fact has no source; `memory` where no speed is known.
        budget_bytes: What may be used safely.
        limit_bytes: What may be used at all.
        budget_source: Where these come from.
        resident_bytes: What has to stay in memory for full speed.
        floor_bytes: What cannot be dropped.
        reserved_bytes: What llama.cpp asks for.
        tg_per_s: Tokens a second with a cool device.
        tg_sustained_per_s: When it is hot.
        pp_per_s: Tokens of a prompt a second.
        time_to_first_token_s: For 300 tokens.
        words_per_s: By language.
        battery_percent: For 1,000 tokens.
        n_threads: To run with.
        load_mode: How to load the file.
        unsourced: Facts that nobody shows.
        instead: A mix that would pass, where this file does not.
    """

    model: str
    target: str
    verdict: Kind
    reason: str
    evidence: str
    budget_bytes: int
    limit_bytes: int
    budget_source: str
    resident_bytes: int
    floor_bytes: int
    reserved_bytes: int
    tg_per_s: Interval | None
    tg_sustained_per_s: Interval | None
    pp_per_s: Interval | None
    time_to_first_token_s: float | None
    words_per_s: Mapping[str, float]
    battery_percent: float | None
    n_threads: int
    load_mode: str
    unsourced: tuple[str, ...]
    instead: str | None = None

    @property
    def passes(self) -> bool:
        """Whether it can be shipped; `tight` can."""
        return self.verdict in ("fits", "tight")


def check(header: Header, name: str, profile: Profile, demands: Demands) -> Verdict:
    """Judge a model on a device, and look for a smaller variant where it fails.

    Raises:
        UnsupportedError: The architecture's kv cache is not modelled.
        IntegrityError: The header's hyperparameters contradict each other.
    """
    found = _judge(header, name, profile, demands)
    if found.passes:
        return found
    others = check_variants(header, name, profile, demands)
    smaller = (mix for mix, size, each in others if each.passes and size < header.tensor_bytes)
    return dataclasses.replace(found, instead=next(smaller, None))


def check_variants(
    header: Header, name: str, profile: Profile, demands: Demands
) -> list[tuple[str, int, Verdict]]:
    """Judge what a model would be in other mixes: mix, bytes of its tensors and verdict."""
    # The compute buffer depends on the mix; its formula does not need the file.
    asked = dataclasses.replace(demands, compute_reserved_bytes=None)
    found: list[tuple[str, int, Verdict]] = []
    for mix, kind, better in _LADDER:
        other = as_mix(header, kind, better)
        found.append((mix, other.tensor_bytes, _judge(other, f"{name}:{mix}", profile, asked)))
    return found


def _judge(header: Header, name: str, profile: Profile, demands: Demands) -> Verdict:
    memory = run_memory(
        header,
        demands.kv_cache,
        repacked_types=_REPACKED[profile.isa],
        runtime_bytes=_PROGRAM_BYTES,
        compute_reserved_bytes=demands.compute_reserved_bytes,
    )
    work = work_of(header, dataclasses.replace(demands.kv_cache, n_ctx=_PROMPT_TOKENS))
    parameters = load_parameters(profile.isa)
    tg = pp = None
    if profile.scale is not None:
        tg = predict_tg(parameters, profile.scale, work)
        pp = predict_pp(parameters, profile.scale, work)
    words = {
        code: tg.value / cost for code, cost in demands.tokens_per_word.items() if tg is not None
    }
    ttft = _PROMPT_TOKENS / pp.value if pp else None
    battery = _battery(profile, tg)
    kind, reason = _memory_verdict(memory, profile)
    if kind in ("fits", "tight"):
        missed = _missed(demands, tg, words, ttft, battery)
        if missed:
            kind, reason = "slow", "; ".join(missed)
    hot = passive_sustained_factor() if profile.os in _PASSIVE else 1.0
    return Verdict(
        model=name,
        target=profile.name,
        verdict=kind,
        reason=reason,
        evidence=_evidence(profile, demands, parameters.unmeasured(work)),
        budget_bytes=profile.budget.safe_bytes,
        limit_bytes=profile.budget.limit_bytes,
        budget_source=profile.budget.source,
        resident_bytes=memory.resident_bytes,
        floor_bytes=memory.floor_bytes,
        reserved_bytes=memory.reserved_bytes,
        tg_per_s=tg,
        tg_sustained_per_s=tg.times(hot) if tg else None,
        pp_per_s=pp,
        time_to_first_token_s=ttft,
        words_per_s=words,
        battery_percent=battery,
        n_threads=profile.n_threads,
        load_mode="mmap",
        unsourced=tuple(profile.unsourced),
    )


def _memory_verdict(memory: RunMemory, profile: Profile) -> tuple[Kind, str]:
    budget = profile.budget
    floor, resident = memory.floor_bytes, memory.resident_bytes
    limit = min(budget.limit_bytes, budget.footprint_bytes)
    if profile.os == "ios":
        limit = budget.footprint_bytes
    if floor > limit:
        return "killed", f"{format_mib(floor)} cannot be dropped, {format_mib(limit)} are allowed"
    if resident > budget.limit_bytes:
        return "thrashes", (
            f"{format_mib(resident)} are read for each token, "
            f"{format_mib(budget.limit_bytes)} can stay"
        )
    if resident > budget.safe_bytes:
        return "tight", f"{format_mib(resident)} of {format_mib(budget.limit_bytes)} at most"
    return "fits", f"{format_mib(resident)} of {format_mib(budget.safe_bytes)}"


def _missed(
    demands: Demands,
    tg: Interval | None,
    words: Mapping[str, float],
    ttft: float | None,
    battery: float | None,
) -> list[str]:
    """Return the demands that are missed, or that nothing shows to be met."""
    pairs: list[tuple[str, float | None, float, bool]] = []
    if demands.min_tg:
        pairs.append(("tokens/s", tg.value if tg else None, demands.min_tg, True))
    for code, least in demands.min_words.items():
        pairs.append((f"words/s in {code}", words.get(code), least, True))
    if demands.max_ttft_s is not None:
        pairs.append(("s to the first token", ttft, demands.max_ttft_s, False))
    if demands.max_battery is not None:
        pairs.append(("% of battery for 1,000 tokens", battery, demands.max_battery, False))
    return [
        f"{'?' if value is None else f'{value:.1f}'} {what}, {asked:g} asked"
        for what, value, asked, is_least in pairs
        if value is None or (value < asked if is_least else value > asked)
    ]


def _battery(profile: Profile, tg: Interval | None) -> float | None:
    facts = profile.facts
    if tg is None or "battery_wh" not in facts or "power_w" not in facts:
        return None
    joules = 1000 / tg.value * facts["power_w"].number
    return 100 * joules / (facts["battery_wh"].number * 3600)


def _evidence(profile: Profile, demands: Demands, unmeasured: list[str]) -> str:
    if profile.scale is None:
        return "memory"
    unused: set[str] = set() if demands.max_battery is not None else {"battery_wh", "power_w"}
    if profile.is_calibrated:
        unused.add("soc.bandwidth_gb_per_s")
    if set(profile.unsourced) - unused or unmeasured or not is_fitted(profile.isa):
        return "indicative"
    return "calibrated" if profile.is_calibrated else "predicted"


def as_mix(header: Header, kind: str, better: str) -> Header:
    """Return the header of the same model with every matrix in another type."""
    tensors = tuple(_as_type(tensor, kind, better) for tensor in header.tensors)
    return dataclasses.replace(header, tensors=tensors)


def _as_type(tensor: TensorInfo, kind: str, better: str) -> TensorInfo:
    if len(tensor.shape) < 2 or not tensor.name.endswith(".weight") or "norm" in tensor.name:
        return tensor
    is_better = any(part in tensor.name for part in ("attn_v", "ffn_down", "token_embd", "output."))
    chosen = BY_NAME[better if is_better else kind]
    if tensor.shape[0] % chosen.block_weights:
        chosen = BY_NAME["Q8_0"]
    if tensor.shape[0] % chosen.block_weights:
        return tensor
    return dataclasses.replace(tensor, quant_type=chosen)
