import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError, ResourceError, UnsupportedError, UsageError
from llmedge.core.settings import Settings
from llmedge.store.hf_cache import CachedRepository
from llmedge.store.second_name import give_second_name, lm_studio_folder, require_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "store" / "x-Q4_0.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF bytes")
    return path


@pytest.fixture
def other_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)


def test_the_second_name_is_the_same_file_and_a_second_time_changes_nothing(model, tmp_path):
    folder = tmp_path / "a" / "b"
    (made,) = give_second_name(model, folder)
    assert made.means == "hard link"
    assert made.path.samefile(model)
    (again,) = give_second_name(model, folder)
    assert again.means == "there already"
    model.unlink()
    assert made.path.read_bytes() == b"GGUF bytes"


def test_what_the_cache_links_to_is_shown_not_the_link(model: Path, tmp_path: Path):
    link = tmp_path / "snapshot" / "name.gguf"
    link.parent.mkdir()
    link.symlink_to(model)
    (made,) = give_second_name(link, tmp_path / "there")
    assert made.path.name == "name.gguf"
    assert not made.path.is_symlink()
    assert made.path.samefile(model)


@pytest.mark.usefixtures("other_disk")
def test_on_another_disk_a_symbolic_link_or_a_copy_when_asked(model: Path, tmp_path: Path):
    (link,) = give_second_name(model, tmp_path / "a")
    assert link.means == "symbolic link"
    assert link.path.readlink() == model.resolve()
    (copy,) = give_second_name(model, tmp_path / "b", may_copy=True)
    assert copy.means == "copy"
    assert copy.path.read_bytes() == model.read_bytes()
    assert not copy.path.samefile(model)
    assert list((tmp_path / "b").iterdir()) == [copy.path]


@pytest.mark.usefixtures("other_disk")
def test_never_a_copy_that_nobody_asked_for(model: Path, tmp_path: Path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(ResourceError, match="no link to x-Q4_0") as found:
        give_second_name(model, tmp_path / "a")
    assert "--copy" in found.value.hint
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("is_broken_link", [False, True])
def test_what_is_there_is_never_replaced(model: Path, tmp_path: Path, is_broken_link: bool):
    target = tmp_path / "a" / model.name
    target.parent.mkdir()
    if is_broken_link:
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.write_bytes(b"another")
    with pytest.raises(UsageError, match="broken link" if is_broken_link else "another file"):
        give_second_name(model, target.parent)
    assert target.is_symlink() == is_broken_link


def test_every_part_of_a_split_model_or_none(tmp_path: Path):
    parts = [tmp_path / f"x-{i:05}-of-00002.gguf" for i in (1, 2)]
    parts[0].write_bytes(b"one")
    with pytest.raises(NotFoundError, match="x-00002-of-00002"):
        give_second_name(parts[0], tmp_path / "there")
    assert not (tmp_path / "there").exists()
    parts[1].write_bytes(b"two")
    made = give_second_name(parts[0], tmp_path / "there")
    assert [each.path.read_bytes() for each in made] == [b"one", b"two"]


def test_lm_studio_is_found_where_it_says_that_it_is(settings: Settings, tmp_path: Path):
    settings = replace(settings, hf_cache=tmp_path / "hub")
    model, home = tmp_path / "x-Q4_0.gguf", tmp_path / "user"
    home.mkdir()
    with pytest.raises(NotFoundError, match="LM Studio has no folder here"):
        lm_studio_folder(settings, model, home)
    (home / ".lmstudio").mkdir()
    assert lm_studio_folder(settings, model, home) == home / ".lmstudio/models/llmedge/x"
    moved = tmp_path / "moved"
    moved.mkdir()
    (home / ".lmstudio-home-pointer").write_text(f"{moved}\n")
    assert lm_studio_folder(settings, model, home) == moved / "models/llmedge/x"
    (home / ".lmstudio-home-pointer").write_text("")
    assert lm_studio_folder(settings, model, home) == home / ".lmstudio/models/llmedge/x"


def test_what_was_pulled_keeps_its_publisher(settings: Settings, tmp_path: Path):
    settings = replace(settings, hf_cache=tmp_path / "hub")
    repository = CachedRepository(settings.hf_cache, "acme/x-GGUF")
    blob = repository.blob("a" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF")
    repository.link("1" * 40, "x.gguf", "a" * 64)
    model = repository.folder / "snapshots" / ("1" * 40) / "x.gguf"
    (tmp_path / ".lmstudio").mkdir()
    folder = lm_studio_folder(settings, model, tmp_path)
    assert folder == tmp_path / ".lmstudio/models/acme/x-GGUF"
    (made,) = give_second_name(model, folder)
    assert made.path.samefile(blob)


def test_programs_without_such_a_folder_are_told_what_to_do_instead(model: Path, tmp_path: Path):
    assert require_folder(str(tmp_path), model) == tmp_path
    for asked, word in (("ollama", "ollama create"), ("llama.cpp", "--models-dir")):
        with pytest.raises(UnsupportedError) as found:
            require_folder(asked, model)
        assert word in found.value.hint
        assert str(model) in found.value.hint
    with pytest.raises(NotFoundError, match="lmstdio is not a folder"):
        require_folder("lmstdio", model)
