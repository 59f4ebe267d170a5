"""A checkpoint's `config.json`, read raw: one spelling for what has had several.

No class of another library is asked what a missing value means: defaults that matter are written
with the architecture that has them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from llmedge.core.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAX_BYTES = 16 << 20
_FLOAT32_MAX = 3.4e38
_NESTED = ("text_config", "llm_config", "language_config")

# Spellings of one thing; the first is ours.
_ALIASES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "n_embed", "d_model", "dim"),
    "intermediate_size": ("n_inner", "ffn_hidden_size", "ffn_dim"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_kv_heads", "n_head_kv"),
    "max_position_embeddings": ("n_positions", "n_ctx", "seq_length", "max_sequence_length"),
    "rms_norm_eps": ("norm_eps", "layer_norm_epsilon", "layer_norm_eps", "rms_norm_epsilon"),
    "layer_norm_eps": ("layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "hidden_act": ("hidden_activation", "activation_function", "ff_activation"),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "layer_types": ("layers_block_type",),
    "tie_word_embeddings": ("tie_embedding",),
    "num_experts_per_tok": ("num_experts_per_token", "moe_topk", "moe_k"),
}


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions rotate queries and keys.

    Attributes:
        theta: Base of the frequencies.
        kind: `default`, `linear`, `dynamic`, `yarn`, `longrope`, `llama3`, `proportional` …
        partial: Share of a head's width that rotates.
        values: Everything else that `rope_parameters` or `rope_scaling` says.
    """

    theta: float
    kind: str = "default"
    partial: float = 1.0
    values: Mapping[str, object] = field(default_factory=dict[str, object])

    def number(self, name: str, default: float | None = None) -> float:
        """Return one of `values` as a number.

        Raises:
            IntegrityError: It is missing and there is no default, or is no number.
        """
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        return _number(f"rope_parameters.{name}", value)

    def numbers(self, name: str) -> list[float]:
        """Return one of `values` as a list of numbers."""
        return _numbers(f"rope_parameters.{name}", self.values.get(name))


