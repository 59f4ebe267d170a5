from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.device.profile import find_profile, load_profiles, shipped_profiles


def test_every_shipped_device_has_a_budget_a_speed_and_says_what_nobody_shows():
    for profile in shipped_profiles().values():
        assert 0 < profile.budget.safe_bytes < profile.budget.limit_bytes
        assert profile.scale is not None
        assert profile.n_threads >= 1
        assert set(profile.unsourced) <= set(profile.facts)


def test_more_memory_is_a_larger_budget():
    profiles = shipped_profiles()
    sizes = [profiles[f"android-{n}gb"].budget.safe_bytes for n in (3, 4, 6, 8, 12)]
    assert sizes == sorted(sizes)


def test_a_run_of_the_reference_model_is_what_a_device_is_measured_by(tmp_path: Path):
    file = tmp_path / "one.toml"
    text = '[one]\nos = "android"\nram = ["6GiB", "x"]\nsoc = ["Snapdragon 8 Gen 2", "x"]\n'
    file.write_text(text + 'tg_per_s = [20.0, "x"]\n')
    profile = find_profile(str(file), tmp_path)
    assert profile.is_calibrated
    assert profile.scale is not None
    assert profile.scale.spread == 0
    assert profile.scale.pp_weights_per_s is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not valid TOML"),
        ('[a]\nos = "android"\nram = "4GiB"\nsoc = ["Snapdragon 695", ""]', "does not describe"),
        ('[a]\nos = "android"\nram = ["4GiB", ""]\nsoc = ["Z80", ""]', "unknown soc 'Z80'"),
        ('[a]\nos = "dos"\nram = ["4GiB", ""]\nsoc = ["Snapdragon 695", ""]', "unknown os 'dos'"),
        ('[a]\nos = "ios"\nspeed = [1, ""]', "unknown key 'speed'"),
        ('[a]\nram = ["4GiB", ""]', "does not describe"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_reason(tmp_path: Path, text: str, message: str):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_profiles(file)


def test_a_device_that_nobody_knows_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match="'nokia-3310'"):
        find_profile("nokia-3310", tmp_path)
