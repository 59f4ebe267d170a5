"""Tiny random checkpoints of real classes: how far is llama.cpp from the original?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from llmedge.convert.config import read_config
from llmedge.convert.model import dominant_type, plan_model
from llmedge.convert.output import choose_types, output_files
from llmedge.convert.stream import StreamOptions, write_tensors
from llmedge.core.progress import SilentProgress
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.writer import encode_metadata
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.model import Model
from llmedge.store.checkpoint import FolderCheckpoint
from llmedge.store.resumable import ResumableFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from llmedge.convert.adapter import Adapter
    from llmedge.gguf.imatrix_file import Imatrix

N_VOCAB, N_TOKENS = 320, 24
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
        settings: Beyond `SMALL`; `None` takes one of `SMALL` away.
        tolerance: Largest relative error of the logits.
    """

    name: str
    model_type: str
    class_name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-5


@dataclass(frozen=True)
class GuardCase:
    """A checkpoint that a guard refuses.

    Attributes:
        field: The guard's.
        case: A checkpoint of ordinary shape but for that field.
    """

    field: str
    case: Case


@dataclass(frozen=True)
class Difference:
    """How far llama.cpp is from the original: positions agreeing, mean KL, relative error."""

    argmax: float
    kl: float
    relative: float

    def is_within(self, tolerance: float) -> bool:
        return self.argmax == 1 and self.kl < 1e-5 and self.relative < tolerance


def make_checkpoint(case: Case, folder: Path) -> Any:
    """Save a checkpoint whose every weight is random, and return the model."""
    settings = {k: v for k, v in {**SMALL, **case.settings}.items() if v is not None}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.model_type, **settings)
    model = getattr(transformers, case.class_name)(config).eval().float()
    randomise(model)
    model.save_pretrained(folder)
    return model


def randomise(model: Any) -> None:
    """Give every parameter, norms and biases too, values that matter."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_vector = parameter.dim() < 2
        scale = 0.2 if is_vector else 1.2 / parameter.shape[-1] ** 0.5
        centre = 1.0 if is_vector and name.endswith("norm.weight") else 0.0
        with torch.no_grad():
            parameter.copy_(centre + scale * noise)


def tokens() -> list[int]:
    return [int(token) for token in np.random.default_rng(5).integers(3, N_VOCAB, N_TOKENS)]


def original_logits(model: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        return model(torch.tensor([tokens()]), use_cache=False).logits[0].float().numpy()


def convert(
    folder: Path,
    path: Path,
    *,
    mix: str = "F32",
    imatrix: Imatrix | None = None,
    adapter: Adapter | None = None,
    guarded: bool = True,
) -> Path:
    """Convert without a vocabulary."""
    with FolderCheckpoint(folder) as source, ResumableFile(path, "") as file:
        model = plan_model(source, read_config(folder), adapter, guarded=guarded)
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
        metadata = encode_metadata({**general, **model.metadata}) + NO_VOCABULARY
        (output,) = output_files(path, metadata, model.rows, types, imatrix)
        with SilentProgress().task("", total=1, unit="") as task:
            options = StreamOptions(2, 1 << 14)
            write_tensors(file, output.header, output.tensors, options, task)
        file.finish()
        file.publish()
    return path


def llama_cpp_logits(path: Path) -> NDArray[np.float32]:
    options = ContextOptions(
        n_ctx=256, n_batch=64, type_k="f32", type_v="f32", flash_attention="off", n_threads=1
    )
    with Model.load(path) as model, Context(model, options) as context, Batch(64) as batch:
        batch.fill(tokens(), 0, n_logits=N_TOKENS)
        assert context.decode(batch) is DecodeResult.OK
        return context.logits().copy()


def compare(original: NDArray[np.float32], ours: NDArray[np.float32]) -> Difference:
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (original, ours))
    return Difference(
        argmax=float(np.mean(original.argmax(-1) == ours.argmax(-1))),
        kl=float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1))),
        relative=float(np.abs(original - ours).max() / np.abs(original).max()),
    )


def difference(case: Case, folder: Path, *, guarded: bool = True) -> Difference:
    model = make_checkpoint(case, folder / "checkpoint")
    path = convert(folder / "checkpoint", folder / "model.gguf", guarded=guarded)
    return compare(original_logits(model), llama_cpp_logits(path))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
