import json

import msgspec
import pytest

from llmedge.core.errors import EngineError
from llmedge.serve import exchange, handlers
from llmedge.serve.app import build_app
from llmedge.serve.guard import GuardOptions
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.openapi import describe
from llmedge.serve.operations import OPERATIONS, alternatives
from llmedge.serve.pool import pool_of
from llmedge.serve.requests import decode_request
from tests.fakes import FakeEngine
from tests.serve.endpoint import serving

ASKED = [
    (operation, path)
    for operation in OPERATIONS
    for path in operation.paths
    if operation.method != "head"
]
PARAMETERS = {"id": "fake:Q4_0", "digest": "sha256:0"}


@pytest.fixture(scope="module")
def client():
    with serving(FakeEngine()) as client:
        yield client


def references(value: object):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere():
    document = describe("fake:Q4_0")
    names = document["components"]["schemas"]
    found = list(references(document))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in names


def test_the_routes_and_the_description_are_the_same():
    meters = Meters()
    pool = pool_of(FakeEngine(), Limits(), Drain(), meters)
    app = build_app(pool, meters, GuardOptions(), fingerprint="x")
    routes = {
        (method, route.path.replace(":path}", "}"))
        for route in app.routes
        for method in route.methods
        # Starlette answers HEAD wherever it answers GET.
        if not (method == "HEAD" and "GET" in route.methods)
    }
    described = {
        (method.upper(), path)
        for path, item in describe("fake:Q4_0")["paths"].items()
        for method in item
    }
    assert described == routes


@pytest.mark.parametrize(
    ("operation", "path"), ASKED, ids=[f"{operation.method} {path}" for operation, path in ASKED]
)
def test_what_is_described_is_there(client, operation, path, monkeypatch):
    kinds = []

    def decode(body: bytes, kind: type):
        kinds.append(kind)
        return decode_request(body, kind)

    for module in (exchange, handlers):
        monkeypatch.setattr(module, "decode_request", decode)
    body = b"[]" if operation.method in ("post", "delete") else None
    url = path.format(**PARAMETERS)
    status, text, headers = client.request(operation.method.upper(), url, body)
    # A body that is wrong for every route leads to a refusal, and to nowhere else.
    assert status == (200 if operation.method == "get" else 400)
    answer = describe("fake:Q4_0")["paths"][path][operation.method]["responses"][str(status)]
    assert headers["content-type"].partition(";")[0] in answer["content"]
    assert kinds == ([] if operation.request is None else [operation.request])
    kind = operation.response if status == 200 else operation.error
    if kind is not str:
        msgspec.json.decode(text, type=kind)


def test_a_method_that_is_not_described_is_a_405(client):
    for path, described in describe("fake:Q4_0")["paths"].items():
        for method in {"get", "post", "put", "patch", "delete"} - described.keys():
            body = None if method == "get" else {}
            status, _, headers = client.request(method.upper(), path.format(**PARAMETERS), body)
            assert (method, path, status) == (method, path, 405)
            assert {name.lower() for name in headers["allow"].split(", ")} - {"head"} == set(
                described
            ) - {"head"}


STREAMED = [operation for operation in OPERATIONS if operation.events or operation.lines]


@pytest.mark.parametrize("operation", STREAMED, ids=lambda operation: operation.paths[0])
@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_consists_of_what_is_described(operation, breaks):
    engine = FakeEngine(error=EngineError("gone"), error_after=1) if breaks else FakeEngine()
    asked = {"messages": [{"role": "user", "content": "x"}], "input": "x", "prompt": "x"}
    name = next(name for name in asked if name in operation.request.__struct_fields__)
    with serving(engine) as client:
        body = {"model": "fake:Q4_0", name: asked[name], "max_tokens": 99, "stream": True}
        status, text, headers = client.request("POST", operation.paths[0], body)
    assert status == 200
    kind = headers["content-type"].partition(";")[0]
    content = describe("fake:Q4_0")["paths"][operation.paths[0]]["post"]["responses"]["200"][
        "content"
    ]
    assert "itemSchema" in content[kind]
    lines = text.splitlines()
    if operation.events:
        lines = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert ("[DONE]" in lines) == (operation.is_ended and not breaks)
    items = [line for line in lines if line != "[DONE]"]
    assert len(items) > 1
    kinds = alternatives(operation.events or operation.lines)
    for item in items:
        assert any(is_one(item, kind) for kind in kinds)


def is_one(text: str, kind: type) -> bool:
    try:
        msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        return False
    return True


def test_the_description_is_served(client):
    assert client.get("/openapi.json") == (200, json.loads(json.dumps(describe("fake:Q4_0"))))
