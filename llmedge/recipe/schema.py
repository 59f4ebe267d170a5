"""What a recipe may say: one TOML file a product, checked strictly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from llmedge.core.errors import LlmedgeError
from llmedge.core.units import parse_bytes
from llmedge.gguf.mixes import find_mix, require_imatrix
from llmedge.measure.calibration import PRESETS
from llmedge.measure.corpus import KINDS, LANGUAGES
from llmedge.quantize.target import require_sensible, target_of

if TYPE_CHECKING:
    from llmedge.quantize.target import Kind, Target

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_TARGETS: dict[str, Kind] = {
    "target_size": "size",
    "target_bpw": "bpw",
    "target_ram": "ram",
    "max_kld": "kld",
}


def _refused(error: LlmedgeError) -> ValueError:
    """Return an error of ours as one that pydantic names the key of."""
    return ValueError(f"{error.message}; {error.hint}" if error.hint else error.message)


def _is_text(kind: str) -> str:
    if kind not in KINDS or kind == "chat":
        known = ", ".join(code for code in KINDS if code != "chat")
        raise ValueError(f"no text is shipped of {kind!r}; shipped: {known}")
    return kind


def _is_language(code: str) -> str:
    if code not in LANGUAGES:
        raise ValueError(f"no text is shipped for {code!r}; shipped: {', '.join(LANGUAGES)}")
    return code


def _is_mix(name: str) -> str:
    try:
        return find_mix(name).name
    except LlmedgeError as error:
        raise _refused(error) from None


def _is_size(text: str) -> str:
    try:
        parse_bytes(text)
    except LlmedgeError as error:
        raise _refused(error) from None
    return text


def _is_preset(name: str) -> str:
    if name not in PRESETS:
        raise ValueError(f"no calibration text is called {name!r}; presets: {', '.join(PRESETS)}")
    return name


Name = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
Repo = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z][a-z]{3})?$")]
Size = Annotated[str, AfterValidator(_is_size)]
Text = Annotated[str, AfterValidator(_is_text)]
Spoken = Annotated[str, AfterValidator(_is_language)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
CacheType: TypeAlias = Literal["f16", "q8_0"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceTable(_Table):
    """`[source]`: where the checkpoint comes from."""

    repo: Repo
    revision: Commit | None = None
    architecture: str | None = None
    include: list[str] = []
    exclude: list[str] = []
    gated: bool = False
    # What each file hashes to; `recipe lock` writes it.
    files: dict[str, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40,64}$")]] = {}


class CalibrationTable(_Table):
    """`[calibration]`: what importance matrices and plans are computed on."""

    preset: Annotated[str, AfterValidator(_is_preset)] | None = None
    weights: dict[str, Positive] = {}
    texts: list[str] = []
    tokens: Annotated[int, Field(ge=512, le=1 << 30)] = 20_480
    seed: int = 0

    @model_validator(mode="after")
    def _says_it_once(self) -> CalibrationTable:
        if self.preset and (self.weights or self.texts):
            raise ValueError("a preset says all shares; it goes with no weights and no texts")
        return self


class VariantTable(_Table):
    """`[[variant]]`: one file to make, by a mix or for one target."""

    mix: Annotated[str, AfterValidator(_is_mix)] | None = None
    target_size: Size | None = None
    target_bpw: Positive | None = None
    target_ram: Size | None = None
    max_kld: Positive | None = None
    kernels: Literal["arm", "avx2", "hexagon", "generic"] | None = None
    imatrix: bool = True
    tensor_types: dict[str, str] = {}

    @model_validator(mode="after")
    def _says_one_thing(self) -> VariantTable:
        if sum(getattr(self, key) is not None for key in ("mix", *_TARGETS)) != 1:
            raise ValueError(f"say one of mix, {', '.join(_TARGETS)}")
        if self.mix is None and (self.tensor_types or not self.imatrix):
            raise ValueError("tensor_types and imatrix go with a mix")
        if self.mix is not None and self.kernels is not None:
            raise ValueError("kernels go with a target; a mix has its types already")
        try:
            if self.mix is not None:
                require_imatrix(find_mix(self.mix), has_imatrix=self.imatrix)
            self.target()
        except LlmedgeError as error:
            raise _refused(error) from None
        return self

    def target(self) -> Target | None:
        """Return what a measured plan must keep to; `None` of a mix."""
        for key, kind in _TARGETS.items():
            if (value := getattr(self, key)) is not None:
                return require_sensible(target_of(kind, str(value)))
        return None

    @property
    def label(self) -> str:
        """What the variant is called."""
        target = self.target()
        return target.label if target is not None else find_mix(self.mix or "").name


class GatesTable(_Table):
    """`[gates]`: what a variant must reach to be kept; for all languages alike, or by language."""

    max_mean_kld: Positive | dict[Text, Positive] | None = None
    min_top1: Share | dict[Text, Share] | None = None
    max_perplexity_ratio: Positive | dict[Text, Positive] | None = None
    min_words_per_s: dict[Spoken, Positive] = {}
    min_tg: Positive | None = None
    max_memory: Size | None = None


class EvaluateTable(_Table):
    """`[evaluate]`: the texts that variants are compared with the 16-bit model on."""

    texts: list[Text] = []
    chunks: Annotated[int, Field(ge=1)] | None = None


class BenchTable(_Table):
    """`[bench]`: how speed is measured."""

    n_prompt: Annotated[int, Field(ge=1, le=1 << 20)] = 512
    n_gen: Annotated[int, Field(ge=1, le=1 << 20)] = 128
    repetitions: Annotated[int, Field(ge=1, le=100)] = 3
    contended: Literal["refuse", "flag"] = "flag"


class ServeTable(_Table):
    """`[serve]`: how the model is served."""

    variant: str | None = None
    ctx: Annotated[int, Field(ge=256, le=1 << 27)] = 4096
    type_k: CacheType = "f16"
    type_v: CacheType = "f16"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    chat_template_kwargs: dict[str, bool | int | str] = {}
    system: dict[Language, str] = {}


class DeviceTable(_Table):
    """`[devices.NAME]`: what is asked of the model on a device."""

    room: Size | None = None
    ctx: Annotated[int, Field(ge=1, le=1 << 27)] | None = None
    min_tg: Positive | None = None


class Recipe(_Table):
    """A recipe."""

    schema_version: Literal[1]
    name: Name
    title: str
    license: Annotated[str, StringConstraints(min_length=1)]
    license_url: str | None = None
    notice: str | None = None
    languages: Annotated[list[Language], Field(min_length=1)]
    source: SourceTable
    calibration: CalibrationTable = CalibrationTable()
    variant: Annotated[list[VariantTable], Field(min_length=1)]
    evaluate: EvaluateTable = EvaluateTable()
    gates: GatesTable = GatesTable()
    bench: BenchTable = BenchTable()
    serve: ServeTable = ServeTable()
    devices: dict[str, DeviceTable] = {}

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        labels = [variant.label for variant in self.variant]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two variants are called {twice[0]}")
        if self.serve.variant is not None and self.serve.variant.upper() not in labels:
            raise ValueError(
                f"serve.variant {self.serve.variant!r} is no variant of it: {', '.join(labels)}"
            )
        for key in ("max_mean_kld", "min_top1", "max_perplexity_ratio"):
            gate: float | dict[str, float] | None = getattr(self.gates, key)
            missing = sorted(set(gate if isinstance(gate, dict) else {}) - set(self.texts))
            if missing:
                raise ValueError(
                    f"gates.{key} has {missing[0]}, which is not measured: evaluate.texts has "
                    f"{', '.join(self.texts)}"
                )
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """What variants are compared on: its own, else the languages that a text is shipped for."""
        return tuple(self.evaluate.texts) or tuple(
            code for code in self.languages if code in LANGUAGES
        )

    @property
    def served(self) -> str:
        """The variant to serve: the one that is named, else the first."""
        return (self.serve.variant or self.variant[0].label).upper()


# Which table a key stands in, for those who made a mistake in one.
TABLES: dict[str, type[_Table]] = {
    "source": SourceTable,
    "calibration": CalibrationTable,
    "variant": VariantTable,
    "evaluate": EvaluateTable,
    "gates": GatesTable,
    "bench": BenchTable,
    "serve": ServeTable,
    "devices": DeviceTable,
}
