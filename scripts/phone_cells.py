"""Measured cells of phones as work for the speed model: what of a model's file is of which type.

The cells know only the sum of llama.cpp's weight buffers. Its parts follow from how the mixes are
made: the output matrix is Q6_K (Q8_0 in a file of Q8_0, and where rows fit no blocks of 256), kept
twice where it is the embedding too; the rest is of the mix's own type. What a mix lifts to a better
type is part of that type's fitted rate.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from llmedge.device.speed import Work
from llmedge.gguf.quant_types import BY_NAME

DATA = Path(__file__).resolve().parent / "data"
CELLS = DATA / "phone_cells.csv"
CALIBRATION = ("qwen2.5-1.5b", "q4_0")
_MIB = 1 << 20
_KV_SEEN = 256  # positions that llama.cpp reads of a short sequence

# Layers, and how many of them are recurrent. General knowledge of these models: not read from their
# config.json, and in no file of data/.
_LAYERS = {
    "deepseek-r1-distill-qwen-1.5b": (28, 0),
    "qwen2.5-1.5b": (28, 0),
    "qwen3-1.7b": (28, 0),
    "smollm2-1.7b": (24, 0),
    "phi-3.5-mini": (32, 0),
    "phi-4-mini": (32, 0),
    "gemma-3-1b": (26, 0),
    "gemma-4-e2b": (35, 0),
    "lfm2.5-1.2b-instruct": (16, 10),
    "qwen3.5-0.8b": (24, 18),
    "qwen3.5-2b": (24, 18),
}
# Not in model_shapes.csv: general knowledge, too. Its embeddings per layer are only looked up.
_GEMMA4_E2B = {"n_vocab": "262144", "n_embd": "1536", "tied_embeddings": "yes", "n_params": "5.1e9"}
_LOOKED_UP = {"gemma-4-e2b": 262144 * 256 * 35}
_UNUSUAL_LAYERS = 28  # of a model that is not in the table


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    Attributes:
        device: The phone.
        model: The model.
        quant: The mix in lower case.
        work: What it asks.
        tg_per_s: Tokens generated a second.
        pp_per_s: Tokens of a prompt a second.
        n_params: The model's weights, where its shape is known.
    """

    device: str
    model: str
    quant: str
    work: Work
    tg_per_s: float
    pp_per_s: float
    n_params: float | None

    @property
    def is_calibration(self) -> bool:
        """Whether this is the one cell that may be known of a device."""
        return (self.model, self.quant) == CALIBRATION

    @property
    def is_dense_q4_q8(self) -> bool:
        """Whether all layers are plain attention and the types have 4 bits or more."""
        is_plain = self.work.n_recurrent == 0 and self.model not in _LOOKED_UP
        return is_plain and self.quant[0] == "q" and self.quant[1] in "4568"


def read_cells(path: Path) -> list[Cell]:
    """Read the cells of processors, those of IQ1 left out."""
    shapes = _shapes()
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Cell(
                row["device"],
                row["model"],
                row["quant"].lower(),
                _work(row, shapes.get(row["model"])),
                float(row["tg_tps"]),
                float(row["pp_tps"]),
                float(shapes[row["model"]]["n_params"]) if row["model"] in shapes else None,
            )
            for row in csv.DictReader(file)
            if row["backend_req"] == "cpu"
            and row["backend_eff"] == "cpu"
            and not row["quant"].lower().startswith("iq1")
        ]


def _shapes() -> dict[str, dict[str, str]]:
    with (DATA / "model_shapes.csv").open(encoding="utf-8", newline="") as file:
        shapes = {row["model"]: row for row in csv.DictReader(file)}
    return shapes | {"gemma-4-e2b": _GEMMA4_E2B}


def _own_type(mix: str) -> str:
    name = mix.upper()
    for known in (name, name.rpartition("_")[0]):
        if known in BY_NAME:
            return known
    raise SystemExit(f"unknown mix {mix!r}; known types: {', '.join(sorted(BY_NAME))}")


def _work(row: dict[str, str], shape: dict[str, str] | None) -> Work:
    kind = _own_type(row["quant"])
    weights = float(row["weights_mib"]) * _MIB
    n_layers, n_recurrent = _LAYERS.get(row["model"], (_UNUSUAL_LAYERS, 0))
    kv = float(row["kv_mib"]) * _MIB * _KV_SEEN / float(row["n_ctx"])
    if shape is None:
        streamed = {kind: weights}
        return Work(streamed, {kind: _weights(kind, weights)}, kv, n_layers, n_recurrent)
    n_embd = int(shape["n_embd"])
    n_head = int(shape["n_vocab"]) * n_embd
    head = "Q8_0" if kind == "Q8_0" or n_embd % BY_NAME["Q6_K"].block_weights else "Q6_K"
    is_tied = shape["tied_embeddings"] == "yes"
    body = weights - _bytes(head, n_head) - _bytes(head if is_tied else kind, n_head)
    body -= _bytes(kind, _LOOKED_UP.get(row["model"], 0))
    streamed = {kind: body}
    streamed[head] = streamed.get(head, 0) + _bytes(head, n_head)
    return Work(streamed, {kind: _weights(kind, body)}, kv, n_layers, n_recurrent)


def _bytes(kind: str, n_weights: float) -> float:
    return n_weights * BY_NAME[kind].bits_per_weight / 8


def _weights(kind: str, n_bytes: float) -> float:
    return n_bytes * 8 / BY_NAME[kind].bits_per_weight
