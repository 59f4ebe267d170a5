"""Which quant type a mix gives each tensor: llama.cpp's decision, made without llama.cpp.

`llama_model_quantize` decides from names, shapes and a few hyperparameters alone. So the types are
known before a weight is read, and a file can be written in one pass; tests/gguf/test_mix_rules.py
holds every mix to the library's own dry run.

Source: src/llama-quant.cpp of llama.cpp, `llama_tensor_get_type_impl` and `tensor_type_fallback`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.gguf.mixes import MIXES, Mix
from llmedge.gguf.quant_types import BY_NAME, F16, F32, QuantType
from llmedge.gguf.tensor_roles import (
    ATTN_K,
    ATTN_OUTPUT,
    ATTN_Q,
    ATTN_V,
    EMBEDDING,
    FFN_DOWN,
    FFN_GATE,
    FFN_UP,
    OUTPUT,
    ROLES,
    is_quantizable,
    layer_of,
    role_of,
    storage_type,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The hyperparameters that the rules look at.

    Attributes:
        architecture: llama.cpp's name for it.
        n_layers: `block_count`, layers for multi-token prediction included.
        n_heads: Attention heads of the first layer.
        n_kv_heads: Key-value heads of the first layer; 0 where it has no attention.
        n_experts: Experts of a layer; 0 for a dense model.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_experts: int = 0

    @property
    def n_gqa(self) -> int:
        """Heads that share a key-value head; 0 where the first layer has no attention."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for a model of 70 billion weights, which it tells by layers.

        Source: `LLM_TYPE_70B` in src/models/*.cpp.
        """
        if self.architecture in ("llama", "llama-embed"):
            shares_values = self.n_heads != self.n_kv_heads  # else it is the first 65B
            return self.n_layers == 80 and shares_values and self.n_experts != 8
        return _LAYERS_OF_70B.get(self.architecture) == self.n_layers


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One tensor of the model.

    Attributes:
        name: Its name in the file.
        shape: Sizes in GGML's order, fastest first: `(n_in, n_out)` for a matrix.
        stored: What a file that is not quantized holds for it: see `tensor_roles.storage_type`.
    """

    name: str
    shape: tuple[int, ...]
    stored: QuantType


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a tensor gets.

    Attributes:
        quant_type: Its quant type.
        wanted: What the mix wanted, where the rows do not fit that type's blocks.
        needs_imatrix: Whether llama.cpp refuses to quantize it so without an importance matrix.
    """

    quant_type: QuantType
    wanted: QuantType | None = None
    needs_imatrix: bool = False


def assign_types(
    mix: Mix, tensors: Sequence[TensorShape], shape: ModelShape, *, has_imatrix: bool
) -> dict[str, Assignment]:
    """Return what each tensor gets, in the order of `tensors`.

    A mix without quantization gives what a conversion to its type stores. All tensors of the model
    must be there: some rules count them, and a missing output matrix means tied embeddings.

    Raises:
        IntegrityError: An expert's name has no layer, or one that the model does not have.
        UnsupportedError: Rows do not fit the wanted type's blocks and llama.cpp has no other type.
    """
    if mix.base in _PLAIN:
        return {t.name: Assignment(storage_type(t.name, len(t.shape), mix.base)) for t in tensors}
    roles = {tensor.name: role_of(tensor.name) for tensor in tensors}
    if OUTPUT not in roles.values():  # the embedding is the output matrix, too
        roles = {name: OUTPUT if role == EMBEDDING else role for name, role in roles.items()}
    n_values = sum(role == ATTN_V for role in roles.values())
    seen: Counter[str] = Counter()
    types: dict[str, Assignment] = {}
    for tensor in sorted(tensors, key=lambda tensor: (layer_of(tensor.name), tensor.name)):
        if not is_quantizable(tensor.name, tensor.shape, shape.architecture):
            types[tensor.name] = Assignment(tensor.stored)
            continue
        role = roles[tensor.name]
        index = _index(mix, tensor.name, role, shape, seen[role])
        n_places = n_values if role == ATTN_V else shape.n_layers
        seen[role] += 1
        spot = _Spot(mix, tensor, role, shape, has_imatrix, index, n_places)
        types[tensor.name] = _fit(spot, _wanted(spot))
    return {tensor.name: types[tensor.name] for tensor in tensors}


@dataclass(frozen=True, slots=True)
class _Spot:
    """A tensor's place in the model, as the rules ask about it.

    Attributes:
        index: Its index among the tensors of its role.
        n_places: How many of its role the rules reckon with.
    """

    mix: Mix
    tensor: TensorShape
    role: str
    shape: ModelShape
    has_imatrix: bool
    index: int
    n_places: int

    def is_in_first(self, part: int) -> bool:
        return self.index < self.n_places // part

    def gets_more_bits(self) -> bool:
        """Whether it is in the first or last eighth, or one of three between them."""
        return not self.is_in_the_middle() or (self.index - self.n_places // 8) % 3 == 2

    def is_in_the_middle(self) -> bool:
        return not self.is_in_first(8) and self.index < 7 * self.n_places // 8

    @property
    def shares_values(self) -> bool:
        return self.shape.n_gqa >= 4

    @property
    def is_of_8_experts(self) -> bool:
        return self.shape.n_experts == 8

    @property
    def is_falcon(self) -> bool:
        return self.shape.architecture == "falcon"

    @property
    def fits_base(self) -> bool:
        return self.tensor.shape[0] % self.mix.base.block_weights == 0

    @property
    def is_of_experts(self) -> bool:
        is_stack = len(self.tensor.shape) > 2 and self.tensor.shape[2] > 1
        # Its projections of compressed attention are stacks, too.
        is_attention = self.shape.architecture == "bailingmoe3" and not self.role.startswith("ffn")
        return is_stack and not is_attention


def _always(_: _Spot) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Rule:
    mixes: str
    role: str
    quant_type: str
    when: Callable[[_Spot], bool] = _always


_1_BIT = "IQ1_S IQ1_M"
_2_BITS = f"{_1_BIT} IQ2_XXS IQ2_XS"
_2_BITS_LARGE = "IQ2_S IQ2_M"
_LOW = f"{_2_BITS} {_2_BITS_LARGE}"
_PLAIN = (F32, F16, BY_NAME["BF16"])
_QUANTIZED = tuple(name for name, mix in MIXES.items() if mix.base not in _PLAIN)
_ALL = " ".join(_QUANTIZED)
_OTHERS = " ".join(name for name in _QUANTIZED if name not in (*_LOW.split(), "MXFP4_MOE"))

# For a mix and a role, the first rule that holds decides; without one it is the mix's base.
_RULES = (
    # The output matrix (or an embedding tied to it) weighs on every token: never below 5 bits.
    _Rule(_ALL, OUTPUT, "Q8_0", lambda at: at.is_falcon or not at.fits_base),
    _Rule(f"{_LOW} IQ3_XXS", OUTPUT, "Q5_K"),
    _Rule("Q8_0 MXFP4_MOE", OUTPUT, "Q8_0"),
    _Rule(_ALL, OUTPUT, "Q6_K"),
    # An embedding of its own is only looked up, but rows of 1 or 2 bits would be noise.
    _Rule(_2_BITS, EMBEDDING, "Q2_K"),
    _Rule(f"{_2_BITS_LARGE} IQ3_XXS", EMBEDDING, "IQ3_S"),
    _Rule("TQ1_0 TQ2_0 Q2_0", EMBEDDING, "Q4_K"),
    # Values: small where heads share them, so more bits cost little; with 8 experts, nothing.
    _Rule(_LOW, ATTN_V, "Q4_K", lambda at: at.shares_values or at.shape.n_experts >= 4),
    _Rule(_2_BITS, ATTN_V, "Q2_K"),
    _Rule(_2_BITS_LARGE, ATTN_V, "IQ3_S"),
    _Rule(_OTHERS, ATTN_V, "Q8_0", lambda at: at.is_of_8_experts),
    _Rule("IQ4_NL IQ4_XS", ATTN_V, "Q5_K", lambda at: at.shares_values),
    _Rule("Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", ATTN_V, "Q4_K", lambda at: at.shares_values),
    _Rule("Q2_K", ATTN_V, "Q3_K"),
    _Rule("IQ3_XXS", ATTN_V, "IQ3_S", lambda at: not at.has_imatrix),
    _Rule("Q3_K_M", ATTN_V, "Q5_K", lambda at: at.index < 2),
    _Rule("Q3_K_M IQ3_M", ATTN_V, "Q4_K"),
    _Rule("Q3_K_L", ATTN_V, "Q5_K"),
    _Rule("Q4_K_M Q5_K_M", ATTN_V, "Q6_K", lambda at: at.gets_more_bits()),
    _Rule("Q4_K_S", ATTN_V, "Q5_K", lambda at: at.index < 4),
    # Queries and keys: robust, except for the keys beside 8 experts, which are few.
    _Rule(_LOW, ATTN_K, "Q4_K", lambda at: at.is_of_8_experts),
    _Rule(_OTHERS, ATTN_K, "Q8_0", lambda at: at.is_of_8_experts),
    *(_Rule("IQ3_XS", role, "IQ3_XXS") for role in (ATTN_K, ATTN_Q)),
    *(_Rule("IQ3_XXS", role, "IQ2_S") for role in (ATTN_K, ATTN_Q)),
    # The attention's output: beside 8 experts it is small, and Falcon's is robust.
    _Rule(_LOW, ATTN_OUTPUT, "Q5_K", lambda at: at.is_of_8_experts),
    _Rule(_1_BIT, ATTN_OUTPUT, "IQ2_XXS"),
    _Rule(_2_BITS_LARGE, ATTN_OUTPUT, "IQ3_S"),
    _Rule("Q3_K_L", ATTN_OUTPUT, "Q4_K", lambda at: at.is_falcon),
    _Rule(
        "Q2_K Q3_K_S Q3_K_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS Q4_K_S Q4_K_M",
        ATTN_OUTPUT,
        "Q5_K",
        lambda at: at.is_of_8_experts and not at.is_falcon,
    ),
    *(
        _Rule(mix, ATTN_OUTPUT, kind, lambda at: not (at.is_falcon or at.is_of_8_experts))
        for mix, kind in (
            *(("Q2_K", "Q3_K"), ("IQ3_XXS", "IQ3_S"), ("IQ3_M", "Q4_K")),
            *(("Q3_K_M", "Q4_K"), ("Q3_K_L", "Q5_K")),
        )
    ),
    # The way down suffers most after the values, in the first layers above all.
    _Rule(_2_BITS, FFN_DOWN, "Q2_K", lambda at: at.is_in_first(8)),
    _Rule(_2_BITS_LARGE, FFN_DOWN, "IQ3_S", lambda at: at.is_in_first(8)),
    _Rule("Q2_K", FFN_DOWN, "Q3_K"),
    _Rule("Q2_K_S", FFN_DOWN, "Q4_K", lambda at: at.is_in_first(8)),
    _Rule("IQ3_XXS", FFN_DOWN, "Q4_K", lambda at: not at.has_imatrix and at.is_in_first(8)),
    _Rule("IQ3_XXS", FFN_DOWN, "Q3_K", lambda at: not at.has_imatrix),
    _Rule("IQ3_M", FFN_DOWN, "Q4_K", lambda at: at.is_in_first(8)),
    _Rule("IQ3_M", FFN_DOWN, "Q4_K", lambda at: at.is_of_8_experts and at.gets_more_bits()),
    _Rule("Q3_K_M", FFN_DOWN, "Q5_K", lambda at: at.is_in_first(16)),
    _Rule("Q3_K_M", FFN_DOWN, "Q4_K", lambda at: not at.is_falcon or at.gets_more_bits()),
    _Rule("Q3_K_L", FFN_DOWN, "Q4_K", lambda at: at.is_falcon),
    _Rule("Q3_K_L", FFN_DOWN, "Q5_K"),
    _Rule("IQ4_NL IQ4_XS", FFN_DOWN, "Q5_K", lambda at: not at.has_imatrix and at.is_in_first(8)),
    _Rule("Q4_K_S", FFN_DOWN, "Q5_K", lambda at: not at.is_falcon and at.is_in_first(8)),
    _Rule("Q4_K_M", FFN_DOWN, "Q6_K", lambda at: at.is_falcon and at.is_in_first(16)),
    _Rule("Q4_K_M", FFN_DOWN, "Q5_K", lambda at: at.is_falcon and at.gets_more_bits()),
    _Rule("Q4_K_M", FFN_DOWN, "Q6_K", lambda at: not at.is_falcon and at.gets_more_bits()),
    _Rule("Q5_K_M", FFN_DOWN, "Q6_K", lambda at: at.gets_more_bits()),
    # Weighed by an importance matrix, 4 and 5 bits can go wild there; an offset prevents it.
    _Rule("Q4_0", FFN_DOWN, "Q4_1", lambda at: at.has_imatrix and at.is_in_first(8)),
    _Rule("Q5_0", FFN_DOWN, "Q5_1", lambda at: at.has_imatrix and at.is_in_first(8)),
    # The way up is robust in the middle layers.
    *(_Rule("IQ3_XS", role, "IQ3_XXS", _Spot.is_in_the_middle) for role in (FFN_GATE, FFN_UP)),
    # Of a mixture of experts, only the experts are worth 4 bits.
    *(_Rule("MXFP4_MOE", role, "Q8_0", lambda at: not at.is_of_experts) for role in ROLES),
)
_RULES_OF = {
    (mix, role): [rule for rule in _RULES if rule.role == role and mix in rule.mixes.split()]
    for mix in _QUANTIZED
    for role in ROLES
}
_LAYERS_OF_70B = {"qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
_GLM5_IN_8_BITS = ("attn_q_a", "attn_q_b", "nextn.eh_proj")
# Blocks of 256 (and Q2_0's of 64) and the type with blocks of 32 that stands in for them.
_FALLBACKS = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), "IQ4_NL"),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_NEED_IMATRIX = frozenset(("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"))


def _index(mix: Mix, name: str, role: str, shape: ModelShape, n_seen: int) -> int:
    """Return a tensor's index in its role: by counting, or for experts by what their names say."""
    is_counted = role not in (FFN_DOWN, FFN_GATE, FFN_UP) or shape.n_experts <= 1
    if is_counted or mix.name not in _OTHERS.split():
        return n_seen
    layer = layer_of(name)
    if not 0 <= layer < shape.n_layers:
        raise IntegrityError(
            f"tensor {name} is in none of the model's {shape.n_layers} layers",
            "convert the model again",
        )
    return layer


def _wanted(spot: _Spot) -> QuantType:
    name = spot.tensor.name
    if spot.shape.architecture == "glm5-next" and any(part in name for part in _GLM5_IN_8_BITS):
        return BY_NAME["Q8_0"]
    rules = _RULES_OF[spot.mix.name, spot.role]
    kind = next((rule.quant_type for rule in rules if rule.when(spot)), spot.mix.base.name)
    # In the largest models eight heads share their values: 5 bits for them are nearly free.
    is_cheap = spot.shape.is_70b and spot.role == ATTN_V and spot.mix.name in _OTHERS.split()
    return BY_NAME["Q5_K" if is_cheap and kind in ("Q3_K", "Q4_K") else kind]


def _fit(spot: _Spot, wanted: QuantType) -> Assignment:
    n_in = spot.tensor.shape[0]
    got = wanted
    if n_in % wanted.block_weights:
        if wanted.name not in _FALLBACKS and wanted.block_weights > 32:
            raise UnsupportedError(
                f"tensor {spot.tensor.name} has rows of {n_in} weights, no multiple of "
                f"{wanted.name}'s {wanted.block_weights}, and nothing stands in for {wanted.name}",
                "choose another mix, such as Q4_0",
            )
        got = BY_NAME[_FALLBACKS.get(wanted.name, wanted.name)]
        if n_in % got.block_weights:
            got = F16
    needs = needs_imatrix(spot.tensor.name, got.name, spot.mix)
    return Assignment(got, wanted if got is not wanted else None, needs)


def needs_imatrix(name: str, quant_type: str, mix: Mix) -> bool:
    """Whether llama.cpp refuses a tensor's type without an importance matrix.

    Source: src/llama-quant.cpp `tensor_requires_imatrix` of llama.cpp.
    """
    is_of_need = quant_type in _NEED_IMATRIX or (quant_type, mix.name) == ("Q2_K", "Q2_K_S")
    return is_of_need and role_of(name) not in (EMBEDDING, OUTPUT)
