"""What a folder of models offers, and what it does not."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError, ResourceError, UnsupportedError
from llmedge.core.settings import load_settings
from llmedge.engine.engine import ModelInfo
from llmedge.runtime.context import ContextOptions
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.models_folder import ModelsFolder
from llmedge.serve.pool import ModelPool, ModelSource
from llmedge.serve.server import ServeOptions, background_server, models_folder
from tests.fakes import FakeEngine
from tests.gguf_files import write_tiny_model
from tests.serve.endpoint import CHAT, HELLO, Client, wait_until


class Folder:
    """A folder whose models are fakes that say which file they were opened from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[FakeEngine] = []
        self.n_described = 0
        self.models = ModelsFolder(path, self._describe)

    def _describe(self, path: Path, header: object) -> ModelSource:
        self.n_described += 1
        info = ModelInfo(path.stem, created=self.n_described, n_ctx=4096)

        def open_engine() -> FakeEngine:
            self.opened.append(FakeEngine(["hi"], info=info))
            return self.opened[-1]

        return ModelSource(info, open_engine)

    def pool(self, **options) -> ModelPool:
        return ModelPool(self.models, Limits(), Drain(), Meters(), **options)

    def offered(self) -> list[str]:
        return sorted(self.models.look().sources)

    def reason(self, name: str) -> Exception:
        return self.models.look().refused[name]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Folder:
    path = tmp_path / "models"
    path.mkdir()
    for name in ("a.gguf", "b.Q4_0.gguf"):
        shutil.copy(tiny_model, path / name)
    return Folder(path)


def test_models_are_offered_by_their_stems_and_each_header_is_read_once(folder: Folder):
    first = folder.models.look()
    assert sorted(first.sources) == ["a", "b.Q4_0"]
    assert folder.models.look().sources["a"] is first.sources["a"]
    assert folder.n_described == 2


def test_what_lies_beside_models_is_not_offered(folder: Folder, tiny_model: Path):
    below = folder.path / "below"
    below.mkdir()
    shutil.copy(tiny_model, below / "c.gguf")
    shutil.copy(tiny_model, folder.path / ".partial.gguf")
    (folder.path / "a.gguf.json").write_text("{}")
    (folder.path / "folder.gguf").mkdir()
    for kind in ("imatrix", "adapter", "mmproj"):
        write_tiny_model(folder.path / f"{kind}.gguf", change=lambda w, kind=kind: w.add_type(kind))
    found = folder.models.look()
    assert (sorted(found.sources), dict(found.refused)) == (["a", "b.Q4_0"], {})


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX's files")
def test_links_out_of_the_folder_pipes_and_odd_names_are_not_offered(
    folder: Folder, tiny_model: Path
):
    (folder.path / "out.gguf").symlink_to(tiny_model)
    (folder.path / "nothing.gguf").symlink_to(folder.path / "gone")
    (folder.path / "alias.gguf").symlink_to("a.gguf")
    os.mkfifo(folder.path / "pipe.gguf")
    shutil.copy(tiny_model, os.fsencode(folder.path) + b"/\xff.gguf")
    shutil.copy(tiny_model, folder.path / "a\nb.gguf")
    assert folder.offered() == ["a", "alias", "b.Q4_0"]
    assert "a link to outside" in str(folder.reason("out"))
    assert str(tiny_model) not in str(folder.reason("out"))
    assert isinstance(folder.reason("a\nb"), UnsupportedError)


def test_a_damaged_file_and_a_part_of_one_are_refused_with_a_reason(folder: Folder):
    (folder.path / "page.gguf").write_bytes(b"<html>")
    shutil.copy(folder.path / "a.gguf", folder.path / "big-00001-of-00002.gguf")
    write_tiny_model(
        folder.path / "part.gguf", change=lambda writer: writer.add_uint16("split.count", 2)
    )
    assert folder.offered() == ["a", "b.Q4_0"]
    assert "page.gguf is not a GGUF file" in str(folder.reason("page"))
    assert str(folder.path) not in str(folder.reason("page"))
    for name in ("big-00001-of-00002", "part"):
        assert "one part of a split model" in str(folder.reason(name))


