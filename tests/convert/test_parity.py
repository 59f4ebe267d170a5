from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.registry import BY_CLASS
from tests.convert.cases import CASES
from tests.convert.parity import difference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.convert.parity import Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_llama_cpp_gives_the_logits_of_the_original(case: Case, tmp_path: Path):
    measured = difference(case, tmp_path)
    assert measured.is_within(case.tolerance), measured


def test_no_class_is_registered_without_a_checkpoint_that_shows_it():
    assert set(BY_CLASS) == {case.converted_class for case in CASES}
