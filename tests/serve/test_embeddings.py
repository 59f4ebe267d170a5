"""Embeddings, reranking and adapters over real engines: real HTTP, real clients."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch

from llmedge.core.errors import IntegrityError
from llmedge.core.settings import load_settings
from llmedge.engine.engine import Engine
from llmedge.gguf.writer import encode_metadata
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.lora import LoraOptions
from llmedge.serve.server import ServeOptions, background_server, open_engine
from tests.convert.parity import N_VOCAB, Case, convert, make_checkpoint
from tests.gguf_files import write_tiny_lora
from tests.serve.endpoint import Client

BERT = Case("bert", "bert", "BertModel", {"num_key_value_heads": None})
RERANKER = Case(
    "reranker",
    "xlm-roberta",
    "XLMRobertaForSequenceClassification",
    {"num_key_value_heads": None, "pad_token_id": 0, "num_labels": 1, "type_vocab_size": 1},
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"▁w{number}" for number in range(N_VOCAB - len(SPECIAL))]
# Hand-made, so that tokens are known: w0 is token 5. Kinds: control 3, normal 1.
VOCABULARY = encode_metadata(
    {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": SPECIAL + WORDS,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * len(WORDS),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
    }
)
CLS, SEP = 2, 3
CHAT = [{"role": "user", "content": "hi"}]


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def ids(*numbers: int) -> list[int]:
    return [len(SPECIAL) + number for number in numbers]


@contextmanager
def serving(path: Path, home: Path, **options: Any) -> Iterator[tuple[str, Engine]]:
    chosen = ServeOptions(
        port=0, context=ContextOptions(n_ctx=4096, n_seq_max=4, n_threads=1), **options
    )
    engine = open_engine(path, chosen, load_settings({"LLMEDGE_HOME": str(home)}))
    try:
        with background_server(engine, chosen) as url:
            yield url, engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def bert(home: Path) -> Iterator[tuple[str, Any]]:
    folder = home / "bert"
    model = make_checkpoint(BERT, folder)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": at} for kind, at in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    path = convert(folder, home / "bert.gguf", vocabulary=VOCABULARY)
    with serving(path, home) as (url, _):
        yield url, model


@pytest.fixture(scope="module")
def reranker(home: Path) -> Iterator[tuple[str, Any]]:
    model = make_checkpoint(RERANKER, home / "reranker")
    path = convert(home / "reranker", home / "reranker.gguf", vocabulary=VOCABULARY)
    with serving(path, home) as (url, _):
        yield url, model


@pytest.fixture
def sdk(bert: tuple[str, Any]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{bert[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


def original_mean(model: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([tokens])).last_hidden_state[0].mean(0).numpy()


def test_vectors_are_those_of_transformers_and_of_length_1(
    sdk: openai.OpenAI, bert: tuple[str, Any]
):
    numbers = [(1, 2, 3), (7,), tuple(range(100)), (4, 4, 4)] * 3
    texts = [words(*some) for some in numbers]
    answer = sdk.embeddings.create(model="bert", input=texts, encoding_format="float")
    assert [item.index for item in answer.data] == list(range(len(texts)))
    for some, item in zip(numbers, answer.data, strict=True):
        expected = original_mean(bert[1], [CLS, *ids(*some), SEP])
        assert math.hypot(*item.embedding) == pytest.approx(1)
        assert np.allclose(item.embedding, expected / np.linalg.norm(expected), atol=1e-3)
    assert answer.usage.prompt_tokens == sum(len(some) + 2 for some in numbers)
    tokens = [CLS, *ids(1, 2, 3), SEP]
    (again,) = sdk.embeddings.create(model="bert", input=tokens).data  # by base64
    assert np.allclose(again.embedding, answer.data[0].embedding, atol=1e-3)


def test_a_shorter_vector_is_of_length_1_too_and_ollama_gets_the_same(
    sdk: openai.OpenAI, bert: tuple[str, Any]
):
    (short,) = sdk.embeddings.create(model="bert", input="w1 w2", dimensions=16).data
    (whole,) = sdk.embeddings.create(model="bert", input="w1 w2").data
    cut = np.array(whole.embedding[:16])
    assert np.allclose(short.embedding, cut / np.linalg.norm(cut), atol=1e-3)
    _, theirs = Client(bert[0]).post("/api/embed", {"model": "bert", "input": ["w1 w2", "w3"]})
    assert len(theirs["embeddings"]) == 2
    assert np.allclose(theirs["embeddings"][0], whole.embedding, atol=1e-3)


@pytest.mark.parametrize(
    ("ask", "code", "words_"),
    [
        (
            lambda sdk: sdk.embeddings.create(model="bert", input=["w1", "w1 " * 300]),
            "context_length_exceeded",
            "text 1 has 302 tokens, the context holds 256",
        ),
        (
            lambda sdk: sdk.embeddings.create(model="bert", input="w1", dimensions=65),
            None,
            "from 1 to 64",
        ),
        (
            lambda sdk: sdk.chat.completions.create(model="bert", messages=CHAT),
            "unsupported",
            "makes embeddings",
        ),
        (lambda sdk: sdk.completions.create(model="bert", prompt="w1"), "unsupported", "text"),
    ],
)
def test_what_an_embedding_model_cannot_do_is_a_400_that_says_so(
    sdk: openai.OpenAI, ask: Callable[[openai.OpenAI], object], code: str | None, words_: str
):
    with pytest.raises(openai.BadRequestError, match=words_) as caught:
        ask(sdk)
    assert caught.value.code == code


def test_documents_are_scored_as_transformers_scores_them(reranker: tuple[str, Any]):
    url, model = reranker
    documents = [(5, 6), (1, 2, 3, 4), tuple(range(60))]
    body = {"query": words(1, 2), "documents": [words(*some) for some in documents]}
    status, answer = Client(url).post("/v1/rerank", body)
    assert status == 200, answer
    found = {item["index"]: item["relevance_score"] for item in answer["results"]}
    for index, some in enumerate(documents):
        pair = torch.tensor([[CLS, *ids(1, 2), SEP, *ids(*some), SEP]])
        with torch.no_grad():
            assert found[index] == pytest.approx(float(model(pair).logits[0, 0]), abs=1e-3)
    assert [item["relevance_score"] for item in answer["results"]] == sorted(
        found.values(), reverse=True
    )
    for path, wrong in (
        ("/v1/embeddings", {"input": "w1"}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/v1/rerank", {"query": "w1", "documents": ["w1 " * 400]}),
    ):
        assert Client(url).post(path, wrong)[0] == 400


def test_a_client_that_leaves_does_not_keep_the_engine(home: Path, bert: tuple[str, Any]):
    del bert
    with serving(home / "bert.gguf", home) as (_, engine):

        async def leave() -> int:
            long = asyncio.create_task(engine.embed([words(*range(200))] * 2000))
            await asyncio.sleep(0.2)
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)
            await asyncio.wait_for(engine.embed(["w1"]), 10)
            return (await engine.stats()).n_steps

        assert asyncio.run(leave()) < 1500


def test_adapters_are_chosen_by_each_request(tiny_model: Path, tmp_path: Path, home: Path):
    loras = (
        LoraOptions(write_tiny_lora(tmp_path / "one.gguf", 1), 0.0),
        LoraOptions(write_tiny_lora(tmp_path / "two.gguf", 2), 0.0),
    )
    with serving(tiny_model, home, loras=loras) as (url, _):
        client = Client(url)
        assert client.get("/lora-adapters") == (
            200,
            [
                {"id": 0, "name": "one", "path": "one", "scale": 0.0},
                {"id": 1, "name": "two", "path": "two", "scale": 0.0},
            ],
        )

        def ask(**lora: object) -> tuple[int, object]:
            body = {"messages": CHAT, "temperature": 0, "max_tokens": 12, **lora}
            status, answer = client.post("/v1/chat/completions", body)
            return status, answer["choices"][0]["message"]["content"] if status == 200 else answer

        plain, first, second = ask(), *(ask(lora=[{"id": n, "scale": 1.0}]) for n in (0, 1))
        assert len({plain, first, second}) == 3
        assert ask(lora=[{"name": "two"}]) == second
        assert ask(lora=[]) == ask(lora=[{"id": 0, "scale": 0}]) == plain
        for wrong in ([{"id": 2}], [{"id": -1}], [{"name": "three"}], [{}], [{"id": 0}] * 2):
            status, answer = ask(lora=wrong)
            assert status == 400, answer
        text = {"prompt": "x", "max_tokens": 4, "temperature": 0}
        assert client.post("/v1/completions", {**text, "lora": [{"id": 1}]})[0] == 200
        assert client.post("/v1/completions", {**text, "lora": [{"id": 7}]})[0] == 400
        status, answer = client.post("/v1/embeddings", {"input": "x"})
        assert (status, "not trained to embed" in answer["error"]["message"]) == (400, True)


def test_an_adapter_of_another_model_ends_the_start(tiny_model: Path, tmp_path: Path, home: Path):
    path = write_tiny_lora(tmp_path / "gemma.gguf", 1, architecture="gemma3")
    foreign = pytest.raises(IntegrityError, match="is an adapter for gemma3")
    with foreign, serving(tiny_model, home, loras=(LoraOptions(path),)):
        pass