def test_a_file_that_is_whole_later_is_offered_then(folder: Folder, tiny_model: Path):
    data = tiny_model.read_bytes()
    path = folder.path / "slow.gguf"
    path.write_bytes(data[: len(data) // 2])
    assert "slow.gguf is" in str(folder.reason("slow"))
    path.write_bytes(data)
    assert "slow" in folder.models.look().sources


def test_a_file_that_changes_between_the_look_and_the_load_is_not_loaded(folder: Folder):
    source = folder.models.look().sources["a"]
    with (folder.path / "a.gguf").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ResourceError, match="changed just now"):
        source.open()
    assert not folder.opened


def test_no_folder_is_an_error_that_says_so(tmp_path: Path):
    with pytest.raises(NotFoundError, match="is not a folder"):
        Folder(tmp_path / "missing")


def test_what_comes_and_goes_is_seen_without_a_restart(
    folder: Folder, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("llmedge.serve.pool._LOOK_S", 0.0)
    monkeypatch.setattr("llmedge.serve.pool._FRESH_S", 0.0)
    monkeypatch.setattr("llmedge.serve.pool._SWEEP_S", 0.05)
    with background_server(folder.models, ServeOptions(port=0)) as url:
        client = Client(url)
        status, body = client.post(CHAT, {**HELLO, "model": "new"})
        message = "the model 'new' is not served here; 'a', 'b.Q4_0' are"
        assert (status, body["error"]["message"]) == (404, message)
        shutil.copy(tiny_model, folder.path / "new.gguf")
        status, body = client.post(CHAT, {**HELLO, "model": "new"})
        assert (status, body["model"]) == (200, "new")
        (folder.path / "new.gguf").unlink()
        wait_until(lambda: folder.opened[0].state == "closed")
        assert client.post(CHAT, {**HELLO, "model": "new"})[0] == 404
        (folder.path / "bad.gguf").write_bytes(b"<html>")
        status, body = client.post(CHAT, {**HELLO, "model": "bad"})
        assert status == 400
        assert "not a GGUF file" in body["error"]["message"]


def test_a_replaced_file_is_loaded_anew_and_running_answers_end_with_the_old(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("llmedge.serve.pool._FRESH_S", 0.0)
    monkeypatch.setattr("llmedge.serve.pool._SWEEP_S", 0.02)

    async def run() -> None:
        from llmedge.engine.generation import Generation, TextPrompt

        pool = folder.pool()
        stream = (await pool.engine("a")).generate(Generation(TextPrompt("x")))
        await anext(stream)
        os.utime(folder.path / "a.gguf", ns=(1, 1))
        sweeper = asyncio.create_task(pool.sweep())
        await asyncio.to_thread(wait_until, lambda: pool.states["a"] == "unloaded")
        await pool.engine("a")
        await asyncio.sleep(0.1)
        assert [engine.state for engine in folder.opened] == ["ready", "ready"]
        assert [type(event).__name__ async for event in stream][-1] == "Finished"
        await asyncio.to_thread(wait_until, lambda: folder.opened[0].state == "closed")
        assert pool.states["a"] == "ready"
        sweeper.cancel()
        pool.close()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_an_empty_folder_serves_nothing_yet_and_one_that_vanishes_keeps_its_models(
    tmp_path: Path, folder: Folder
):
    empty = tmp_path / "empty"
    empty.mkdir()

    async def run() -> None:
        with pytest.raises(NotFoundError, match="none is"):
            await Folder(empty).pool().engine("a")
        pool = folder.pool()
        folder.path.rename(tmp_path / "away")
        await pool._look()
        assert sorted(pool.states) == ["a", "b.Q4_0"]

    asyncio.run(run())


def test_a_real_model_in_a_folder_answers(folder: Folder):
    options = ServeOptions(port=0, context=ContextOptions(n_ctx=256, n_batch=64, n_seq_max=1))
    models = models_folder(folder.path, options, load_settings())
    with background_server(models, options) as url:
        client = Client(url)
        _, body = client.get("/v1/models")
        assert [(card["id"], card["meta"]["n_ctx"]) for card in body["data"]] == [
            ("a", 256),
            ("b.Q4_0", 256),
        ]
        status, body = client.post(CHAT, {**HELLO, "model": "a", "max_tokens": 2})
        assert (status, body["model"]) == (200, "a"), body
