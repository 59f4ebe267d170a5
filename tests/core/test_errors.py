import pickle

import pytest

from llmedge.core import errors

CODES = {
    errors.UsageError: 2,
    errors.ContextLengthError: 2,
    errors.NotFoundError: 3,
    errors.UnsupportedError: 4,
    errors.MissingExtraError: 4,
    errors.ResourceError: 5,
    errors.EngineError: 5,
    errors.BusyError: 5,
    errors.DeadlineError: 5,
    errors.IntegrityError: 6,
    errors.JudgementError: 7,
    errors.UntrustworthyError: 8,
    errors.NetworkError: 9,
    errors.ConnectionLostError: 9,
    errors.InterruptedByUser: 130,
    errors.Terminated: 130,
}


def all_errors(kind: type[errors.LlmedgeError] = errors.LlmedgeError):
    for child in kind.__subclasses__():
        yield child
        yield from all_errors(child)


def test_every_error_has_the_exit_code_that_is_documented():
    assert {kind: kind.exit_code for kind in all_errors()} == CODES


def test_the_docstring_draws_every_error_with_its_code():
    drawing = errors.__doc__ or ""
    for kind, code in CODES.items():
        line = next(line for line in drawing.splitlines() if kind.__name__ in line)
        assert f" {code} " in line


@pytest.mark.parametrize("kind", CODES)
def test_an_error_survives_the_way_from_a_child_process(kind: type[errors.LlmedgeError]):
    copy = pickle.loads(pickle.dumps(kind("what is wrong", "what to do")))
    assert (type(copy), copy.message, copy.hint) == (kind, "what is wrong", "what to do")
    assert str(copy) == "what is wrong"
