"""What one architecture is: a table from the checkpoint's tensors and settings to llama.cpp's.

Everything that differs between architectures is data here or a small function in an `arch_…`
module; nothing else in llmedge asks which architecture a model has.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value

Edit: TypeAlias = "Callable[[Rows, Config], Rows | Mapping[str, Rows]]"
MetadataRule: TypeAlias = "Callable[[Config], Mapping[str, Value | None]]"

# Names that nearly every decoder has; an architecture states what it has otherwise.
NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Buffers that old versions of transformers saved beside the weights.
BUFFERS = ("*rotary_emb.inv_freq", "*.attn.bias", "*.masked_bias", "*.attention.bias")
TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
VISION = ("*vision_tower.*", "*vision_model.*", "*visual.*", "*multi_modal_projector.*")
# Yarn whose bounds are not rounded; llama.cpp always rounds them.
UNTRUNCATED = ", truncate = false"
SILU = frozenset({"silu", "swish"})
GELU_TANH = frozenset({"gelu_pytorch_tanh", "gelu_new", "gelu_fast"})
RELU2 = frozenset({"relu2"})
GELU = GELU_TANH | {"gelu"}


@dataclass(frozen=True, slots=True)
class Guard:
    """A setting that llama.cpp would run otherwise than the original, or not at all.

    Attributes:
        field: Its name in `config.json`.
        holds: Whether the checkpoint may be converted.
        because: What llama.cpp does instead.
    """

    field: str
    holds: Callable[[Config], bool]
    because: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture of llama.cpp, and the classes that become it.

    Attributes:
        name: llama.cpp's name.
        family: Whose models these are, for people.
        classes: Classes of transformers that are shown to be right.
        prefixes: What tensor names of the text model begin with; the first that fits is removed.
        layers: The list of blocks, after the prefix.
        names: Tensors outside of blocks, beyond `NAMES`; `….*` stands for numbered ones, which are
            stacked; `None` takes one away.
        block: Tensors of a block, beyond `BLOCK`; `experts.*` and the like stand for numbered
            ones, which are stacked; `None` takes one away.
        edits: Pattern of a GGUF name without `blk.N.`, with or without `.weight` → what is done to
            it. An edit that returns several tensors names them in full, without `blk.N.`.
        metadata: Keys beyond the common ones, without the architecture's prefix (but `tokenizer.…`
            in full); `None` removes.
        numbers: Tensors of a block that hold one number → the key, in full, whose list they become.
        extra: Tensors that the checkpoint may lack, by their GGUF names.
        guards: What must hold.
        activations: Values of `hidden_act` that llama.cpp runs as.
        rope_kinds: Kinds of rope scaling that llama.cpp applies.
        defaults: What a silent `config.json` means.
        ignored: Patterns of tensors that are left out knowingly.
        is_encoder: Whether it makes embeddings instead of text.
        has_drafts: Whether checkpoints have blocks after the last one that draft tokens, as many as
            `num_nextn_predict_layers` says; they are left out.
        has_dense: Whether llama.cpp computes dense layers after pooling.
        variant: What a checkpoint of the same class becomes instead, by its configuration.
    """

    name: str
    family: str
    classes: tuple[str, ...]
    prefixes: tuple[str, ...] = TEXT_PREFIXES
    layers: str = "layers"
    names: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    block: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    edits: Mapping[str, Edit] = field(default_factory=dict[str, "Edit"])
    metadata: MetadataRule = lambda _: {}
    numbers: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Callable[[Config], Mapping[str, Rows]] = lambda _: {}
    guards: tuple[Guard, ...] = ()
    activations: frozenset[str] = SILU
    rope_kinds: frozenset[str] = frozenset({"default", "linear", "yarn"})
    defaults: Mapping[str, object] = field(default_factory=dict[str, object])
    ignored: tuple[str, ...] = ()
    is_encoder: bool = False
    has_drafts: bool = False
    has_dense: bool = False
    variant: Callable[[Config], Architecture | None] = lambda _: None

    def place(self, name: str) -> Place | None:
        """Return where a tensor of the checkpoint goes, `None` for one that has no place."""
        stem, suffix = name, ""
        for ending in (".weight", ".bias"):
            if name.endswith(ending):
                stem, suffix = name.removesuffix(ending), ending
        layer, inner = self._locate(stem)
        names = {**NAMES, **self.names} if layer is None else {**BLOCK, **self.block}
        return _placed(names, inner, suffix, layer)

    def number_of(self, name: str) -> tuple[str, int] | None:
        """Return the key, and the place in its list, of a tensor that holds one number."""
        layer, inner = self._locate(name)
        return None if layer is None or inner not in self.numbers else (self.numbers[inner], layer)

    def is_beyond(self, name: str, n_layers: int) -> bool:
        """Whether a tensor belongs to a block after the last one."""
        layer, _ = self._locate(name)
        return layer is not None and layer >= n_layers

    def is_draft(self, name: str, config: Config) -> bool:
        """Whether a tensor belongs to a block that only drafts tokens."""
        n_drafts = config.integer("num_nextn_predict_layers", 0) if self.has_drafts else 0
        is_after = self.is_beyond(name, config.n_layers)
        return is_after and not self.is_beyond(name, config.n_layers + n_drafts)

    def _locate(self, name: str) -> tuple[int | None, str]:
        """Part a name into the number of its block and what it is called there."""
        for prefix in self.prefixes:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        match = re.fullmatch(rf"{re.escape(self.layers)}\.(\d+)\.(.+)", name)
        return (None, name) if match is None else (int(match[1]), match[2])

    def ignores(self, name: str) -> bool:
        """Whether a tensor of the checkpoint is left out knowingly."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in (*BUFFERS, *self.ignored))

    def edit(self, place: Place) -> Edit | None:
        """Return what is done to the tensor that goes to a place."""
        names = (place.target, place.target + place.suffix)
        for pattern, edit in self.edits.items():
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                return edit
        return None


def with_rope(architecture: Architecture, rope: Mapping[str, object]) -> Architecture:
    """Return an architecture whose class fills in all of `rope_parameters` where none are given."""
    silent = replace(architecture, defaults={**architecture.defaults, "rope_parameters": rope})

    def variant(config: Config) -> Architecture | None:
        is_given = config.has("rope_parameters") or config.has("rope_scaling")
        return None if is_given else silent

    return replace(architecture, variant=variant)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of the checkpoint goes.

    Attributes:
        layer: Its block, `None` outside of blocks.
        target: GGUF name without `blk.N.` and suffix.
        suffix: `.weight`, `.bias` or nothing.
        expert: Its number among the experts, or the like, that become one tensor.
    """

    layer: int | None
    target: str
    suffix: str
    expert: int | None = None

    def named(self, target: str) -> str:
        """Return a full GGUF name in the same block."""
        return target if self.layer is None else f"blk.{self.layer}.{target}"

    @property
    def name(self) -> str:
        """The full GGUF name."""
        return self.named(self.target + self.suffix)


def _placed(
    names: Mapping[str, str | None], stem: str, suffix: str, layer: int | None
) -> Place | None:
    """Look a name up, and, if it is not there, with `*` for its last number."""
    numbered = re.fullmatch(r"(.+)\.(\d+)((?:\..+)?)", stem)
    if stem in names or numbered is None:
        target, number = names.get(stem), None
    else:
        target, number = names.get(f"{numbered[1]}.*{numbered[3]}"), int(numbered[2])
    return None if target is None else Place(layer, target, suffix, number)
