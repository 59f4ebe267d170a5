from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
    shown = {(BY_CLASS[guarded.case.converted_class].name, guarded.field) for guarded in GUARDS}
    stated = {(each.name, guard.field) for each in ARCHITECTURES for guard in each.guards}
    assert stated == shown
