import pytest

from llmedge.core.errors import MissingExtraError
from llmedge.core.extras import require_extra


def test_a_missing_extra_prints_the_line_that_installs_it():
    with pytest.raises(MissingExtraError) as caught:
        require_extra("demo", "json", "no_such_module", reason="the demo")
    assert caught.value.message == "the demo needs no_such_module, which is not installed"
    assert caught.value.hint == "pip install 'llmedge[demo]'"


def test_an_extra_that_is_there_is_fine():
    require_extra("demo", "json", "csv", reason="the demo")
