"""The seam to the Hub: listings, ranges, refusals."""

import datetime
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest
from local_hub import LocalHub

from llmedge.core.errors import (
    ConnectionLostError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    UsageError,
)
from llmedge.hub.client import Hub
from llmedge.hub.refusals import refusal, transport_error
from llmedge.hub.repository import RemoteFile


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "acme" / "x"
    folder.mkdir(parents=True)
    (folder / "big.gguf").write_bytes(bytes(range(250)) * 80)
    (folder / "a name with ümlaut.json").write_text("{}")
    return tmp_path


def test_a_listing_names_sizes_hashes_commit_and_licence(root: Path):
    with LocalHub(root) as server, Hub(server.url) as hub:
        found = hub.describe("acme/x")
        assert [(file.path, file.n_bytes) for file in found.files] == [
            ("a name with ümlaut.json", 2),
            ("big.gguf", 20_000),
        ]
        assert [len(file.oid) for file in found.files] == [40, 64]
        assert (found.commit, found.license) == (server.commit("acme/x"), "apache-2.0")
        # Nothing else is asked or told.
        assert [request.path for request in server.requests] == ["/api/models/acme/x"]


def test_bytes_come_from_the_place_that_was_asked_for(root: Path):
    with LocalHub(root) as server, Hub(server.url) as hub:
        found = hub.describe("acme/x")
        small, big = found.files
        with hub.open(found, big, 19_990) as body:
            assert (body.start, b"".join(body)) == (19_990, bytes(range(240, 250)))
        with hub.open(found, small, 0) as body:
            assert b"".join(body) == b"{}"
        server.faults.ignores_range = True
        with hub.open(found, big, 19_990) as body:
            assert (body.start, len(b"".join(body))) == (0, 20_000)


def test_a_file_of_another_size_is_no_file_of_ours(root: Path):
    with LocalHub(root) as server, Hub(server.url) as hub:
        found = hub.describe("acme/x")
        wrong = RemoteFile("big.gguf", 30_000, found.files[1].oid)
        with pytest.raises(IntegrityError, match="of 30000"), hub.open(found, wrong, 10):
            pass


def test_a_cut_is_a_lost_connection(root: Path):
    with LocalHub(root) as server, Hub(server.url) as hub:
        found = hub.describe("acme/x")
        server.faults.cut_bytes = 5000
        got = b""

        def read() -> None:
            nonlocal got
            with hub.open(found, found.files[1], 0) as body:
                for piece in body:
                    got += piece

        with pytest.raises(ConnectionLostError):
            read()
        assert len(got) == 5000


def test_a_hub_that_does_not_answer_is_a_lost_connection():
    with Hub("http://127.0.0.1:9") as hub, pytest.raises(ConnectionLostError):
        hub.describe("acme/x")


def test_a_name_that_cannot_be_is_a_mistake_of_the_user(root: Path):
    with LocalHub(root) as server, Hub(server.url) as hub, pytest.raises(UsageError):
        hub.describe("acme--x/..")


def test_redirects_in_a_circle_end(root: Path):
    with LocalHub(root) as server, Hub(server.url) as hub:
        found = hub.describe("acme/x")
        server.faults.redirect = server.url
        with pytest.raises(NetworkError, match="circles"), hub.open(found, found.files[1], 0):
            pass


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../b", "c:\\x", "", "a\0b", "a\\..\\b"]
)
def test_a_listing_cannot_name_files_outside_of_its_folder(path: str):
    with pytest.raises(IntegrityError, match="no plain path"):
        RemoteFile(path, 1, "0" * 40)


@pytest.mark.parametrize("oid", ["", "xyz", "../" + "0" * 37])
def test_a_hash_is_a_hash(oid: str):
    with pytest.raises(IntegrityError):
        RemoteFile("a", 1, oid)


def answer(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def test_a_time_to_wait_may_be_a_date():
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    texts = ((format_datetime(when), 90), ("30", 30), ("soon", None), ("", None))
    for text, expected in texts:
        error = refusal(answer(503, Retry_After=text), "x", has_token=False, is_hub=True)
        assert isinstance(error, ConnectionLostError)
        assert error.retry_after_s == (expected and pytest.approx(expected, abs=3))


def test_a_network_that_wants_a_login_may_say_so():
    error = refusal(answer(511), "x", has_token=False, is_hub=True)
    assert not isinstance(error, ConnectionLostError)
    assert "log in" in error.hint


def test_refusals_differ_for_the_hub_and_for_the_host_of_the_bytes():
    lost = refusal(answer(403), "x", has_token=True, is_hub=False)
    assert isinstance(lost, ConnectionLostError)
    final = refusal(answer(403), "x", has_token=True, is_hub=True)
    assert not isinstance(final, ConnectionLostError)
    missing = refusal(answer(404), "x", has_token=True, is_hub=True)
    assert isinstance(missing, NotFoundError)


def test_a_certificate_that_is_not_trusted_is_not_tried_again():
    error = transport_error(httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "x")
    assert not isinstance(error, ConnectionLostError)
    assert "SSL_CERT_FILE" in error.hint
