"""Fixtures of the dialects' tests: each module has the `routes` of its own."""

import pytest

from tests.serve.dialects import answering


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest):
    """Serve the module's dialect."""
    with answering(request.module.routes) as client:
        yield client


@pytest.fixture
def client(server):
    """Return the module's server, which was not asked anything yet."""
    server.responder.calls.clear()
    server.responder.engine.requests.clear()
    return server
