from dataclasses import replace

import pytest

from llmedge.bench.judge import Readings, flags_of, judge
from llmedge.host.load import LoadReport

QUIET = Readings(
    load=LoadReport(0.02, 0.0, 0.01),
    cpu_efficiency=0.97,
    waiting=0.002,
    switches_per_s=3.0,
    swapped_in_bytes=0,
    n_throttle_events=0,
    is_capped=False,
    clock_share=0.95,
)


def test_a_quiet_machine_has_nothing_against_it():
    assert judge(QUIET) == ()
    assert judge(Readings(LoadReport(0.0, 0.0, None), 0.95)) == ()


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"load": LoadReport(0.9, 0.0, 0.0)}, "contended"),
        ({"load": LoadReport(0.0, 0.05, 0.0)}, "contended"),
        ({"load": LoadReport(0.0, 0.0, 0.5)}, "contended"),
        ({"waiting": 0.3}, "contended"),
        ({"switches_per_s": 900.0}, "contended"),
        ({"n_throttle_events": 2}, "throttled"),
        ({"is_capped": True}, "throttled"),
        ({"clock_share": 0.6}, "throttled"),
        ({"swapped_in_bytes": 50 << 20}, "swapping"),
        ({"power_source": "charging"}, "charging"),
    ],
)
def test_each_disturbance_has_its_flag_and_a_figure(change: dict[str, object], flag: str):
    (finding,) = judge(replace(QUIET, **change))
    assert finding.flag == flag
    assert finding.reason


def test_efficiency_decides_only_where_nobody_tells_what_threads_waited():
    slow = replace(QUIET, cpu_efficiency=0.4)
    assert judge(slow) == ()  # asleep at barriers, not held up
    assert flags_of(judge(replace(slow, waiting=None))) == ("contended",)
    assert judge(replace(slow, waiting=None, is_offloaded=True)) == ()


def test_a_flag_is_named_once_however_many_reasons_it_has():
    findings = judge(replace(QUIET, waiting=0.5, switches_per_s=900.0, is_capped=True))
    assert len(findings) == 3
    assert flags_of(findings) == ("contended", "throttled")
