"""Whole pulls over real HTTP, on a line with one fault at a time."""

import threading
from pathlib import Path

import pytest
from local_hub import TOKEN, LocalHub

from llmedge.core.errors import (
    IntegrityError,
    InterruptedByUser,
    NetworkError,
    NotFoundError,
    ResourceError,
)
from llmedge.pull.run import Selection, cached_report
from llmedge.store.reference import HubReference
from tests.pull.conftest import N_BYTES, REPO, WEIGHTS, Puller


def test_a_pull_brings_the_safe_files_and_their_very_bytes(puller: Puller):
    report = puller()
    names = [file.path for file in report.files]
    assert names == ["README.md", "config.json", "empty.txt", WEIGHTS]
    assert (report.folder / WEIGHTS).read_bytes() == puller.weights
    assert (report.folder / WEIGHTS).is_symlink()
    assert report.license == "apache-2.0"
    assert report.network_bytes == report.n_bytes == puller.hub.body_bytes()


def test_a_second_pull_moves_no_byte(puller: Puller):
    puller()
    before = len(puller.hub.file_requests())
    report = puller()
    assert report.network_bytes == report.missing_bytes == 0
    assert len(puller.hub.file_requests()) == before


@pytest.mark.parametrize("cut", [100_003, 65_536, 500_000])
def test_a_line_that_is_cut_again_and_again_costs_no_byte_twice(puller: Puller, cut: int):
    puller.hub.faults.cut_bytes = cut
    report = puller()
    assert (report.folder / WEIGHTS).read_bytes() == puller.weights
    assert report.n_retries >= N_BYTES // cut - 1
    assert puller.hub.body_bytes() <= report.n_bytes * 1.01


def test_a_broken_pull_leaves_a_part_and_no_ref_and_the_next_fetches_the_rest(puller: Puller):
    puller.hub.faults.cut_bytes = N_BYTES // 2
    stopped = puller.line()
    stopped.take = _stop_after(stopped, N_BYTES // 3)  # type: ignore[method-assign]
    with pytest.raises(InterruptedByUser):
        puller(line=stopped)
    kept = sum(part.stat().st_size for part in puller.parts())
    assert 0 < kept < N_BYTES
    assert not list(puller.cache.rglob("refs/*"))
    puller.hub.requests.clear()
    puller.hub.faults.cut_bytes = 0
    report = puller()
    assert puller.hub.body_bytes() <= report.n_bytes - kept
    assert (report.folder / WEIGHTS).read_bytes() == puller.weights
    assert puller.parts() == []


def test_one_flipped_byte_is_noticed_and_the_file_fetched_once_more(puller: Puller):
    puller.hub.faults.flips = 1
    report = puller()
    assert (report.folder / WEIGHTS).read_bytes() == puller.weights
    assert any("damaged" in text for text in puller.told)
    assert report.network_bytes == report.n_bytes + N_BYTES


def test_a_file_that_is_damaged_every_time_ends_in_an_error_and_leaves_nothing(puller: Puller):
    puller.hub.faults.flips = 99
    with pytest.raises(IntegrityError, match=r"model\.safetensors arrived damaged twice") as caught:
        puller()
    assert "HF_ENDPOINT" in caught.value.hint
    asked = [r for r in puller.hub.file_requests() if r.path.endswith(WEIGHTS)]
    assert len(asked) == 2
    assert not list(puller.cache.rglob(f"snapshots/*/{WEIGHTS}"))
    assert sum(part.stat().st_size for part in puller.parts()) == 0


def test_a_server_without_ranges_is_read_past_and_nothing_is_written_twice(puller: Puller):
    puller.hub.faults.ignores_range = True
    oid = puller.hub.oid(puller.hub.root / REPO / WEIGHTS)
    part = puller.cache / "models--acme--tiny-1B" / "blobs" / f"{oid}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(puller.weights[: N_BYTES // 2])
    report = puller()
    assert (report.folder / WEIGHTS).read_bytes() == puller.weights
    assert report.network_bytes == report.n_bytes


def test_a_server_without_ranges_that_cuts_is_given_up_after_the_idle_attempts(puller: Puller):
    puller.hub.faults.ignores_range = True
    puller.hub.faults.cut_bytes = 200_000
    with pytest.raises(NetworkError, match="given up after 4 attempts"):
        puller()
    assert puller.hub.body_bytes() < 6 * 200_000
    (part,) = puller.parts()
    assert part.read_bytes() == puller.weights[:200_000]


def test_a_disk_too_small_is_refused_before_the_first_byte(puller: Puller):
    puller.free_bytes = 1_000_000
    with pytest.raises(ResourceError, match=r"1\.5 MB more, .* has 1\.0 MB"):
        puller()
    assert puller.hub.file_requests() == []


def test_what_is_here_already_does_not_count_against_the_disk(puller: Puller):
    puller()
    puller.free_bytes = 0
    assert puller().missing_bytes == 0


def test_a_busy_server_is_asked_again_after_the_time_it_names(puller: Puller):
    puller.hub.faults.statuses = [429]
    puller.hub.faults.headers = {"Retry-After": "1"}
    report = puller()
    assert report.n_retries == 1
    assert report.duration_s >= 1


def test_a_server_that_wants_more_than_an_hour_is_not_waited_for(puller: Puller):
    puller.hub.faults.statuses = [429] * 9
    puller.hub.faults.headers = {"Retry-After": "7200"}
    with pytest.raises(NetworkError, match="again in 7200 s"):
        puller()


def test_a_server_in_trouble_is_asked_again_but_not_for_ever(puller: Puller):
    puller.hub.faults.statuses = [500, 502, 503]
    assert puller().n_retries == 3
    puller.cache = puller.cache / "other"
    puller.hub.faults.statuses = [503] * 99
    with pytest.raises(NetworkError, match="answers 503; given up after 4"):
        puller()


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (401, "", NetworkError, "not for everyone"),
        (403, "", NetworkError, "not for everyone"),
        (403, "GatedRepo", NetworkError, "gated"),
        (404, "EntryNotFound", NotFoundError, "not on the hub"),
        (418, "", NetworkError, "answers 418"),
    ],
)
def test_a_refusal_ends_the_pull_at_once(
    puller: Puller, status: int, code: str, kind: type[Exception], words: str
):
    puller.hub.faults.statuses = [status] * 9
    puller.hub.faults.error_code = code
    with pytest.raises(kind, match=words):
        puller()
    assert len(puller.hub.file_requests()) <= 4  # one a thread


