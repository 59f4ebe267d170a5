"""One file's transfer, beside what whole pulls show."""

from pathlib import Path

from llmedge.hub.client import Hub
from llmedge.pull.transfer import fetch
from llmedge.store.hf_cache import CachedRepository
from tests.pull.conftest import N_BYTES, REPO, WEIGHTS, Puller


def test_a_file_is_linked_when_its_blob_is_here_already(puller: Puller):
    cached = CachedRepository(puller.cache, REPO)
    with Hub(puller.hub.url) as hub:
        repository = hub.describe(REPO)
        (file,) = [file for file in repository.files if file.path == WEIGHTS]
        cached.blob(file.oid).parent.mkdir(parents=True)
        cached.blob(file.oid).write_bytes(puller.weights)
        seen: list[int] = []
        fetch(hub, repository, file, cached, puller.line(), seen.append)
    place = cached.snapshot(repository.commit) / WEIGHTS
    assert place.resolve() == Path(cached.blob(file.oid)).resolve()
    assert seen == [N_BYTES]
    assert puller.hub.file_requests() == []


def test_progress_goes_on_from_what_was_here(puller: Puller):
    cached = CachedRepository(puller.cache, REPO)
    with Hub(puller.hub.url) as hub:
        repository = hub.describe(REPO)
        (file,) = [file for file in repository.files if file.path == WEIGHTS]
        cached.part(file.oid).parent.mkdir(parents=True)
        cached.part(file.oid).write_bytes(puller.weights[:1_000_000])
        seen: list[int] = []
        fetch(hub, repository, file, cached, puller.line(), seen.append)
    assert min(seen) > 1_000_000
    assert seen == sorted(seen)
    assert cached.blob(file.oid).read_bytes() == puller.weights
