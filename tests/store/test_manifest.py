import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.store.manifest import (
    SCHEMA,
    Manifest,
    Source,
    file_sha256,
    hash_file,
    read_manifest,
    sidecar_path,
    utc_now,
    write_manifest,
)

MANIFEST = Manifest(
    name="smollm2",
    variant="Q4_0",
    file_bytes=91_726_912,
    sha256="ab" * 32,
    bits_per_weight=5.3491,
    n_fallbacks=1,
    architecture="llama",
    license="apache-2.0",
    source=Source("SmolLM2.gguf", "cd" * 32, "Org/Name", "0c1e"),
    arguments={"threads": 2, "allow_requantize": True},
    tools={"llmedge": "0.1.0"},
)


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path):
    variant = tmp_path / "m-Q4_0.gguf"
    write_manifest(variant, MANIFEST)
    assert read_manifest(variant) == MANIFEST
    assert sidecar_path(variant).name == "m-Q4_0.json"
    text = sidecar_path(variant).read_text(encoding="utf-8")
    assert f'"schema": "{SCHEMA}"' in text
    assert text.endswith("}\n")


def test_no_sidecar_is_no_manifest(tmp_path: Path):
    assert read_manifest(tmp_path / "m.gguf") is None
    (tmp_path / "m.json").mkdir()
    assert read_manifest(tmp_path / "m.gguf") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a": ' + b"[" * 100_000,
        b" " * (2 << 20),
        b"[]",
        b"\xff\xfe",
        b"null",
        b'{"schema": "llmedge.manifest/1"}',
    ],
)
def test_a_damaged_sidecar_is_an_error_with_its_path(tmp_path: Path, data: bytes):
    (tmp_path / "m.json").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"m.json is damaged") as caught:
        read_manifest(tmp_path / "m.gguf")
    assert "remove" in caught.value.hint


def test_a_later_schema_asks_for_an_update(tmp_path: Path):
    (tmp_path / "m.json").write_bytes(b'{"schema": "llmedge.manifest/2", "new": 1}')
    with pytest.raises(UnsupportedError, match=r"llmedge.manifest/2"):
        read_manifest(tmp_path / "m.gguf")


def test_another_programs_json_is_left_alone(tmp_path: Path):
    (tmp_path / "m.json").write_bytes(b'{"architectures": ["LlamaForCausalLM"]}')
    assert read_manifest(tmp_path / "m.gguf") is None


def test_wrong_types_are_damage(tmp_path: Path):
    variant = tmp_path / "m.gguf"
    write_manifest(variant, replace(MANIFEST, file_bytes="many"))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match="file_bytes"):
        read_manifest(variant)


def test_a_files_hash_is_its_sha256(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert hash_file(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_times_are_utc_in_whole_seconds():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", utc_now())


def test_a_hash_is_the_sidecars_where_it_belongs_to_the_file(tmp_path: Path):
    variant = tmp_path / "m-Q4_0.gguf"
    variant.write_bytes(b"weights")
    own = hash_file(variant)
    assert file_sha256(variant) == own
    write_manifest(variant, replace(MANIFEST, file_bytes=7))
    assert file_sha256(variant) == MANIFEST.sha256


def test_a_sidecar_of_another_file_is_not_believed(tmp_path: Path):
    variant = tmp_path / "m-Q4_0.gguf"
    variant.write_bytes(b"weights")
    own = hash_file(variant)
    write_manifest(variant, replace(MANIFEST, file_bytes=8))
    assert file_sha256(variant) == own
    write_manifest(variant, replace(MANIFEST, file_bytes=7))
    later_ns = sidecar_path(variant).stat().st_mtime_ns + 1_000_000
    os.utime(variant, ns=(later_ns, later_ns))
    assert file_sha256(variant) == own
    sidecar_path(variant).write_bytes(b"{")
    assert file_sha256(variant) == own


def test_a_file_that_changes_is_hashed_again(tmp_path: Path):
    variant = tmp_path / "m.gguf"
    variant.write_bytes(b"one")
    first = file_sha256(variant)
    variant.write_bytes(b"other")
    assert file_sha256(variant) == hash_file(variant) != first
