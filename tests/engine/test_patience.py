import os
import subprocess
import sys

from llmedge.engine.patience import HangOptions, Patience
from llmedge.host.process import read_cpu_seconds

OPTIONS = HangOptions(still_s=60, least_s=180, first_s=1800, n_paces=8)
PHONE_TOKEN_S = 1.0  # seven billion weights on a small board


def seconds_until_given_up(
    patience: Patience, *, cpu_share: float | None, token_s: float | None, most_s: int = 100_000
) -> tuple[int, str]:
    """Look once a second; the child used so much processor time in each."""
    for second in range(most_s):
        cpu_s = None if cpu_share is None else 10 + second * cpu_share
        if cause := patience.look(1.0, cpu_s, token_s):
            return second, cause
    return most_s, ""


def test_a_process_that_does_nothing_is_given_up_soon_however_slow_it_was():
    for token_s in (None, 0.001, PHONE_TOKEN_S):
        after_s, cause = seconds_until_given_up(
            Patience(OPTIONS, 512), cpu_share=0.0, token_s=token_s
        )
        assert 60 <= after_s <= 63
        assert "did nothing" in cause


def test_a_first_prompt_on_a_phone_has_half_an_hour():
    after_s, cause = seconds_until_given_up(Patience(OPTIONS, 512), cpu_share=4.0, token_s=None)
    assert 1800 <= after_s <= 1803
    assert "silent" in cause


def test_who_computes_is_given_eight_times_what_a_full_batch_takes():
    for token_s, expected_s in ((0.001, 180), (PHONE_TOKEN_S, 8 * 512)):
        after_s, _ = seconds_until_given_up(Patience(OPTIONS, 512), cpu_share=1.0, token_s=token_s)
        assert expected_s <= after_s <= expected_s + 3


def test_a_process_that_waits_for_its_disk_works():
    after_s, _ = seconds_until_given_up(Patience(OPTIONS, 512), cpu_share=0.002, token_s=0.001)
    assert after_s >= 180


def test_where_processor_time_cannot_be_read_silence_alone_counts():
    after_s, cause = seconds_until_given_up(Patience(OPTIONS, 512), cpu_share=None, token_s=0.001)
    assert 180 <= after_s <= 183
    assert "silent" in cause


def test_each_word_begins_the_wait_anew():
    patience = Patience(OPTIONS, 512)
    for _ in range(20):
        assert seconds_until_given_up(patience, cpu_share=0.0, token_s=0.1, most_s=50)[1] == ""
        patience.heard()


def test_a_machine_that_slept_is_not_a_process_that_hangs():
    patience = Patience(OPTIONS, 512)
    for _ in range(20):
        assert patience.look(3600.0, 10.0, 0.001) == ""


def test_the_processor_time_of_a_process_grows_with_its_work():
    before = read_cpu_seconds(os.getpid())
    sum(range(10_000_000))
    after = read_cpu_seconds(os.getpid())
    assert before is not None
    assert after is not None
    assert after > before
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert read_cpu_seconds(process.pid) is None
