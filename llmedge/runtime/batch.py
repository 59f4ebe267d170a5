"""The tokens of one decode call, in memory that is allocated once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.runtime.handle import Handle
from llmedge.runtime.library import library

if TYPE_CHECKING:
    from collections.abc import Sequence


class Batch(Handle):
    """Up to `n_max` tokens with their positions, sequences and wish for logits.

    Args:
        n_max: Tokens it can hold.
    """

    def __init__(self, n_max: int) -> None:
        lib = library()
        super().__init__(lib.llama_batch_init(n_max, 0, 1), lib.llama_batch_free)
        self.n_max = n_max
        self.n_outputs = 0

    @property
    def n_tokens(self) -> int:
        """Tokens in it now."""
        return int(self.pointer.n_tokens)

    def clear(self) -> None:
        """Empty it."""
        self.pointer.n_tokens = 0
        self.n_outputs = 0

    def add(self, token: int, position: int, *, seq_id: int = 0, wants_logits: bool) -> int:
        """Append a token.

        Returns:
            Its index, as `Context.logits_at` and `SamplerChain.sample` take it.

        Raises:
            ValueError: The batch is full.
        """
        batch = self.pointer
        index = int(batch.n_tokens)
        if index >= self.n_max:
            raise ValueError(f"the batch holds {self.n_max} tokens")
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = seq_id
        batch.logits[index] = wants_logits
        batch.n_tokens = index + 1
        self.n_outputs += wants_logits
        return index

    def fill(
        self, tokens: Sequence[int], position: int, *, seq_id: int = 0, n_logits: int = 1
    ) -> None:
        """Replace the contents by consecutive tokens; the last `n_logits` of them want logits."""
        self.clear()
        first_output = len(tokens) - n_logits
        for offset, token in enumerate(tokens):
            self.add(token, position + offset, seq_id=seq_id, wants_logits=offset >= first_output)
