"""What a silent `config.json` means: the same as to the class in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import transformers

from llmedge.convert.config import Config
from llmedge.convert.hyperparameters import common_metadata
from llmedge.convert.registry import BY_CLASS, find_architecture

if TYPE_CHECKING:
    from llmedge.gguf.writer import Value

SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 4}
OTHERS = ("intermediate_size", "hidden_dim", "vocab_size", "max_position_embeddings")
# The text models of the classes with eyes; of the others the class says it.
TEXT_MODELS = (
    ("Mistral3ForConditionalGeneration", "mistral"),
    ("Mistral3ForConditionalGeneration", "ministral3"),
)
CLASSES = (
    *((name, None) for name in sorted(BY_CLASS) if name not in dict(TEXT_MODELS)),
    *TEXT_MODELS,
)


def say_all(class_name: str, text_model: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all that transformers says of a text model, and what no default can say of it.

    Its sizes are not those of the defaults, so that values that follow from them can be told from
    those that do not.
    """
    if text_model is None:
        text: Any = getattr(transformers, class_name).config_class().get_text_config()
    else:
        text = transformers.AutoConfig.for_model(text_model)
    names: dict[str, str] = text.attribute_map
    own = {name: names.get(name, name) for name in (*SIZES, *OTHERS)}
    sizes: dict[str, Any] = {own[name]: getattr(text, name) for name in own if hasattr(text, name)}
    if own["num_attention_heads"] in sizes:
        sizes |= {own[name]: sizes[own[name]] * more for name, more in SIZES.items()}
    sizes["model_type"] = text.model_type
    return type(text)(**sizes).to_dict(), sizes


def read(class_name: str, settings: dict[str, Any]) -> dict[str, Value | None]:
    """Return what a model's file says for a configuration, and what else is read from it."""
    raw = Config({**settings, "architectures": [class_name]})
    architecture = find_architecture(raw)
    config = raw.with_defaults(architecture.defaults)
    values = {**common_metadata(config), **architecture.metadata(config)}
    if values.get("attention.head_count"):
        values["attention.key_length"] = values.get("attention.key_length") or config.head_dim
        values["attention.value_length"] = values.get("attention.value_length") or config.head_dim
    is_tied = config.flag("tie_word_embeddings", default=False)
    return {
        **values,
        **{f"guard of {guard.field}": guard.holds(config) for guard in architecture.guards},
        "activation": config.get("hidden_act") in (None, *architecture.activations),
        "rope kind": config.rope.kind,
        "rope factors": len(architecture.extra(config)),
        "tied": is_tied and not architecture.is_encoder,
    }


@pytest.mark.parametrize(("class_name", "text_model"), CLASSES)
def test_silence_means_what_it_means_to_transformers(class_name: str, text_model: str | None):
    said, sizes = say_all(class_name, text_model)
    silent, spoken = read(class_name, sizes), read(class_name, said)
    different = {key for key in silent | spoken if silent.get(key) != spoken.get(key)}
    assert {key: silent.get(key) for key in different} == {
        key: spoken.get(key) for key in different
    }
