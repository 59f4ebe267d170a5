"""The checkpoints whose logits llama.cpp has to give: one or more for every registered class."""

from __future__ import annotations

from tests.convert import (
    cases_bailing,
    cases_deepseek,
    cases_encoders,
    cases_exaone,
    cases_falcon,
    cases_gpt,
    cases_granite,
    cases_internlm,
    cases_jamba,
    cases_lfm2,
    cases_llama,
    cases_mamba,
    cases_minicpm,
    cases_mistral3,
    cases_starcoder,
)

_FAMILIES = (
    cases_bailing,
    cases_deepseek,
    cases_encoders,
    cases_exaone,
    cases_falcon,
    cases_gpt,
    cases_granite,
    cases_internlm,
    cases_jamba,
    cases_lfm2,
    cases_llama,
    cases_mamba,
    cases_minicpm,
    cases_mistral3,
    cases_starcoder,
)

CASES = tuple(case for family in _FAMILIES for case in family.CASES)
GUARDS = tuple(guard for family in _FAMILIES for guard in family.GUARDS)
