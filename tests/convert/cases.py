"""The checkpoints whose logits llama.cpp has to give: one or more for every registered class."""

from __future__ import annotations

from tests.convert import cases_llama

_FAMILIES = (cases_llama,)

CASES = tuple(case for family in _FAMILIES for case in family.CASES)
GUARDS = tuple(guard for family in _FAMILIES for guard in family.GUARDS)
