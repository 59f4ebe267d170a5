from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from llmedge.core.errors import ContextLengthError, UnsupportedError, UsageError
from llmedge.engine.core import open_core
from llmedge.engine.embedding_core import EmbeddingCore
from llmedge.engine.generation import Generation, TextPrompt
from llmedge.engine.messages import Answer, Embed, Embeddings, Load, Paper, Rerank, Submit
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.embedding import Embedder
from llmedge.runtime.model import Model, ModelOptions
from tests.gguf_files import write_tiny_model

TEXTS = ["a", "hello world", "नमस्ते", "b" * 400, "c" * 400]


def load(path: Path, pooling: str | None = None) -> Load:
    context = ContextOptions(n_ctx=4096, n_batch=64, n_threads=1, pooling=pooling)
    return Load(bytes(path), "tiny", ModelOptions(), context, SchedulerOptions(n_slots=2))


@pytest.fixture(scope="module")
def embedding_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embedding") / "tiny.gguf"
    return write_tiny_model(path, change=lambda writer: writer.add_pooling_type(_LAST))


_LAST = gguf.PoolingType.LAST


@pytest.fixture
def core(embedding_model: Path) -> Iterator[EmbeddingCore]:
    with open_core(load(embedding_model), lambda _: True) as core:
        assert isinstance(core, EmbeddingCore)
        yield core


def run(core: EmbeddingCore, *papers: Paper) -> dict[int, Answer]:
    answers: dict[int, Answer] = {}
    for paper in papers:
        if (answer := core.prepare(paper)()) is not None:
            answers[paper.id] = answer
    while not core.is_idle:
        answers.update(core.step())
    return answers


def test_what_it_can_do_is_told(core: EmbeddingCore):
    info = core.info
    assert (info.can_generate, info.can_embed, info.can_rerank) == (False, True, False)
    assert (info.n_ctx, info.n_embd, info.n_slots) == (512, 256, 2)


def test_fewer_slots_make_smaller_batches_and_are_told(core: EmbeddingCore):
    assert core.stats.n_slots == 2
    core.limit(1, forgets=True)
    assert core.stats.n_slots == 1
    answers = run(core, Embed(1, ["a", "b", "c"]))
    assert isinstance(answers[1], Embeddings)
    assert core.stats.n_steps == 3
    core.limit(9, forgets=False)
    run(core, Embed(2, ["a", "b", "c"]))
    assert (core.stats.n_slots, core.stats.n_steps) == (2, 4)


def test_requests_beside_each_other_get_the_vectors_that_each_gets_alone(
    core: EmbeddingCore, embedding_model: Path
):
    asked = [Embed(1, list(TEXTS)), Embed(2, [[70, 71, 72]]), Embed(3, []), Embed(4, ["hello"])]
    answers = run(core, *asked)
    assert set(answers) == {1, 2, 3, 4}
    assert answers[3] == Embeddings([])
    with Model.load(embedding_model) as model:
        embedder = Embedder(model)
        texts = [model.vocab.tokenize(text, add_special=True) for text in TEXTS]
        found = answers[1]
        assert isinstance(found, Embeddings)
        for tokens, vector in zip(texts, found.value, strict=True):
            assert vector.n_tokens == len(tokens)
            (expected,) = embedder.embed([tokens])
            # The kv cache is of 16 bits, and its cells lie elsewhere.
            assert np.allclose(vector.values, expected, atol=2e-2)
        embedder.close()
    assert core.stats.n_running == 0
    assert core.stats.n_prompt_tokens == sum(map(len, texts)) + 3 + 6


def test_a_long_list_stops_nobody(core: EmbeddingCore):
    core.prepare(Embed(1, ["x" * 400] * 20))()
    core.step()
    core.prepare(Embed(2, ["short"]))()
    answered: list[int] = []
    for _ in range(3):
        answered += [id_ for id_, _ in core.step()]
    assert answered == [2]
    assert core.stats.n_running == 1


def test_who_leaves_is_not_computed_for(core: EmbeddingCore):
    core.prepare(Embed(1, ["x" * 400] * 20))()
    core.step()
    core.abort(1)
    assert core.step() == []  # nobody else is in this batch
    core.cancel(1)
    core.cancel(1)
    assert core.is_idle
    assert set(run(core, Embed(2, ["y"]))) == {2}


def test_what_is_not_asked_of_such_a_model_is_refused(core: EmbeddingCore):
    for paper in (Submit(1, Generation(TextPrompt("x"))), Rerank(1, "x", ["y"])):
        with pytest.raises(UnsupportedError, match="makes embeddings"):
            core.prepare(paper)
    with pytest.raises(ContextLengthError, match="text 0 has 601 tokens, the context holds 512"):
        core.prepare(Embed(1, ["x" * 600]))
    with pytest.raises(UsageError):
        core.prepare(Embed(1, [[]]))


def test_a_model_that_does_not_say_how_it_pools_does_as_it_is_told(
    tiny_model: Path, tmp_path: Path, embedding_model: Path
):
    def see_all(writer: gguf.GGUFWriter) -> None:
        writer.add_causal_attention(False)

    silent = write_tiny_model(tmp_path / "silent.gguf", change=see_all)
    with pytest.raises(UnsupportedError, match="does not say how it pools"):
        open_core(load(silent), lambda _: True)
    with open_core(load(tiny_model, "last"), lambda _: True) as core:
        assert isinstance(core, EmbeddingCore)
        told = run(core, Embed(1, ["hello"]))[1]
    with open_core(load(embedding_model), lambda _: True) as core:
        assert isinstance(core, EmbeddingCore)
        trained = run(core, Embed(1, ["hello"]))[1]
    assert told == trained


def test_a_classifier_of_many_classes_gives_no_score(tmp_path: Path):
    def classify(writer: gguf.GGUFWriter) -> None:
        writer.add_pooling_type(gguf.PoolingType.RANK)
        writer.add_classifier_output_labels(["good", "bad", "ugly"])

    path = write_tiny_model(tmp_path / "classes.gguf", change=classify)
    with pytest.raises(UnsupportedError, match="3 classes"):
        open_core(load(path), lambda _: True)
