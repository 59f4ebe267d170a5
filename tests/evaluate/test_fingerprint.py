from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.evaluate.fingerprint import take_evaluation_fingerprint
from llmedge.measure.corpus import file_corpus
from llmedge.runtime.context import ContextOptions
from llmedge.store.manifest import hash_file


def test_whatever_changes_the_figures_changes_the_fingerprint(
    tiny_model: Path, tiny_copy: Path, tmp_path: Path
):
    text = tmp_path / "text.txt"
    text.write_text("some text", encoding="utf-8")
    context = ContextOptions(n_ctx=256)
    first = take_evaluation_fingerprint(tiny_copy, tiny_model, file_corpus(text), context, 2)
    assert first.variant_sha256 == first.reference_sha256 == hash_file(tiny_model)
    others = [
        (replace(context, n_ctx=128), 2),
        (replace(context, type_k="q8_0"), 2),
        (context, None),
    ]
    for other, max_chunks in others:
        assert first != take_evaluation_fingerprint(
            tiny_copy, tiny_model, file_corpus(text), other, max_chunks
        )
    text.write_text("another text", encoding="utf-8")
    assert first != take_evaluation_fingerprint(
        tiny_copy, tiny_model, file_corpus(text), context, 2
    )
    tiny_copy.write_bytes(tiny_copy.read_bytes() + b"\0")
    changed = take_evaluation_fingerprint(tiny_copy, tiny_model, file_corpus(text), context, 2)
    assert changed.variant_sha256 != first.variant_sha256


def test_speed_alone_does_not_change_it(tiny_model: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("some text", encoding="utf-8")
    one, two = (
        take_evaluation_fingerprint(
            tiny_model, tiny_model, file_corpus(text), ContextOptions(n_threads=n), None
        )
        for n in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize("field", ["variant_sha256", "reference_sha256", "text_sha256"])
def test_hashes_are_whole(tiny_model: Path, tmp_path: Path, field: str):
    text = tmp_path / "text.txt"
    text.write_text("some text", encoding="utf-8")
    fingerprint = take_evaluation_fingerprint(
        tiny_model, tiny_model, file_corpus(text), ContextOptions(), None
    )
    assert len(getattr(fingerprint, field)) == 64
