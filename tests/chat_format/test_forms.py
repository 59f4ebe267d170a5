import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.chat_format.forms import FORMS, Call, write_calls
from tests.chat_format.outputs import calls, parse

_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
_PLAIN = _WORDS.filter(lambda text: text == text.strip() and "<" not in text and "`" not in text)
_ARGUMENTS = st.fixed_dictionaries(
    {"city": _PLAIN},
    optional={
        "days": st.integers(-9, 9),
        "exact": st.booleans(),
        "options": st.fixed_dictionaries(
            {"tags": st.lists(st.none() | st.integers(0, 9) | _PLAIN)}
        ),
    },
)


@pytest.mark.parametrize("family", sorted(FORMS))
@settings(max_examples=40, deadline=None)
@given(arguments=st.lists(_ARGUMENTS, min_size=1, max_size=3))
def test_what_is_written_is_read_back(family, arguments):
    if FORMS[family].between is None:
        arguments = arguments[:1]
    text = write_calls(family, [Call("get_weather", given) for given in arguments])
    parts = parse(family, text)
    found = [json.loads(getattr(part, "text", "")) for part in parts if hasattr(part, "text")]
    assert found == arguments
    texts = [getattr(part, "text", "") for part in parts if hasattr(part, "text")]
    assert parts == calls(*(("get_weather", text) for text in texts))
