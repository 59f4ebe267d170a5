import pytest

from llmedge.core.errors import UsageError
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve.call_fields import (
    call_object,
    function_tools,
    is_effort_ignored,
    logprob_entries,
    require_messages,
    sampling_options,
    stop_texts,
    thinking_arguments,
)
from tests.serve.dialects import CHANCES


def test_what_is_not_said_is_left_to_the_server():
    assert sampling_options(temperature=None, seed=None) == SamplingOptions()
    assert sampling_options(temperature=0.0, seed=0) == SamplingOptions(temperature=0.0, seed=0)


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", -0.1), ("top_p", 1.1), ("top_k", -1), ("seed", 1 << 63)]
)
def test_a_value_out_of_its_range_is_named(name: str, value: float):
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        sampling_options(**{name: value})


@pytest.mark.parametrize(
    ("thinks", "effort", "wanted"),
    [
        (None, None, {}),
        (False, None, {"enable_thinking": False, "thinking": False}),
        (None, "none", {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}),
        (None, "max", {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
        (False, "high", {"enable_thinking": False, "thinking": False, "reasoning_effort": "high"}),
    ],
)
def test_thinking_is_said_in_all_the_words_of_templates(thinks, effort, wanted):
    assert thinking_arguments(thinks=thinks, effort=effort) == wanted


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": 1}', {"a": 1}), ("", {}), ('{"a"', None), ("[1]", None), ("[" * 10_000, None)],
)
def test_arguments_are_an_object_or_cut_off(text: str, value: object):
    assert call_object(text) == value


def test_stops_messages_and_tools_are_bounded():
    assert stop_texts("a") == ("a",)
    for wrong in (["x"] * 17, [""], ""):
        with pytest.raises(UsageError, match="stop"):
            stop_texts([wrong] if isinstance(wrong, str) else wrong)
    with pytest.raises(UsageError, match="5000 items"):
        require_messages([None] * 5000)
    with pytest.raises(UsageError, match="129 items"):
        function_tools([{"name": "f"}] * 129)


def test_chances_are_written_with_their_bytes():
    entry = {"token": "He", "logprob": -0.5, "bytes": [72, 101]}
    assert logprob_entries([CHANCES]) == [{**entry, "top_logprobs": [entry]}]


@pytest.mark.parametrize(
    ("template", "effort", "is_ignored"),
    [
        ("{{ messages }}", None, False),
        ("{{ messages }}", "none", True),
        ("{{ messages }}", "high", True),
        ("{{ reasoning_effort }}", "high", False),
        ("{% if enable_thinking %}<think>{% endif %}", "none", False),
        ("<think></think>", "none", False),  # the engine closes it
        ("<think></think>", "high", True),
    ],
)
def test_an_effort_is_ignored_where_nothing_knows_it(
    template: str,
    effort: str | None,
    is_ignored: bool,
):
    assert is_effort_ignored(template, effort) == is_ignored
