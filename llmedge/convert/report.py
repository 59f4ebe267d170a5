"""What a conversion was asked for, and what it will be or was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmedge.convert.estimate import peak_bytes
from llmedge.convert.tokenizer import TokenizerOptions, TokenizerReport
from llmedge.gguf.fallbacks import Fallbacks, group_fallbacks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmedge.convert.model import ModelPlan
    from llmedge.convert.output import OutputFile
    from llmedge.convert.stream import StreamOptions
    from llmedge.convert.verify import Verification
    from llmedge.gguf.mix_rules import Assignment
    from llmedge.gguf.mixes import Mix

DEFAULT_MEMORY_BYTES = 200 << 20


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert.

    Attributes:
        mix: What to make.
        output: The file, or an existing folder for it; `None` is the store.
        n_threads: Threads; `None` takes the performance cores within the limits.
        imatrix: An importance matrix.
        memory_bytes: What the process may take.
        split_bytes: Bytes of weights in a part; `None` makes one file.
        overwrite: Replace what is there.
        resume: Go on with what a killed conversion left.
        tokenizer: How to treat the tokenizer.
        adapter: A LoRA adapter to merge.
    """

    mix: Mix
    output: Path | None = None
    n_threads: int | None = None
    imatrix: Path | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    split_bytes: int | None = None
    overwrite: bool = False
    resume: bool = True
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class TypeShare:
    """The tensors of one quant type."""

    quant_type: str
    n_tensors: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion will be, or was.

    Attributes:
        name: The model's name.
        mix: The mix's name.
        path: The file, or the first of its parts.
        n_parts: How many files.
        model_class: The checkpoint's class.
        architecture: llama.cpp's name for it.
        file_bytes: Size of all files, to the byte.
        bits_per_weight: Over all tensors.
        types: What the tensors are.
        fallbacks: What the mix did not get.
        n_ignored: Tensors of the checkpoint that are left out knowingly.
        tokenizer: What became of the tokenizer.
        memory_bytes: Peak memory by arithmetic.
        estimated_s: Seconds of quantizing on this machine, tried out; 0 after a conversion.
        convert_s: Seconds that it took; 0 for a plan.
        n_resumed: Tensors that an earlier run had finished.
        sha256: Hash of each file; none for a plan.
        notes: What a person should know.
        n_weights: Of the model.
        n_ctx: Tokens of context that it is written with; 0 where it has no such limit.
        is_encoder: Whether it makes embeddings.
        is_plan: Whether nothing was written.
        verification: How far it is from the original, where that was measured.
    """

    name: str
    mix: str
    path: Path
    n_parts: int
    model_class: str
    architecture: str
    file_bytes: int
    bits_per_weight: float
    types: tuple[TypeShare, ...]
    fallbacks: tuple[Fallbacks, ...]
    n_ignored: int
    tokenizer: TokenizerReport
    memory_bytes: int
    estimated_s: float = 0.0
    convert_s: float = 0.0
    n_resumed: int = 0
    sha256: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    n_weights: int = 0
    n_ctx: int = 0
    is_encoder: bool = False
    is_plan: bool = True
    verification: Verification | None = None


def describe(
    name: str,
    options: ConvertOptions,
    model: ModelPlan,
    files: tuple[OutputFile, ...],
    types: Mapping[str, Assignment],
    tokenizer: TokenizerReport,
    stream: StreamOptions,
) -> ConversionReport:
    """Return what a conversion will be."""
    infos = [tensor.info for file in files for tensor in file.tensors]
    counts = Counter(info.quant_type.name for info in infos)
    sizes = Counter[str]()
    for info in infos:
        sizes[info.quant_type.name] += info.n_bytes
    tensors = [tensor for file in files for tensor in file.tensors]
    n_weights = sum(info.n_weights for info in infos)
    n_ctx = model.metadata.get(f"{model.architecture.name}.context_length")
    fallbacks = group_fallbacks(
        (key, kind.wanted.name if kind.wanted else None, kind.quant_type.name)
        for key, kind in types.items()
    )
    return ConversionReport(
        name=name,
        mix=options.mix.name,
        path=files[0].path,
        n_parts=len(files),
        model_class=model.config.architecture,
        architecture=model.architecture.name,
        file_bytes=sum(file.n_bytes for file in files),
        bits_per_weight=round(8 * sizes.total() / n_weights, 4),
        types=tuple(TypeShare(key, n, sizes[key]) for key, n in counts.most_common()),
        fallbacks=fallbacks,
        n_ignored=len(model.ignored),
        tokenizer=tokenizer,
        memory_bytes=peak_bytes(tensors, stream.range_bytes, stream.n_threads),
        notes=_notes(options, model, files),
        n_weights=n_weights,
        n_ctx=n_ctx if isinstance(n_ctx, int) else 0,
        is_encoder=model.architecture.is_encoder,
    )


# KL divergence without and with an importance matrix, SmolLM2-135M padded to rows of 768 weights,
# 1,536 positions of held-out English text and code.
_IMATRIX_GAIN = {"Q4_K_M": (0.180, 0.076), "Q4_0": (0.391, 0.198)}


def _without_imatrix(mix: Mix) -> str:
    figures = ""
    if mix.name in _IMATRIX_GAIN:
        without, having = _IMATRIX_GAIN[mix.name]
        figures = f" (measured on a model of 135M weights: KL divergence {having}, not {without})"
    return (
        f"{mix.name} loses less with an importance matrix{figures}: --imatrix FILE, from the "
        "model's GGUF repository or from `llmedge imatrix` on a 16-bit variant"
    )


def _notes(
    options: ConvertOptions, model: ModelPlan, files: tuple[OutputFile, ...]
) -> tuple[str, ...]:
    notes: list[str] = []
    if options.mix.imatrix == "uses" and options.imatrix is None:
        notes.append(_without_imatrix(options.mix))
    if options.adapter is not None:
        notes.append(f"the adapter {options.adapter.name} is merged")
    if len(files) > 1:
        notes.append("llmedge itself runs whole files only; parts are for other programs")
    n_ctx = model.metadata.get(f"{model.architecture.name}.context_length")
    longest = model.config.get("max_position_embeddings")
    if isinstance(n_ctx, int) and isinstance(longest, int) and n_ctx < longest:
        notes.append(
            f"the context is {n_ctx} tokens instead of {longest}: beyond it llama.cpp would not "
            "compute what the original does (a sliding window, most often)"
        )
    if model.config.rope.kind == "yarn" and model.config.rope.values.get("truncate") is False:
        notes.append(
            "llama.cpp rounds the bounds of yarn's scaling, which the original does not: at 600 "
            "tokens of random weights a KL divergence of 0.0023, 96.5 % of predictions equal"
        )
    if model.ignored:
        notes.append(f"{len(model.ignored)} tensors are left out, such as {model.ignored[0]}")
    return tuple(notes)
