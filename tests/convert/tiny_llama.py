"""Small whole checkpoints, tokenizer included, as a user's folder has them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from llmedge.measure.sentences import read_sentences
from tests.convert.parity import Case, make_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL = ("<unk>", "<s>", "</s>")


@functools.cache
def byte_level_tokenizer(n_vocab: int = 320) -> Tokenizer:
    """Train a GPT-2 style tokenizer on the spot."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence.text for sentence in read_sentences(["en"])], trainer)
    return tokenizer


def make_llama(folder: Path, **settings: Any) -> Any:
    """Save a tiny Llama with its tokenizer, and return the model."""
    model = make_checkpoint(Case("llama", "llama", "LlamaForCausalLM", settings), folder)
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    return model
