"""Tiny random checkpoints of real classes, and how far llama.cpp is from the original.

What is compared are logits, or the embeddings of encoders, or the scores of rerankers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from llmedge.convert.config import read_config
from llmedge.convert.embedding import add_pooling
from llmedge.convert.model import dominant_type, plan_model
from llmedge.convert.output import choose_types, output_files
from llmedge.convert.registry import find_architecture
from llmedge.convert.stream import StreamOptions, write_tensors
from llmedge.core.progress import SilentProgress
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.writer import encode_metadata
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.library import library
from llmedge.runtime.model import Model
from llmedge.store.checkpoint import FolderCheckpoint
from llmedge.store.resumable import ResumableFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from llmedge.convert.adapter import Adapter
    from llmedge.gguf.imatrix_file import Imatrix
    from llmedge.gguf.writer import Metadata

Tensors: TypeAlias = "dict[str, torch.Tensor]"
N_VOCAB, N_TOKENS = 320, 24
LONG = 400
N_CTX, N_UBATCH = 256, 64
SMALL = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NO_VOCABULARY = encode_metadata({"tokenizer.ggml.model": "no_vocab"})


@dataclass(frozen=True)
class Case:
    """A checkpoint to convert.

    Attributes:
        name: Of the case.
        model_type: As `AutoConfig` knows it.
        class_name: The class that makes and saves the checkpoint.
        settings: Beyond `SMALL`, or beyond nothing when they have a `text_config`, which is then
            beyond `SMALL`; `None` takes one of `SMALL` away.
        tolerance: Largest relative error of the logits.
        written: What `config.json` says otherwise than transformers writes it today: older
            spellings; `None` takes a value away, so that the class's default counts.
        is_original: Whether tensors are saved as the Hub's checkpoints have them, and not as
            transformers holds them in memory.
        layout: What else is done to the tensors before they are saved.
        renamed: Parts of tensor names → what they are in checkpoints that are older still.
        n_tokens: How many the two are compared on: `LONG` for what only shows when windows have
            moved on, ropes turned often, and states forgotten.
        saved_as: The class that holds this one, where it cannot be made here: then `config.json`
            names it and has the settings as its `text_config`.
    """

    name: str
    model_type: str
    class_name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-5
    written: Mapping[str, Any] = field(default_factory=dict)
    is_original: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    layout: Callable[[Tensors], Tensors] = dict
    saved_as: str | None = None
    n_tokens: int = N_TOKENS

    @property
    def converted_class(self) -> str:
        """The class that the checkpoint names: another one where it stands in for it."""
        return self.saved_as or self.written.get("architectures", [self.class_name])[0]


@dataclass(frozen=True)
class GuardCase:
    """A checkpoint that a guard refuses.

    Attributes:
        field: The guard's.
        case: A checkpoint of ordinary shape but for that field.
        is_fatal: Whether llama.cpp ends the process that gives it such a model.
        is_foreign: Whether only the model's own code heeds the field, and transformers does not.
    """

    field: str
    case: Case
    is_fatal: bool = False
    is_foreign: bool = False


@dataclass(frozen=True)
class Difference:
    """How far llama.cpp is from the original: positions agreeing, mean KL, and the worst of the
    positions' cosines and of the relative errors.
    """

    argmax: float
    kl: float
    cosine: float
    relative: float

    def is_within(self, tolerance: float) -> bool:
        is_close = self.kl < 1e-5 and self.cosine > 0.99999 and self.relative < tolerance
        return self.argmax == 1 and is_close


def make_checkpoint(case: Case, folder: Path) -> Any:
    """Save a checkpoint whose every weight is random, and return the model."""
    text = case.settings.get("text_config")
    if text is None:
        settings = _small(case.settings)
    else:
        settings = {**case.settings, "text_config": _small(text)}
    torch.manual_seed(0)
    settings["attn_implementation"] = "eager"  # the others leave out caps
    config = transformers.AutoConfig.for_model(case.model_type, **settings)
    model = getattr(transformers, case.class_name)(config).eval().float()
    randomise(model)
    model.save_pretrained(folder, save_original_format=case.is_original)
    if case.written or case.saved_as:
        path = folder / "config.json"
        values = {**json.loads(path.read_text()), **case.written}
        values = {k: v for k, v in values.items() if v is not None}
        if case.saved_as:
            values = {"architectures": [case.saved_as], "text_config": values}
        path.write_text(json.dumps(values))
    path = folder / "model.safetensors"
    tensors = case.layout(load_file(path))
    save_file({_renamed(name, case.renamed): tensor for name, tensor in tensors.items()}, path)
    return model


def _small(settings: Mapping[str, Any]) -> dict[str, Any]:
    values = {**SMALL, **settings}
    return {k: v for k, v in values.items() if v is not None or k not in SMALL}


def randomise(model: Any) -> None:
    """Give everything that is saved, norms, biases and buffers too, values that matter."""
    generator = torch.Generator().manual_seed(1)
    saved = model.state_dict()
    buffers = [(name, each) for name, each in model.named_buffers() if name in saved]
    for name, parameter in (*model.named_parameters(), *buffers):
        if not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        is_vector = parameter.dim() < 2
        scale = 0.2 if is_vector else 1.2 / parameter.shape[-1] ** 0.5
        centre = 1.0 if is_vector and name.endswith((".weight", "layer_scalar")) else 0.0
        if name.endswith("q_norm.weight"):
            centre = 0.3  # else attention is so sharp that roundings grow from layer to layer
        with torch.no_grad():
            parameter.copy_(centre + scale * noise)


def _renamed(name: str, parts: Mapping[str, str]) -> str:
    for part, other in parts.items():
        name = name.replace(part, other)
    return name


def tokens(n_tokens: int = N_TOKENS) -> list[int]:
    return [int(token) for token in np.random.default_rng(5).integers(3, N_VOCAB, n_tokens)]


def compute_like_ggml(model: Any) -> None:
    """Give the original the two roundings of ggml's that would hide mistakes in small models.

    ggml looks GELU up in a table of half floats, and takes Gemma 3n's standard deviation over
    `n - 1`, which is a 30,000th apart at the width of a real model.
    """
    for module in model.modules():
        if type(module).__name__ in ("GELUTanh", "NewGELUActivation", "FastGELUActivation"):
            module.forward = table_gelu
        if hasattr(module, "_gaussian_topk"):
            module._gaussian_topk = sample_topk


def table_gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU by ggml's table (ggml-cpu/vec.h, `ggml_vec_gelu_f32`)."""
    looked_up = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
    return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, looked_up))


