"""Records and their lines, over applications of a few lines."""

import asyncio
import json
import logging

import pytest
from starlette.responses import PlainTextResponse

from llmedge.serve.request_log import RequestLog, RequestRecord, current_record
from tests.serve.asgi import Reply, ask, scope_of


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="llmedge.serve.access")
    return lambda: [json.loads(record.getMessage()) for record in caplog.records]


async def works(scope, receive, send) -> None:
    record = current_record()
    record.model, record.n_prompt, record.first_token_s = "m:Q4_0", 3, 0.123456
    await PlainTextResponse("secret words", 201)(scope, receive, send)


async def breaks(scope, receive, send) -> None:
    raise KeyError("secret words")


def run(app=works, path: str = "/v1/x") -> Reply:
    return asyncio.run(ask(RequestLog(app), "POST", path, {"prompt": "secret words"}))


def test_a_request_gets_an_id_and_one_line_with_what_was_noted(lines):
    reply = run()
    (line,) = lines()
    seconds = line.pop("seconds")
    assert 0 <= seconds < 5
    assert line == {
        "id": reply.headers["x-request-id"],
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/x",
        "status": 201,
        "model": "m:Q4_0",
        "prompt_tokens": 3,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "queue_seconds": 0.0,
        "first_token_seconds": 0.1235,
        "error": None,
    }
    assert line["id"].startswith("req-")
    assert run().headers["x-request-id"] != line["id"]


def test_no_word_of_a_prompt_an_answer_or_an_error_is_logged(
    lines, caplog: pytest.LogCaptureFixture
):
    run()
    with pytest.raises(KeyError):
        run(breaks)
    assert len(lines()) == 2
    assert "secret" not in caplog.text


def test_what_breaks_is_a_500_by_the_errors_name(lines):
    with pytest.raises(KeyError):
        run(breaks)
    assert [(line["status"], line["error"]) for line in lines()] == [(500, "KeyError")]


def test_an_error_that_was_noted_is_not_overwritten(lines):
    async def notes(scope, receive, send) -> None:
        current_record().error = "BusyError"
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(notes)
    assert lines()[0]["error"] == "BusyError"


def test_a_line_is_one_line_of_bounded_length_whatever_was_asked(
    lines, caplog: pytest.LogCaptureFixture
):
    run(path="/\n\x1b[2J" + "é" * 10_000)
    assert "\n" not in caplog.records[0].getMessage()
    assert "\x1b" not in caplog.records[0].getMessage()
    assert len(lines()[0]["path"]) == 200


def test_nothing_is_logged_where_nobody_listens(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, logger="llmedge.serve.access")
    assert run().status == 201
    assert caplog.records == []


def test_records_of_requests_at_once_do_not_mix(lines):
    async def slow(scope, receive, send) -> None:
        current_record().model = scope["path"]
        await asyncio.sleep(0.02)
        current_record().n_prompt = len(scope["path"])
        await PlainTextResponse("")(scope, receive, send)

    async def at_once() -> None:
        app = RequestLog(slow)
        await asyncio.gather(*(ask(app, "GET", "/" + "x" * n) for n in range(5)))

    asyncio.run(at_once())
    assert sorted((line["path"], line["model"], line["prompt_tokens"]) for line in lines()) == [
        ("/" + "x" * n, "/" + "x" * n, n + 1) for n in range(5)
    ]


def test_outside_of_any_request_each_record_is_new():
    current_record().model = "m"
    assert current_record().model == ""
    assert isinstance(current_record(), RequestRecord)


def test_what_is_no_request_passes_without_a_record(lines):
    seen: list[str] = []

    async def app(scope, receive, send) -> None:
        seen.append(scope["type"])

    asyncio.run(RequestLog(app)({**scope_of("GET", "/"), "type": "lifespan"}, None, None))
    assert (seen, lines()) == (["lifespan"], [])
