from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from llmedge.check.this_machine import this_machine
from llmedge.check.verdict import Demands, check, check_variants
from llmedge.device.profile import Budget, Profile, find_profile
from llmedge.gguf.memory import KvCacheOptions
from llmedge.gguf.reader import read_header
from llmedge.gguf.run_memory import compute_buffer_formula, run_memory
from llmedge.runtime.dry_run import compute_buffer_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.reader import Header

MIB = 1 << 20


@pytest.fixture(scope="module")
def header(smollm2: Path) -> Header:
    return read_header(smollm2)


@pytest.fixture
def phone(tmp_path: Path) -> Profile:
    return find_profile("galaxy-s23", tmp_path)


def with_budget(phone: Profile, safe_mib: int, limit_mib: int) -> Profile:
    budget = Budget(safe_mib * MIB, limit_mib * MIB, limit_mib * MIB, "a test")
    return dataclasses.replace(phone, budget=budget, isa="baseline")


def test_less_memory_is_a_worse_verdict(header: Header, phone: Profile):
    demands = Demands(KvCacheOptions(2048))
    need = check(header, "m", with_budget(phone, 9999, 9999), demands)
    resident, floor = need.resident_bytes // MIB, need.floor_bytes // MIB
    budgets = {
        "fits": (resident + 1, resident + 2),
        "tight": (resident - 1, resident + 1),
        "thrashes": (floor, floor + 2),
        "killed": (floor - 2, floor - 1),
    }
    for verdict, (safe, limit) in budgets.items():
        found = check(header, "m", with_budget(phone, safe, limit), demands)
        assert found.verdict == verdict
        assert found.passes == (verdict in ("fits", "tight"))


def test_under_a_real_limit_it_thrashed_at_170_and_not_at_200_mib(header: Header):
    # Measured with a cgroup, context 2048: full speed at 200 MiB, a fifth at 170, alive at 120.
    interpreter = 40 * MIB
    memory = run_memory(header, KvCacheOptions(2048), runtime_bytes=interpreter)
    assert 170 * MIB < memory.resident_bytes < 203 * MIB
    assert memory.floor_bytes < 120 * MIB


def test_of_the_compute_buffer_little_is_touched(header: Header):
    for n_ubatch, touched_mib in ((512, 15.7), (128, 5.8)):
        memory = run_memory(header, KvCacheOptions(2048, n_ubatch=n_ubatch))
        assert memory.compute_bytes / MIB == pytest.approx(touched_mib, rel=0.1)
        assert memory.reserved_bytes > memory.resident_bytes


def test_the_formula_of_the_compute_buffer_is_near_llama_cpps_own(header: Header):
    options = KvCacheOptions(2048)
    own = compute_buffer_bytes(header, options)
    assert compute_buffer_formula(header, 512) == pytest.approx(own, rel=0.06)


def test_what_kernels_reorder_cannot_be_dropped(header: Header):
    plain = run_memory(header, KvCacheOptions(512))
    moved = run_memory(header, KvCacheOptions(512), repacked_types=("Q4_1",))
    assert moved.floor_bytes > plain.floor_bytes
    assert moved.resident_bytes == plain.resident_bytes


def test_no_phone_fits_what_failed_on_it(phone: Profile, tmp_path: Path):
    # Weights and kv cache of models that failed to load: 3.45 GiB on an S23, 3.94 on a POCO X7 Pro.
    assert phone.budget.safe_bytes < 3.45 * 1024 * MIB
    poco = find_profile("poco-x7-pro", tmp_path)
    assert poco.budget.limit_bytes < 3.94 * 1024 * MIB


def test_what_nothing_shows_is_not_taken_to_be_met(header: Header):
    found = check(header, "m", this_machine(), Demands(KvCacheOptions(512), min_tg=1))
    assert (found.verdict, found.evidence) == ("slow", "memory")
    assert "? tokens/s" in found.reason


def test_words_battery_and_first_token_are_held_to_what_is_asked(header: Header, phone: Profile):
    cheap = Demands(KvCacheOptions(512), tokens_per_word={"hi": 4.0}, min_words={"hi": 3})
    assert check(header, "m", phone, cheap).verdict == "fits"
    for missed in ({"min_words": {"hi": 999}}, {"max_battery": 1e-6}, {"max_ttft_s": 1e-6}):
        found = check(header, "m", phone, dataclasses.replace(cheap, **missed))
        assert found.verdict == "slow", missed


def test_a_smaller_mix_is_named_where_one_would_pass(header: Header, phone: Profile):
    demands = Demands(KvCacheOptions(512))
    mixes = check_variants(header, "m", with_budget(phone, 9999, 9999), demands)
    sizes = [size for _, size, _ in mixes]
    assert sizes == sorted(sizes, reverse=True)
    (least,) = [each.resident_bytes // MIB for mix, _, each in mixes if mix == "Q4_0"]
    found = check(header, "m", with_budget(phone, least + 1, least + 2), demands)
    if found.verdict == "thrashes":
        assert found.instead == "Q4_0"


def test_a_battery_without_a_source_lowers_the_evidence_only_where_it_is_asked_for(
    smollm2: Path, phone: Profile
):
    from llmedge.check.verdict import as_mix

    q8 = as_mix(read_header(smollm2), "Q8_0", "Q8_0")
    plain = Demands(KvCacheOptions(512))
    assert check(q8, "m", phone, plain).evidence == "calibrated"
    asked = dataclasses.replace(plain, max_battery=50.0)
    assert check(q8, "m", phone, asked).evidence == "indicative"
