import json

import pytest

from llmedge.core import errors
from llmedge.serve.errors import error_response, stream_error

STATUS = {
    errors.UsageError: 400,
    errors.ContextLengthError: 400,
    errors.UnsupportedError: 400,
    errors.NotFoundError: 404,
    errors.ResourceError: 503,
    errors.EngineError: 503,
    errors.BusyError: 429,
    errors.DeadlineError: 504,
    errors.IntegrityError: 500,
    errors.InterruptedByUser: 500,
    errors.Terminated: 500,
}


@pytest.mark.parametrize("kind", STATUS)
def test_every_error_has_a_status_and_openais_shape(kind: type[errors.LlmedgeError]):
    response = error_response(kind("what is wrong", "a hint for the command line"))
    body = json.loads(bytes(response.body))
    assert response.status_code == STATUS[kind]
    assert body["error"]["message"] == "what is wrong"
    kinds = {429: "rate_limit_error", 400: "invalid_request_error", 404: "invalid_request_error"}
    expected = kinds.get(response.status_code, "server_error")
    if kind is errors.ContextLengthError:
        expected = "exceed_context_size_error"  # llama-server's word, beside OpenAI's code
    assert body["error"]["type"] == expected
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))


def test_clients_can_tell_a_prompt_that_is_too_long():
    payload = stream_error(errors.ContextLengthError("too long"))
    assert payload.error.code == "context_length_exceeded"


def test_a_prompt_that_is_too_long_is_counted_for_programs():
    error = errors.ContextLengthError("too long", n_prompt=300, n_ctx=256)
    body = json.loads(bytes(error_response(error).body))["error"]
    assert (body["n_prompt_tokens"], body["n_ctx"]) == (300, 256)
    assert body["code"] == "context_length_exceeded"
    uncounted = json.loads(bytes(error_response(errors.ContextLengthError("too long")).body))
    assert "n_ctx" not in uncounted["error"]


def test_anthropics_clients_know_no_other_word_for_a_long_prompt():
    error = errors.ContextLengthError("too long", n_prompt=300, n_ctx=256)
    body = json.loads(bytes(error_response(error, "/v1/messages").body))
    assert body["error"] == {"type": "invalid_request_error", "message": "too long"}
