from pathlib import Path

import gguf
import numpy as np
import pytest

from llmedge.core.errors import ContextLengthError, EngineError, UsageError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.embedding import Embedder, is_trained_to_embed
from llmedge.runtime.model import Model
from tests.gguf_files import write_tiny_model

TEXTS = ["a", "hello world", "नमस्ते", "one more text of some length", "b" * 20] * 3


@pytest.fixture(scope="module")
def tiny(tiny_model: Path):
    with Model.load(tiny_model) as model:
        yield model


def tokens_of(model: Model) -> list[list[int]]:
    return [model.vocab.tokenize(text, add_special=True) for text in TEXTS]


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_texts_together_have_the_vectors_that_each_has_alone(tiny: Model, pooling: str):
    together = Embedder(tiny, pooling, n_tokens=64, n_seqs=4)
    alone = Embedder(tiny, pooling, n_tokens=64, n_seqs=1)
    for vector, tokens in zip(together.embed(tokens_of(tiny)), tokens_of(tiny), strict=True):
        (expected,) = alone.embed([tokens])
        # The kv cache is of 16 bits, and its cells lie elsewhere.
        assert np.allclose(vector, expected, atol=1e-2)
        assert np.isfinite(vector).all()
    together.close()
    alone.close()


def test_each_pooling_takes_the_tokens_that_it_says(tiny: Model):
    (tokens,) = [tiny.vocab.tokenize("hello")]
    vectors = {}
    for pooling in ("mean", "last", "cls"):
        embedder = Embedder(tiny, pooling)
        vectors[pooling] = embedder.embed([tokens[:n] for n in range(1, len(tokens) + 1)])
        embedder.close()
    # A decoder's token does not see what follows it: the last tokens of all beginnings.
    assert np.allclose(np.mean(vectors["last"], axis=0), vectors["mean"][-1], atol=1e-4)
    assert np.allclose(vectors["cls"][-1], vectors["last"][0], atol=1e-4)


def test_a_model_that_was_not_trained_for_it_wants_a_choice(tiny: Model):
    assert not is_trained_to_embed(tiny)
    with pytest.raises(UsageError, match="not trained"):
        Embedder(tiny)
    with pytest.raises(UsageError, match="pooling"):
        Embedder(tiny, "median")


def test_a_model_that_was_trained_for_it_pools_as_it_was_trained(tmp_path: Path, tiny: Model):
    def pool_the_last(writer: gguf.GGUFWriter) -> None:
        writer.add_pooling_type(gguf.PoolingType.LAST)

    path = write_tiny_model(tmp_path / "embedding.gguf", change=pool_the_last)
    with Model.load(path) as model:
        assert is_trained_to_embed(model)
        by_itself, chosen = Embedder(model), Embedder(tiny, "last")
        tokens = tokens_of(tiny)[:2]
        for one, other in zip(by_itself.embed(tokens), chosen.embed(tokens), strict=True):
            assert np.allclose(one, other, atol=1e-4)
        chosen.close()


def test_texts_that_cannot_be_embedded_are_refused_before_any_is(tiny: Model):
    embedder = Embedder(tiny, "mean", n_tokens=16)
    for wrong, error in (([], UsageError), ([5] * 17, ContextLengthError)):
        with pytest.raises(error):
            embedder.embed([[5], wrong])
    assert len(embedder.embed([[5] * 16])) == 1
    assert embedder.embed([]) == []
    embedder.close()


def test_a_context_that_does_not_pool_has_no_embedding(tiny: Model):
    with Context(tiny, ContextOptions(n_ctx=64)) as context, Batch(8) as batch:
        batch.fill([5, 6], 0)
        context.decode(batch)
        with pytest.raises(EngineError):
            context.embedding(0)
