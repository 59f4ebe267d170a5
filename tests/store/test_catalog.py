from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.core.settings import Settings
from llmedge.store.catalog import (
    find,
    find_all,
    find_largest,
    list_entries,
    model_id,
    remove,
    resolve,
    variant_path,
)
from llmedge.store.manifest import Source, sidecar_path, write_manifest
from llmedge.store.reference import FileReference, parse_reference
from tests.store.test_manifest import MANIFEST


@pytest.fixture
def put(settings: Settings):
    """Put a variant into the store."""

    def put(
        name: str, variant: str, n_bytes: int = 10, *, repo: str | None = None, sidecar=True
    ) -> Path:
        path = variant_path(settings, name, variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(n_bytes))
        if sidecar:
            source = Source("f.gguf", "0" * 64, repo, "abc" if repo else None)
            manifest = replace(
                MANIFEST, name=name, variant=variant, file_bytes=n_bytes, source=source
            )
            write_manifest(path, manifest)
        return path

    return put


def test_an_empty_store_has_no_entries(settings: Settings):
    assert list_entries(settings) == []


def test_entries_are_listed_by_name_and_then_by_size(settings: Settings, put):
    put("b", "Q8_0", 30)
    put("b", "Q4_0", 20)
    put("a", "Q8_0", 90, sidecar=False)
    assert [entry.reference for entry in list_entries(settings)] == ["a:Q8_0", "b:Q4_0", "b:Q8_0"]
    assert [entry.manifest is None for entry in list_entries(settings)] == [True, False, False]


def test_half_written_files_and_folders_are_no_entries(settings: Settings, put):
    path = put("a", "Q4_0")
    (path.parent / ".a-Q8_0.gguf.1.partial").touch()
    (path.parent / ".hidden.gguf").touch()
    (path.parent / "folder.gguf").mkdir()
    assert len(list_entries(settings)) == 1


def test_a_damaged_sidecar_is_a_problem_of_its_entry_only(settings: Settings, put):
    put("a", "Q4_0")
    sidecar_path(put("a", "Q8_0", 20)).write_text("{", encoding="ascii")
    entries = list_entries(settings)
    assert [entry.problem is None for entry in entries] == [True, False]
    assert "damaged" in (entries[1].problem or "")


def test_a_file_of_another_size_than_its_sidecar_says_is_a_problem(settings: Settings, put):
    put("a", "Q4_0", 20).write_bytes(bytes(19))
    assert "19 bytes, its sidecar says 20" in (list_entries(settings)[0].problem or "")


def test_a_name_resolves_to_the_usual_variant(settings: Settings, put):
    put("a", "Q4_0", 10)
    put("a", "Q8_0", 30)
    assert find(settings, parse_reference("a")).variant == "Q8_0"
    path = put("a", "Q4_K_M", 20)
    assert resolve(settings, parse_reference("a")) == path
    assert resolve(settings, parse_reference("A:q4_0")).name == "a-Q4_0.gguf"
    assert len(find_all(settings, parse_reference("a"))) == 3


def test_what_variants_are_made_from_is_the_largest_of_a_name(settings: Settings, put):
    for variant, n_bytes in (("Q4_K_M", 20), ("BF16", 90), ("Q8_0", 50)):
        put("a", variant, n_bytes)
    put("b", "F32", 200)
    assert find_largest(settings, parse_reference("a")).variant == "BF16"
    assert find_largest(settings, parse_reference("a:q8_0")).variant == "Q8_0"


def test_a_repository_resolves_to_what_was_made_from_it(settings: Settings, put):
    path = put("a", "Q4_0", repo="Org/A")
    put("b", "Q4_0", repo="Org/B")
    assert resolve(settings, parse_reference("Org/A")) == path
    assert resolve(settings, parse_reference("Org/A@abc:q4_0")) == path
    with pytest.raises(NotFoundError, match="no model Org/A@def"):
        resolve(settings, parse_reference("Org/A@def"))
    with pytest.raises(NotFoundError) as caught:
        resolve(settings, parse_reference("Org/C"))
    assert caught.value.hint == "llmedge pull Org/C"


def test_a_path_resolves_to_itself(settings: Settings, tmp_path: Path):
    path = tmp_path / "x.gguf"
    path.touch()
    assert resolve(settings, FileReference(path)) == path
    with pytest.raises(NotFoundError, match="not a file"):
        resolve(settings, FileReference(tmp_path / "y.gguf"))
    with pytest.raises(UsageError, match="is a path"):
        find(settings, FileReference(path))


def test_what_is_not_there_is_not_found_with_what_is_close(settings: Settings, put):
    with pytest.raises(NotFoundError) as caught:
        find(settings, parse_reference("smollm2"))
    assert "the store is empty" in caught.value.hint
    put("smollm2-135m", "Q4_0")
    with pytest.raises(NotFoundError) as caught:
        find(settings, parse_reference("smolm2-135m"))
    assert "did you mean 'smollm2-135m'?" in caught.value.hint
    with pytest.raises(NotFoundError) as caught:
        find(settings, parse_reference("zzz"))
    assert "models here: smollm2-135m" in caught.value.hint
    with pytest.raises(NotFoundError) as caught:
        find(settings, parse_reference("smollm2-135m:Q8_0"))
    assert "its variants here: Q4_0" in caught.value.hint


def test_removing_takes_the_sidecar_and_an_empty_folder_along(settings: Settings, put):
    first, second = put("a", "Q4_0", 10), put("a", "Q8_0", 20)
    entries = {entry.variant: entry for entry in list_entries(settings)}
    sidecar_bytes = sidecar_path(first).stat().st_size
    assert remove(entries["Q4_0"]) == 10 + sidecar_bytes
    assert not first.exists()
    assert not sidecar_path(first).exists()
    assert second.exists()
    remove(entries["Q8_0"])
    assert not second.parent.exists()


def test_removing_leaves_what_is_not_ours(settings: Settings, put):
    path = put("a", "Q4_0", sidecar=False)
    notes = path.with_suffix(".json")
    notes.write_text('{"mine": 1}', encoding="ascii")
    remove(list_entries(settings)[0])
    assert notes.exists()


def test_names_are_found_in_any_case(settings: Settings, put):
    path = put("Foo", "Q8_0", sidecar=False)
    assert resolve(settings, parse_reference("foo:q8_0")) == path
    assert resolve(settings, parse_reference("FOO")) == path


def test_a_relative_path_into_the_store_is_still_a_reference(settings, put, monkeypatch):
    path = put("a", "Q4_0")
    monkeypatch.chdir(path.parent)
    assert model_id(settings, Path("a-Q4_0.gguf")) == "a:Q4_0"


def test_an_id_is_a_reference_or_a_stem_and_never_a_path(settings: Settings, put, tmp_path: Path):
    assert model_id(settings, put("a", "Q4_0")) == "a:Q4_0"
    assert model_id(settings, tmp_path / "deep" / "file.Q4_0.gguf") == "file.Q4_0"
