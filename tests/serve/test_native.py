"""llama-server's own routes, embeddings and rerank over a fake engine: real HTTP."""

import base64
import math
import struct

import pytest

from llmedge.engine.engine import Embedding, EngineStats
from llmedge.serve.native import routes
from tests.serve.dialects import MODEL, FakeResponder, serving

EMBED = "/v1/embeddings"
DOCUMENTS = ["a cat", "the black dog barks", "a dog"]


def test_text_becomes_tokens_and_text_again(client):
    assert client.post("/tokenize", {"content": "Hi"}) == (200, {"tokens": [72, 105]})
    _, special = client.post("/tokenize", {"content": "<", "add_special": True})
    assert special == {"tokens": [1, 60]}
    _, plain = client.post("/tokenize", {"content": "<", "parse_special": False})
    assert plain == {"tokens": [63]}
    assert client.post("/detokenize", {"tokens": [72, 105]}) == (200, {"content": "Hi"})


def test_pieces_that_are_no_characters_are_bytes(client):
    _, body = client.post("/tokenize", {"content": "aá", "with_pieces": True})
    assert body["tokens"] == [
        {"id": 97, "piece": "a"},
        {"id": 0xC3, "piece": [0xC3]},
        {"id": 0xA1, "piece": [0xA1]},
    ]


def test_a_template_is_applied(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "reasoning_content": "hmm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    body = {"messages": messages, "tools": [tool]}
    status, answer = client.post("/apply-template", body)
    assert status == 200
    assert answer["prompt"].endswith("assistant: hmm\ntool: x\nuser: Hi\n")
    assert '"name": "f"' in answer["prompt"]


def test_the_servers_facts_hold_no_path(client):
    status, body = client.get("/props")
    assert status == 200
    assert (body["model_alias"], body["total_slots"]) == (MODEL, 1)
    assert body["default_generation_settings"]["n_ctx"] == 4096
    assert client.get("/props?model=other")[0] == 404


@pytest.mark.parametrize("path", [EMBED, "/embeddings"])
@pytest.mark.parametrize(
    ("given", "n_vectors", "n_tokens"),
    [
        ("abc", 1, 3),
        (["abc", ""], 2, 3),
        ([97, 98], 1, 2),
        ([[97], [98, 99]], 2, 3),
        (["abc", [97]], 2, 4),
    ],
)
def test_texts_and_tokens_are_embedded(client, path, given, n_vectors: int, n_tokens: int):
    status, body = client.post(path, {"input": given, "model": MODEL})
    assert status == 200
    assert (body["object"], body["model"]) == ("list", MODEL)
    assert body["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    assert [item["index"] for item in body["data"]] == list(range(n_vectors))
    for item in body["data"]:
        assert math.hypot(*item["embedding"]) == pytest.approx(1)


def test_an_embedding_is_cut_before_it_is_normalised(client):
    _, body = client.post(EMBED, {"input": "abc", "dimensions": 2})
    assert body["data"][0]["embedding"] == [0.6, 0.8]


def test_base64_holds_the_same_numbers(client):
    _, plain = client.post(EMBED, {"input": "abc"})
    _, packed = client.post(EMBED, {"input": "abc", "encoding_format": "base64"})
    data = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack("<4f", data) == pytest.approx(plain["data"][0]["embedding"])


def test_a_model_that_was_not_trained_to_embed_or_to_rank_does_not():
    responder = FakeResponder(can_embed=False, can_rerank=False)
    with serving(routes(responder)) as client:
        status, body = client.post(EMBED, {"input": "abc"})
        assert (status, body["error"]["code"]) == (400, "unsupported")
        status, body = client.post("/rerank", {"query": "x", "documents": ["y"]})
        assert (status, body["error"]["code"]) == (400, "unsupported")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_vector_that_is_not_of_numbers_is_an_error(value: float):
    responder = FakeResponder()

    async def embed(texts: object) -> list[Embedding]:
        return [Embedding([value] * 4, 1)]

    responder.engine.embed = embed
    with serving(routes(responder)) as client:
        assert client.post(EMBED, {"input": "abc"})[0] == 503


@pytest.mark.parametrize(
    "path", ["/v1/rerank", "/v1/reranking", "/v2/rerank", "/rerank", "/reranking"]
)
def test_documents_are_ranked_best_first(client, path: str):
    body = {"query": "the dog barks", "documents": DOCUMENTS, "model": MODEL}
    status, answer = client.post(path, body)
    assert status == 200
    assert [(r["index"], r["relevance_score"]) for r in answer["results"]] == [
        (1, 3.0),
        (2, 1.0),
        (0, 0.0),
    ]
    n_tokens = sum(map(len, DOCUMENTS))
    assert answer["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}


def test_documents_are_returned_where_they_are_wanted(client):
    documents = [{"text": text} for text in DOCUMENTS]
    body = {"query": "dog", "documents": documents, "top_n": 2, "return_documents": True}
    _, answer = client.post("/rerank", body)
    assert [r["document"]["text"] for r in answer["results"]] == [DOCUMENTS[1], DOCUMENTS[2]]


def test_texts_in_place_of_documents_are_answered_with_a_plain_list(client):
    body = {"query": "dog barks", "texts": DOCUMENTS, "return_text": True, "top_n": 1}
    assert client.post("/rerank", body) == (
        200,
        [{"index": 1, "score": 2.0, "text": DOCUMENTS[1]}],
    )


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 1}, "content"),
        ("/detokenize", {"tokens": [256]}, "token 256"),
        ("/detokenize", {"tokens": [-1]}, "token -1"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/apply-template", {"messages": []}, "0 items"),
        ("/apply-template", {"messages": [{"content": "x"}]}, "role"),
        (
            "/apply-template",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "image_url",
        ),
        (
            "/apply-template",
            {"messages": [{"role": "user"}], "add_generation_prompt": False},
            "add_generation_prompt",
        ),
        ("/apply-template", {"messages": [{"role": "user"}], "tools": [{}]}, "tools[0]"),
        (EMBED, {"input": []}, "0 items"),
        (EMBED, {"input": [[]]}, "empty list"),
        (EMBED, {"input": [1, "a"]}, "mixes"),
        (EMBED, {"input": [300]}, "token 300"),
        (EMBED, {"input": {"a": 1}}, "input"),
        (EMBED, {"input": "x", "dimensions": 0}, "dimensions"),
        (EMBED, {"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ("/rerank", {"query": "x"}, "documents"),
        ("/rerank", {"query": "x", "documents": []}, "0 items"),
        ("/rerank", {"query": "x", "documents": [1, 2]}, "documents"),
        ("/rerank", {"query": "x", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_why(client, path: str, body: object, word: str):
    status, answer = client.post(path, body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert word in answer["error"]["message"]


def test_openais_client_understands_an_embedding(client):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="x") as sdk:
        answer = sdk.embeddings.create(model=MODEL, input=["abc", "d"], dimensions=2)
    assert answer.data[1].embedding == pytest.approx([0.6, 0.8])


def test_slots_say_whether_they_work_and_nothing_of_what_they_do(client, monkeypatch):
    async def stats() -> EngineStats:
        return EngineStats(n_running=1)

    monkeypatch.setattr(client.responder.engine, "stats", stats)
    assert client.get("/slots") == (
        200,
        [{"id": 0, "n_ctx": 4096, "is_processing": True}],
    )


def test_the_defaults_of_sampling_are_told_under_llama_servers_names(client):
    _, body = client.get("/props")
    params = body["default_generation_settings"]["params"]
    assert (params["temperature"], params["repeat_last_n"]) == (0.8, 64)
    assert params["seed"] == 0xFFFFFFFF
