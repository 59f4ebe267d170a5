import json

import pytest

from llmedge.serve.openapi import OPERATIONS, describe
from tests.fakes import FakeEngine
from tests.serve.endpoint import serving


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
    document = json.loads(json.dumps(describe()))
    names = document["components"]["schemas"]
    found = list(references(document))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in names


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_what_is_described_is_there(operation):
    with serving(FakeEngine()) as client:
        path = operation.path.replace("{id}", "fake:Q4_0")
        body = {} if operation.method == "post" else None
        status, _, headers = client.request(operation.method.upper(), path, body)
        # An empty body is a request that is wrong, and not one that leads nowhere.
        assert status == (400 if operation.method == "post" else 200)
        media = describe()["paths"][operation.path][operation.method]["responses"]["200"]
        if status == 200:
            assert headers["content-type"].partition(";")[0] in media["content"]


def test_the_description_is_served():
    with serving(FakeEngine()) as client:
        assert client.get("/openapi.json") == (200, json.loads(json.dumps(describe())))
