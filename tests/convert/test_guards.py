from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.config import Config
from llmedge.convert.guards import equals, is_absent, is_off, is_on, layer_types
from llmedge.convert.registry import ARCHITECTURES, BY_CLASS
from llmedge.core.errors import IntegrityError, UnsupportedError
from tests.convert.cases import GUARDS
from tests.convert.parity import difference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.convert.parity import GuardCase


@pytest.mark.parametrize("guarded", GUARDS, ids=lambda case: f"{case.case.name}-{case.field}")
def test_a_guard_prevents_wrong_logits(guarded: GuardCase, tmp_path: Path):
    with pytest.raises(UnsupportedError, match=guarded.field):
        difference(guarded.case, tmp_path / "guarded")
    if guarded.is_fatal or guarded.is_foreign:
        return
    try:
        unguarded = difference(guarded.case, tmp_path / "unguarded", guarded=False)
    except IntegrityError:
        return  # llama.cpp refuses the file: the guard says so before the work is done
    assert unguarded.argmax < 1 or unguarded.kl > 1e-4, unguarded


def test_every_guard_has_a_case():
    shown = {(BY_CLASS[each.case.converted_class].classes, each.field) for each in GUARDS}
    stated = {(each.classes, guard.field) for each in ARCHITECTURES for guard in each.guards}
    assert stated == shown


def test_the_shared_guards_are_what_they_are_called():
    config = Config({"on": True, "off": False, "four": 4, "none": None})
    for guard, holds in (
        (is_on("on", ""), True),
        (is_on("off", ""), False),
        (is_on("silent", "", default=True), True),
        (is_off("off", ""), True),
        (is_off("silent", ""), True),
        (is_off("on", ""), False),
        (equals("four", 4, ""), True),
        (equals("four", 5, ""), False),
        (is_absent("none", ""), True),
        (is_absent("four", ""), False),
    ):
        assert guard.holds(config) == holds, guard


def test_a_pattern_of_layers_is_as_long_as_the_model():
    assert layer_types(Config({"num_hidden_layers": 3}), ("a", "b")) == ["a", "b", "a"]
    listed = Config({"num_hidden_layers": 2, "layer_types": ["x", "y"]})
    assert layer_types(listed, ("a",)) == ["x", "y"]
    with pytest.raises(IntegrityError, match="2 layer_types for 3 layers"):
        layer_types(Config({"num_hidden_layers": 3, "layer_types": ["x", "y"]}), ("a",))