def sample_topk(x: torch.Tensor) -> torch.Tensor:
    """Gemma 3n's largest twentieth, as llama.cpp's `gaussian_topk` finds it."""
    cutoff = x.mean(-1, keepdim=True) + 1.6448533535003662 * x.std(-1, keepdim=True)
    return torch.relu(x - cutoff)


def original_outputs(
    model: Any, n_tokens: int = N_TOKENS, *, is_encoder: bool = False
) -> NDArray[np.float32]:
    """Return the original's `(n_tokens, n_vocab)` logits or `(n_tokens, n_embd)` embeddings.

    Of a reranker it is one row of scores.
    """
    compute_like_ggml(model)
    ids = torch.tensor([tokens(n_tokens)])
    with torch.no_grad():
        if hasattr(model, "classifier"):
            return model(ids).logits.float().numpy()
        if is_encoder:
            return model.base_model(ids).last_hidden_state[0].float().numpy()
        return model(ids, use_cache=False).logits[0].float().numpy()


def convert(
    folder: Path,
    path: Path,
    *,
    mix: str = "F32",
    imatrix: Imatrix | None = None,
    adapter: Adapter | None = None,
    guarded: bool = True,
    vocabulary: Metadata = NO_VOCABULARY,
) -> Path:
    """Convert without the checkpoint's vocabulary."""
    with FolderCheckpoint(folder) as source, ResumableFile(path, "") as file:
        model = plan_model(source, read_config(folder), adapter, guarded=guarded)
        model = add_pooling(model, folder)
        types = choose_types(
            find_mix(mix),
            model.rows,
            model.shape,
            source_type=dominant_type(source),
            has_imatrix=imatrix is not None,
        )
        general = {
            "general.architecture": model.architecture.name,
            "general.file_type": find_mix(mix).ftype,
        }
        metadata = encode_metadata({**general, **model.metadata}) + vocabulary
        (output,) = output_files(path, metadata, model.rows, types, imatrix)
        with SilentProgress().task("", total=1, unit="") as task:
            options = StreamOptions(2, 1 << 14)
            write_tensors(file, output.header, output.tensors, options, task)
        file.finish()
        file.publish()
    return path


def llama_cpp_outputs(
    path: Path, n_tokens: int = N_TOKENS, *, is_encoder: bool = False
) -> NDArray[np.float32]:
    """Return llama.cpp's logits, embeddings without pooling, or scores."""
    options = ContextOptions(
        n_ctx=max(N_CTX, n_tokens),
        n_batch=n_tokens,
        # encoders see all at once; others carry windows and states from piece to piece
        n_ubatch=n_tokens if is_encoder else N_UBATCH,
        type_k="f32",
        type_v="f32",
        flash_attention="off",
        n_threads=1,
    )
    with Model.load(path) as model, Context(model, options) as context, Batch(n_tokens) as batch:
        batch.fill(tokens(n_tokens), 0, n_logits=n_tokens)
        if not is_encoder:
            assert context.decode(batch) is DecodeResult.OK
            return context.logits().copy()
        lib = library()
        lib.llama_set_embeddings(context.pointer, True)
        assert context.decode(batch) is DecodeResult.OK
        if lib.llama_pooling_type(context.pointer) == lib.LLAMA_POOLING_TYPE_RANK:
            shape = (1, lib.llama_model_n_cls_out(model.pointer))
            scores = lib.llama_get_embeddings_seq(context.pointer, 0)
            return np.ctypeslib.as_array(scores, shape=shape).copy()
        shape = (n_tokens, lib.llama_model_n_embd(model.pointer))
        return np.ctypeslib.as_array(lib.llama_get_embeddings(context.pointer), shape=shape).copy()


def compare(original: NDArray[np.float32], ours: NDArray[np.float32]) -> Difference:
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (original, ours))
    norms = np.linalg.norm(original, axis=-1) * np.linalg.norm(ours, axis=-1)
    return Difference(
        argmax=float(np.mean(original.argmax(-1) == ours.argmax(-1))),
        kl=float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1))),
        cosine=float((np.sum(original * ours, axis=-1) / norms).min()),
        relative=float(np.abs(original - ours).max() / np.abs(original).max()),
    )


def difference(case: Case, folder: Path, *, guarded: bool = True) -> Difference:
    model = make_checkpoint(case, folder / "checkpoint")
    path = convert(folder / "checkpoint", folder / "model.gguf", guarded=guarded)
    is_encoder = find_architecture(read_config(folder / "checkpoint")).is_encoder
    return compare(
        original_outputs(model, case.n_tokens, is_encoder=is_encoder),
        llama_cpp_outputs(path, case.n_tokens, is_encoder=is_encoder),
    )


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
