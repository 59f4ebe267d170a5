"""Every class that is shown to be right, and what to say of the others."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from llmedge.convert import (
    arch_apertus,
    arch_arcee,
    arch_cohere,
    arch_deepseek,
    arch_encoders,
    arch_ernie,
    arch_exaone,
    arch_falcon,
    arch_gemma,
    arch_gemma3n,
    arch_glm,
    arch_gpt,
    arch_gpt_oss,
    arch_granite,
    arch_hunyuan,
    arch_jais,
    arch_jamba,
    arch_lfm2,
    arch_llama,
    arch_mamba,
    arch_minicpm,
    arch_mistral3,
    arch_nemotron,
    arch_olmo,
    arch_phi,
    arch_qwen,
    arch_seed_oss,
    arch_stablelm,
    arch_starcoder,
)
from llmedge.convert.architecture import UNTRUNCATED
from llmedge.core.errors import UnsupportedError

if TYPE_CHECKING:
    from llmedge.convert.architecture import Architecture
    from llmedge.convert.config import Config

_FAMILIES = (
    arch_apertus,
    arch_arcee,
    arch_cohere,
    arch_deepseek,
    arch_encoders,
    arch_ernie,
    arch_exaone,
    arch_falcon,
    arch_gemma,
    arch_gemma3n,
    arch_glm,
    arch_gpt,
    arch_gpt_oss,
    arch_granite,
    arch_hunyuan,
    arch_jais,
    arch_jamba,
    arch_lfm2,
    arch_llama,
    arch_mamba,
    arch_minicpm,
    arch_mistral3,
    arch_nemotron,
    arch_olmo,
    arch_phi,
    arch_qwen,
    arch_seed_oss,
    arch_stablelm,
    arch_starcoder,
)
ARCHITECTURES: tuple[Architecture, ...] = tuple(
    architecture for family in _FAMILIES for architecture in family.ARCHITECTURES
)
BY_CLASS = {name: architecture for architecture in ARCHITECTURES for name in architecture.classes}


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class, and how closely llama.cpp follows it on a tiny random checkpoint.

    Attributes:
        model_class: Its name in transformers.
        family: Whose models these are.
        architecture: llama.cpp's name.
        argmax: Share of equal predictions.
        kl: Mean KL divergence, in nats.
        cosine: Of the logits, or an embedding model's embeddings; the worst position's.
        relative: Largest error, relative to the largest logit.
    """

    model_class: str
    family: str
    architecture: str
    argmax: float
    kl: float
    cosine: float
    relative: float


def list_classes() -> list[ClassRow]:
    """Return every registered class with the figures that were measured last.

    `scripts/measure_parity.py` measures them and writes `parity.json`.
    """
    document = resources.files("llmedge.convert") / "parity.json"
    measured = json.loads(document.read_text(encoding="utf-8"))
    return [
        ClassRow(name, BY_CLASS[name].family, BY_CLASS[name].name, **measured[name])
        for name in sorted(BY_CLASS)
    ]


# Classes that people ask for and llama.cpp cannot run rightly, with what would be needed.
_WOULD_NEED = {
    "ParamBharatGenForCausalLM": (
        "llama.cpp has no such architecture; it would need a graph of its own in src/models"
    ),
    "PhimoeForCausalLM": (
        "llama.cpp routes its experts by softmax; it would need the original's sparse mixer"
    ),
    **dict.fromkeys(
        (
            "BailingMoeV2ForCausalLM",
            "InternLM3ForCausalLM",
            "MiniCPMForCausalLM",
            "SarvamMoEForCausalLM",
        ),
        "transformers has no code of it, so that no test could show its logits to be equal",
    ),
    "T5ForConditionalGeneration": "an encoder and a decoder; llmedge runs decoders and encoders",
    "BartForConditionalGeneration": "llama.cpp has no such architecture; it would need its graph",
    "WhisperForConditionalGeneration": "it hears; llama.cpp runs it with whisper.cpp only",
}
_HEADS = ("ForQuestionAnswering", "ForTokenClassification")


def find_architecture(config: Config) -> Architecture:
    """Return what a checkpoint's class becomes.

    Raises:
        IntegrityError: The configuration names no class.
        UnsupportedError: The class is not registered.
    """
    name = config.architecture
    if name in BY_CLASS:
        return BY_CLASS[name].variant(config) or BY_CLASS[name]
    raise UnsupportedError(
        f"{name} is not among the classes that are shown to convert rightly: "
        f"{_reason(name, config)}",
        "`llmedge convert --list-architectures` shows them",
    )


def _reason(name: str, config: Config) -> str:
    """Say why a class is not registered, and what would be needed."""
    if name in _WOULD_NEED:
        return _WOULD_NEED[name]
    if name.endswith(_HEADS):
        return "llama.cpp has no head that classifies tokens"
    if config.get("auto_map"):
        return (
            "it brings its own modelling code, which is neither run nor read here; llama.cpp would "
            "need its graph, and llmedge an entry in its table with a test of equal logits"
        )
    close = difflib.get_close_matches(name, BY_CLASS, n=1, cutoff=0.8)
    similar = f" ({close[0]} is, which may be another model)" if close else ""
    return f"it would need an entry in the table, with a test of equal logits{similar}"


def check_guards(architecture: Architecture, config: Config) -> None:
    """Refuse a configuration that llama.cpp would run otherwise than the original.

    Raises:
        UnsupportedError: One of the guards does not hold; it names the field.
    """
    for guard in architecture.guards:
        if not guard.holds(config):
            raise UnsupportedError(
                f"{config.architecture} with {guard.field} = {config.get(guard.field)!r} cannot be "
                f"converted: {guard.because}",
                "use a checkpoint with another setting; the result would be wrong in silence",
            )
    activation = config.get("hidden_act")
    if activation is not None and activation not in architecture.activations:
        raise UnsupportedError(
            f"{config.architecture} with hidden_act = {activation!r} cannot be converted: "
            f"llama.cpp computes {' or '.join(sorted(architecture.activations))} in its place"
        )
    kind = config.rope.kind
    if config.rope.values.get("truncate") is False:
        kind += UNTRUNCATED
    if kind not in architecture.rope_kinds:
        raise UnsupportedError(
            f"{config.architecture} with rope_type = {kind!r} cannot be converted: "
            f"llama.cpp applies {', '.join(sorted(architecture.rope_kinds))} here"
        )
    if config.get("is_causal") is False and not architecture.is_encoder:
        raise UnsupportedError(
            f"{config.architecture} with is_causal = False cannot be converted: llama.cpp lets no "
            "token of it see those after it"
        )
