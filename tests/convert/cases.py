"""The checkpoints whose logits llama.cpp has to give: one or more for every registered class."""

from __future__ import annotations

from dataclasses import replace

from tests.convert import (
    cases_apertus,
    cases_arcee,
    cases_cohere,
    cases_deepseek,
    cases_encoders,
    cases_ernie,
    cases_exaone,
    cases_falcon,
    cases_gemma,
    cases_glm,
    cases_gpt,
    cases_gpt_oss,
    cases_granite,
    cases_hunyuan,
    cases_jais,
    cases_jamba,
    cases_lfm2,
    cases_llama,
    cases_mamba,
    cases_minicpm,
    cases_mistral3,
    cases_nemotron,
    cases_olmo,
    cases_phi,
    cases_qwen,
    cases_seed_oss,
    cases_stablelm,
    cases_starcoder,
)
from tests.convert.parity import LONG

_FAMILIES = (
    cases_apertus,
    cases_arcee,
    cases_cohere,
    cases_deepseek,
    cases_encoders,
    cases_ernie,
    cases_exaone,
    cases_falcon,
    cases_gemma,
    cases_glm,
    cases_gpt,
    cases_gpt_oss,
    cases_granite,
    cases_hunyuan,
    cases_jais,
    cases_jamba,
    cases_lfm2,
    cases_llama,
    cases_mamba,
    cases_minicpm,
    cases_mistral3,
    cases_nemotron,
    cases_olmo,
    cases_phi,
    cases_qwen,
    cases_seed_oss,
    cases_stablelm,
    cases_starcoder,
)

_CASES = tuple(case for family in _FAMILIES for case in family.CASES)
# One of each kind of rope, of window and of state also runs long.
_LONG = (
    *("llama", "llama-3", "qwen3-yarn", "deepseek-3-yarn", "ministral3"),
    *("phi3-longrope", "minicpm3-longrope-long", "gemma3"),
    *("gemma2", "gemma4-moe", "gemma-embedding", "cohere2", "olmo3", "olmo3-yarn"),
    *("gpt-oss", "exaone4-window", "modern-bert-silu"),
    *("mamba", "mamba2", "jamba", "granite-hybrid", "falcon-h1", "qwen3-next", "lfm2"),
)
_BY_NAME = {case.name: case for case in _CASES}
CASES = (
    *_CASES,
    *(replace(_BY_NAME[name], name=f"{name}-long", n_tokens=LONG) for name in _LONG),
)
GUARDS = tuple(guard for family in _FAMILIES for guard in family.GUARDS)
