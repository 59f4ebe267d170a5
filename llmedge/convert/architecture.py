"""What one architecture is: a table from the checkpoint's tensors and settings to llama.cpp's.

Everything that differs between architectures is data here or a small function in an `arch_…`
module; nothing else in llmedge asks which architecture a model has.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
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
SILU = frozenset({"silu", "swish"})
GELU_TANH = frozenset({"gelu_pytorch_tanh", "gelu_new", "gelu_fast"})
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
        names: Tensors outside of blocks, beyond `NAMES`; `None` takes one away.
        block: Tensors of a block, beyond `BLOCK`; `experts.*` stands for numbered experts, which
            are stacked; `None` takes one away.
        edits: Pattern of a GGUF name without `blk.N.` and `.weight` → what is done to it. An edit
            that returns several tensors names them in full, without `blk.N.`.
        metadata: Keys beyond the common ones, without the architecture's prefix; `None` removes.
        extra: Tensors that are not in the checkpoint, by their GGUF names.
        guards: What must hold.
        activations: Values of `hidden_act` that llama.cpp runs as.
        rope_kinds: Kinds of rope scaling that llama.cpp applies.
        defaults: What a silent `config.json` means.
        ignored: Patterns of tensors that are left out knowingly.
        is_encoder: Whether it makes embeddings instead of text.
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
    extra: Callable[[Config], Mapping[str, Rows]] = lambda _: {}
    guards: tuple[Guard, ...] = ()
    activations: frozenset[str] = SILU
    rope_kinds: frozenset[str] = frozenset({"default", "linear", "yarn"})
    defaults: Mapping[str, object] = field(default_factory=dict[str, object])
    ignored: tuple[str, ...] = ()
    is_encoder: bool = False

    def place(self, name: str) -> Place | None:
        """Return where a tensor of the checkpoint goes, `None` for one that has no place."""
        stem, suffix = name, ""
        for ending in (".weight", ".bias"):
            if name.endswith(ending):
                stem, suffix = name.removesuffix(ending), ending
        stem = self._without_prefix(stem)
        match = re.fullmatch(rf"{re.escape(self.layers)}\.(\d+)\.(.+)", stem)
        if match is None:
            target = {**NAMES, **self.names}.get(stem)
            return None if target is None else Place(None, target, suffix)
        inner, expert = match[2], None
        numbered = re.fullmatch(r"(.*\bexperts)\.(\d+)\.(.+)", inner)
        if numbered:
            inner, expert = f"{numbered[1]}.*.{numbered[3]}", int(numbered[2])
        target = {**BLOCK, **self.block}.get(inner)
        return None if target is None else Place(int(match[1]), target, suffix, expert)

    def ignores(self, name: str) -> bool:
        """Whether a tensor of the checkpoint is left out knowingly."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in (*BUFFERS, *self.ignored))

    def edit(self, target: str) -> Edit | None:
        """Return what is done to a tensor, by its GGUF name without block and suffix."""
        for pattern, edit in self.edits.items():
            if fnmatch.fnmatchcase(target, pattern):
                return edit
        return None

    def _without_prefix(self, stem: str) -> str:
        for prefix in self.prefixes:
            if stem.startswith(prefix):
                return stem.removeprefix(prefix)
        return stem


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of the checkpoint goes.

    Attributes:
        layer: Its block, `None` outside of blocks.
        target: GGUF name without `blk.N.` and suffix.
        suffix: `.weight`, `.bias` or nothing.
        expert: Its number among the experts that become one tensor.
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