class Config:
    """What `config.json` says, the text model's part of it lifted to the top.

    Args:
        raw: The whole document.
        defaults: What counts where the document is silent.
    """

    def __init__(self, raw: Mapping[str, object], defaults: Mapping[str, object] = {}) -> None:
        self.raw = raw
        self.is_nested = False
        values = dict(raw)
        for name in _NESTED:
            nested = raw.get(name)
            if isinstance(nested, dict):
                values.update(cast("dict[str, object]", nested))
                self.is_nested = True
        self._values = values
        self._defaults = dict(defaults)

    def with_defaults(self, defaults: Mapping[str, object]) -> Config:
        """Return the same configuration with what counts where it is silent."""
        return Config(self.raw, {**self._defaults, **defaults})

    @property
    def identity(self) -> str:
        """The whole document, written in one way."""
        return json.dumps(self.raw, sort_keys=True, default=str)

    @property
    def architecture(self) -> str:
        """The class that the checkpoint was saved with.

        Raises:
            IntegrityError: It does not say.
        """
        names = self.raw.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise IntegrityError(
                "config.json does not name the model's class (architectures)",
                "is this the folder of a checkpoint?",
            )
        return names[0]

    def get(self, name: str, default: object = None) -> object:
        """Return a value under any of its spellings; `null` counts as silence."""
        for values in (self._values, self._defaults):
            for spelling in (name, *_ALIASES.get(name, ())):
                if values.get(spelling) is not None:
                    return values[spelling]
        return default

    def has(self, name: str) -> bool:
        """Whether a value is given and not `null`."""
        return self.get(name) is not None

    def is_null(self, name: str) -> bool:
        """Whether `null` is written for a value, where that says more than silence."""
        return name in self._values and self._values[name] is None

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a value as an integer.

        Raises:
            IntegrityError: It is missing and there is no default, or is no integer.
        """
        value = self.get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 31:
            raise _wrong(name, value, "an integer that a model can have")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a value as a number; errors as `integer`."""
        return _number(name, self.get(name, default))

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """Return a value as true or false; errors as `integer`."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise _wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a value as text; errors as `integer`."""
        value = self.get(name, default)
        if not isinstance(value, str):
            raise _wrong(name, value, "text")
        return value

    def items(self, name: str) -> list[object]:
        """Return a value as a list; errors as `integer`."""
        value = self.get(name)
        if not isinstance(value, list):
            raise _wrong(name, value, "a list")
        return cast("list[object]", value)

    def numbers(self, name: str) -> list[float]:
        """Return a value as a list of numbers; errors as `integer`."""
        return _numbers(name, self.get(name))

    @property
    def is_tied(self) -> bool | None:
        """Whether the embedding is the output matrix, too; `None` where nothing is said."""
        said = [values.get("tie_word_embeddings") for values in (self.raw, self._values)]
        said.append(self._defaults.get("tie_word_embeddings"))
        return True if True in said else False if False in said else None

    @property
    def n_layers(self) -> int:
        """Blocks of the network."""
        return _positive("num_hidden_layers", self.integer("num_hidden_layers"))

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return _positive("num_attention_heads", self.integer("num_attention_heads"))

    @property
    def n_kv_heads(self) -> int:
        """Key and value heads."""
        return self.integer("num_key_value_heads", self.n_heads)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.integer("head_dim", self.integer("hidden_size") // self.n_heads)

    @property
    def rope(self) -> Rope:
        """The rotation of full attention layers."""
        return self._rope("full_attention")

    @property
    def local_rope(self) -> Rope:
        """The rotation of sliding-window layers, where they have their own."""
        return self._rope("sliding_attention")

    def _rope(self, layer_type: str) -> Rope:
        values: dict[str, Any] = {}
        for name in ("rope_scaling", "rope_parameters"):
            given = self.get(name)
            if isinstance(given, dict):
                values.update(cast("dict[str, Any]", given))
        nested = values.get(layer_type)
        if isinstance(nested, dict):
            values = {**values, **cast("dict[str, Any]", nested)}
        elif layer_type != "full_attention":
            values = {}
        theta_name = "rope_theta" if layer_type == "full_attention" else "rope_local_base_freq"
        theta = values.get("rope_theta") or self.get(theta_name)
        theta = theta or self.get("rotary_emb_base") or self.get("rotary_base") or 10000.0
        partial = values.get("partial_rotary_factor") or self.get("partial_rotary_factor")
        partial = partial or self.get("rotary_pct") or 1.0
        kind = values.get("rope_type") or values.get("type") or "default"
        return Rope(
            _number("rope_theta", theta),
            str(kind),
            _number("partial_rotary_factor", partial),
            values,
        )


def read_config(folder: Path) -> Config:
    """Read a checkpoint's `config.json`.

    Raises:
        NotFoundError: There is none.
        IntegrityError: It is no JSON object.
    """
    raw = read_json(folder / "config.json")
    if raw is None:
        raise NotFoundError(f"{folder} has no config.json", "give the folder of a checkpoint")
    return Config(raw)


def read_json(path: Path) -> dict[str, object] | None:
    """Return a JSON object from a small file, `None` where there is no file.

    Raises:
        IntegrityError: It is too large, or no JSON object.
    """
    document = read_json_document(path)
    if document is not None and not isinstance(document, dict):
        raise IntegrityError(f"{path} is no JSON object", "get it again")
    return cast("dict[str, object] | None", document)


def read_json_document(path: Path) -> object:
    """Return what a small JSON file holds, `None` where there is no file.

    Raises:
        IntegrityError: It is too large, or no JSON.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise IntegrityError(f"{path} has {path.stat().st_size} bytes, far too many for what it is")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is no JSON: {error}", "get it again") from None


def _positive(name: str, value: int) -> int:
    if not 0 < value < 1 << 16:
        raise _wrong(name, value, "a number of layers or heads")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(name, value, "a number")
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:  # nor is NaN
        raise _wrong(name, value, "a number that 32 bits hold")
    return float(value)


def _numbers(name: str, value: object) -> list[float]:
    if not isinstance(value, list):
        raise _wrong(name, value, "a list of numbers")
    return [_number(name, item) for item in cast("list[object]", value)]


def _wrong(name: str, value: object, wanted: str) -> IntegrityError:
    found = "is missing" if value is None else f"is {str(value)[:60]!r}"
    return IntegrityError(f"config.json: {name} {found}; it has to be {wanted}")
