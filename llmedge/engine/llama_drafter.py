"""A draft model over llama.cpp: loaded beside the model that it guesses for, if they fit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmedge.core.closable import Closable
from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.engine.llama_backend import LlamaBackend
from llmedge.engine.model_drafter import ModelDrafter
from llmedge.runtime.context import Context
from llmedge.runtime.model import Model

if TYPE_CHECKING:
    from llmedge.engine.messages import Load

_N_REMEMBERED = 4  # ended sequences whose prompts are kept; their cells are those of the running


class LlamaDrafter(ModelDrafter, Closable):
    """Guesses with a model of llama.cpp; see `ModelDrafter`.

    Args:
        context: Closed by the drafter, with its model.
        n_max: Most tokens to guess at once.
    """

    def __init__(self, context: Context, n_max: int) -> None:
        self._context = context
        self._llama = LlamaBackend(context)
        super().__init__(self._llama, context.likeliest, n_max)

    @classmethod
    def open(cls, load: Load, target: Context) -> LlamaDrafter:
        """Load the draft model of an engine, with as much context as the target has.

        Raises:
            UnsupportedError: The models do not fit each other, or one cannot take tokens back.
            UsageError: No tokens are to be guessed.
            IntegrityError: The file is damaged.
            ResourceError: The memory is not there.
        """
        if load.n_draft < 1:
            raise UsageError(f"a draft model that guesses {load.n_draft} tokens", "use --draft 4")
        model = Model.load(Path(os.fsdecode(load.draft_path)), load.model)
        try:
            _require_fitting(model, target.model)
            n_seq_max = load.scheduler.n_slots + _N_REMEMBERED
            options = replace(
                load.context, n_ctx=target.n_ctx, n_seq_max=n_seq_max, n_outputs_max=n_seq_max
            )
            return cls(Context(model, options), load.n_draft)
        except BaseException:
            model.close()
            raise

    def close(self) -> None:
        """Free everything, the model too."""
        self._llama.close()
        self._context.model.close()


def _require_fitting(draft: Model, target: Model) -> None:
    """Make sure that one model's guesses mean the same to the other, and can be taken back.

    Raises:
        UnsupportedError: They do not, or cannot.
    """
    for model in (draft, target):
        if not (model.can_generate and model.can_rewind and model.window == 0):
            raise UnsupportedError(
                f"{model.path.name} cannot take guesses back: it has sliding windows or recurrent "
                "state, or generates no text",
                "leave out --draft-model",
            )
    difference = target.vocab.difference(draft.vocab)
    if difference is not None:
        raise UnsupportedError(
            f"{draft.path.name} has another vocabulary than {target.path.name}: {difference}",
            "take a draft model of the same family",
        )
