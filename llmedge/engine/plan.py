"""What one decode call is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.engine.backend import BatchItem

if TYPE_CHECKING:
    from llmedge.engine.sequence import Sequence


class Plan:
    """Tokens of several sequences for one decode call.

    Attributes:
        items: What the backend computes.
        sequences: Whose tokens these are, in the same order.
        n_streams: Tokens that continue running answers, guesses among them.
        n_prompt: Tokens of prompts.
    """

    __slots__ = ("items", "n_prompt", "n_streams", "sequences")

    def __init__(self) -> None:
        self.items: list[BatchItem] = []
        self.sequences: list[Sequence] = []
        self.n_streams = 0
        self.n_prompt = 0

    def add(self, sequence: Sequence, tokens: list[int], n_outputs: int) -> None:
        """Let a sequence compute these tokens, the last `n_outputs` of them with logits."""
        self.items.append(BatchItem(sequence.seq_id, tokens, sequence.n_computed, n_outputs))
        self.sequences.append(sequence)
