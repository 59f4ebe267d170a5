"""Listening elsewhere than on an open port: a Unix socket, and HTTPS."""

import http.client
import json
import socket
import ssl
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llmedge.core.errors import UsageError
from llmedge.serve.local_socket import bind_path
from llmedge.serve.server import ServeOptions, background_server, bind
from tests.fakes import FakeEngine
from tests.serve.endpoint import CHAT, HELLO

# openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500
#   -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1
DATA = Path(__file__).parent / "data"
CERT, KEY = DATA / "localhost.cert.pem", DATA / "localhost.key.pem"

posix = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets are POSIX's")


def ask(connection: http.client.HTTPConnection) -> str:
    connection.request("POST", CHAT, json.dumps(HELLO), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    return json.loads(response.read())["choices"][0]["message"]["content"]


@posix
def test_a_unix_socket_answers_its_owner_alone(tmp_path: Path):
    path = tmp_path / "s"
    with background_server(FakeEngine(), ServeOptions(socket_path=path)) as url:
        assert url == f"http+unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        assert ask(connection) == "Hello world"
        connection.close()
        with pytest.raises(UsageError, match="another server listens on"):
            bind_path(path)
    bind_path(path).close()  # what the server left is replaced


@posix
def test_what_is_no_socket_is_left_alone(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(UsageError, match="cannot be listened on"):
        bind_path(path)
    assert path.read_text() == "mine"


def test_https_is_answered_with_the_certificate():
    options = ServeOptions(port=0, tls_cert=CERT, tls_key=KEY)
    with background_server(FakeEngine(), options) as url:
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(CERT))
        connection = http.client.HTTPSConnection(urlsplit(url).netloc, context=context)
        assert ask(connection) == "Hello world"
        connection.close()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tls_cert": KEY}, "is no certificate with its key"),
        ({"tls_cert": CERT, "tls_key": CERT}, "is no certificate with its key"),
        ({"tls_cert": DATA / "none.pem"}, "No such file"),
        ({"tls_key": KEY}, "of no use alone"),
    ],
)
def test_a_wrong_certificate_is_told_before_a_model_is_loaded(options, word: str):
    with pytest.raises(UsageError, match=word):
        bind(ServeOptions(port=0, **options))