def test_a_gated_repository_wants_the_licence_and_then_the_token(puller: Puller):
    puller.hub.faults.gated = REPO
    with pytest.raises(NetworkError, match="gated") as caught:
        puller()
    assert "HF_TOKEN" in caught.value.hint
    with pytest.raises(NetworkError, match="gated") as caught:
        puller(token="hf_other")
    assert "account" in caught.value.hint
    assert puller(token=TOKEN).network_bytes > N_BYTES


def test_a_repository_that_is_not_there_is_named(puller: Puller):
    with pytest.raises(NetworkError, match="acme/none is not there"):
        puller("acme/none")
    with pytest.raises(NotFoundError, match="acme/none is not on the hub"):
        puller("acme/none", token=TOKEN)
    with pytest.raises(NotFoundError, match="no such revision"):
        puller(f"{REPO}@nowhere")


def test_the_login_page_of_a_network_is_told_from_the_hub(puller: Puller):
    puller.hub.faults.portal = True
    with pytest.raises(NetworkError, match="web page") as caught:
        puller()
    assert "log in" in caught.value.hint


def test_a_login_page_in_place_of_a_file_never_becomes_the_file(puller: Puller):
    with LocalHub(puller.hub.root) as portal:
        portal.faults.portal = True
        puller.hub.faults.redirect = portal.url
        with pytest.raises(NetworkError, match="web page"):
            puller()
    assert not list(puller.cache.rglob(f"snapshots/*/{WEIGHTS}"))


def test_the_token_is_not_sent_to_the_host_that_holds_the_bytes(puller: Puller):
    with LocalHub(puller.hub.root) as other:
        puller.hub.faults.redirect = other.url
        report = puller(token=TOKEN)
        assert (report.folder / WEIGHTS).read_bytes() == puller.weights
        assert [r.authorization for r in other.requests] == [None]
    assert {r.authorization for r in puller.hub.requests} == {f"Bearer {TOKEN}"}


def test_an_address_that_expires_is_resolved_anew(puller: Puller):
    with LocalHub(puller.hub.root) as other:
        other.faults.statuses = [403]
        puller.hub.faults.redirect = other.url
        report = puller(token=TOKEN)
        assert report.n_retries == 1
        assert len(other.requests) == 2
    asked = [r for r in puller.hub.file_requests() if r.path.endswith(WEIGHTS)]
    assert [r.status for r in asked] == [302, 302]


def test_two_pulls_at_once_are_one_transfer(puller: Puller):
    puller.hub.faults.bytes_per_s = 3_000_000
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(puller(line=puller.line())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    asked = [r for r in puller.hub.file_requests() if r.path.endswith(WEIGHTS)]
    assert len(asked) == 1
    assert sum(report.network_bytes for report in reports) == reports[0].n_bytes


def test_the_rate_is_kept_over_all_files(puller: Puller):
    report = puller(line=puller.line(rate=3_000_000))
    assert 0.45 <= report.duration_s < 3


def test_globs_take_the_place_of_the_default(puller: Puller):
    report = puller(selection=Selection(include=("*.py", "*.json"), exclude=("conf*",)))
    assert [file.path for file in report.files] == ["modeling.py"]


def test_a_plan_fetches_nothing_and_a_cached_report_asks_nobody(puller: Puller):
    with pytest.raises(NotFoundError, match="not in the cache"):
        cached_report(puller.cache, HubReference(REPO), Selection())
    report = puller()
    puller.hub.requests.clear()
    cached = cached_report(puller.cache, HubReference(REPO), Selection())
    assert cached.files == tuple(
        type(file)(file.path, file.n_bytes, 0, file.oid) for file in report.files
    )
    assert puller.hub.requests == []


def test_a_commit_is_pulled_by_its_hash_and_leaves_main_alone(puller: Puller):
    commit = puller.hub.commit(REPO)
    report = puller(f"{REPO}@{commit}")
    assert report.folder.name == commit
    assert not list(puller.cache.rglob("refs/main"))


def _stop_after(line, n_bytes: int):
    take = line.take

    def stop(n: int) -> None:
        take(n)
        if line.network_bytes > n_bytes:
            line.stop()

    return stop


def test_files_in_folders_keep_their_place(puller: Puller):
    folder = puller.hub.root / REPO / "1_Pooling"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    report = puller()
    assert Path(report.folder / "1_Pooling" / "config.json").read_text() == "{}"
