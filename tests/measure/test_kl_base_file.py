import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import IntegrityError, NotFoundError, ResourceError, UsageError
from llmedge.measure import kl_base_file as module
from llmedge.measure.kl_base_file import KlBaseHeader, KlBaseReader, writing_base
from llmedge.measure.predictions import LogitRows
from tests.fakes import works_or_is_refused

N_CTX, N_VOCAB, N_CHUNKS, N_ROWS = 8, 5, 2, 3
HEAD_BYTES, ROW_BYTES = 20, 20  # five codes and one to make them even, after eight bytes


def logits_of(chunk: int) -> np.ndarray:
    random = np.random.default_rng(chunk)
    return random.standard_normal((N_ROWS, N_VOCAB)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write two whole chunks and leave out a short one."""
    path = tmp_path / "base.kld"
    chunks = [[0, 1, 2, 3, 4, 3, 2, 1], [4] * 8, [1, 2, 3]]
    with writing_base(path, chunks, n_ctx=N_CTX, n_vocab=N_VOCAB) as writer:
        for chunk in range(N_CHUNKS):
            for row in range(N_ROWS):
                writer.add(logits_of(chunk)[row : row + 1])
    return path


def test_what_was_written_is_read(path: Path):
    with KlBaseReader(path) as reader:
        assert reader.header == KlBaseHeader(N_CTX, N_VOCAB, N_CHUNKS)
        assert reader.chunk(0) == [0, 1, 2, 3, 4, 3, 2, 1]
        assert reader.chunk(1) == [4] * 8
        for chunk in range(N_CHUNKS):
            variant = LogitRows(logits_of(chunk)[1:])
            rows = reader.rows(chunk, 1, 2)
            assert rows.kld(variant) == pytest.approx(0, abs=1e-4)
            nll, reference_nll = rows.nlls(variant, np.array([3, 0]))
            assert reference_nll == pytest.approx(nll, abs=1e-4)


def test_the_layout_is_llama_cpps(path: Path):
    data = path.read_bytes()
    assert struct.unpack_from("<8sIii", data) == (b"_logits_", N_CTX, N_VOCAB, N_CHUNKS)
    assert struct.unpack_from("<16i", data, HEAD_BYTES)[:9] == (0, 1, 2, 3, 4, 3, 2, 1, 4)
    assert len(data) == HEAD_BYTES + 4 * 16 + 6 * ROW_BYTES
    scale, floor, *codes = struct.unpack_from("<ff6H", data, HEAD_BYTES + 64)
    logits = logits_of(0)[0].astype(float)
    log_p = logits - np.log(np.exp(logits).sum())
    assert scale * np.array(codes[:5]) + floor == pytest.approx(log_p, abs=scale)
    assert codes[5] == 0


def damage(change: Callable[[bytearray], None]) -> Callable[[Path], None]:
    def damage_file(path: Path) -> None:
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    return damage_file


def put(offset: int, form: str, *values: float) -> Callable[[Path], None]:
    return damage(lambda data: struct.pack_into(form, data, offset, *values))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damage(lambda data: data.pop()), "should have"),
        (damage(lambda data: data.append(0)), "should have"),
        (damage(lambda data: data.clear()), "too short"),
        (damage(lambda data: data.__delitem__(slice(19, None))), "too short"),
        (put(0, "<8s", b"_logit__"), "does not begin"),
        (put(8, "<I", 0), "cannot be"),
        (put(8, "<I", 0xFFFFFFFF), "cannot be"),
        (put(12, "<i", -5), "cannot be"),
        (put(12, "<i", 0x7FFFFFFF), "should have"),
        (put(16, "<i", 0), "cannot be"),
        (put(16, "<i", -1), "cannot be"),
        (put(16, "<i", 0x7FFFFFFF), "should have"),
    ],
)
def test_a_file_that_is_not_what_its_head_says_is_refused(path: Path, harm, reason: str):
    harm(path)
    with pytest.raises(IntegrityError, match=reason) as caught:
        KlBaseReader(path)
    assert "--save-base" in caught.value.hint


@pytest.mark.parametrize("token", [-1, N_VOCAB, 0x7FFFFFFF])
def test_tokens_beyond_the_vocabulary_are_refused(path: Path, token: int):
    put(HEAD_BYTES + 4 * 9, "<i", token)(path)
    with KlBaseReader(path) as reader:
        assert reader.chunk(0)
        with pytest.raises(IntegrityError, match="chunk 1 has tokens beyond"):
            reader.chunk(1)


@pytest.mark.parametrize(
    ("scale", "floor", "reason"),
    [
        (float("nan"), -16, "no numbers"),
        (float("inf"), -16, "no numbers"),
        (-1e-4, -16, "no numbers"),
        (1e-4, float("nan"), "no numbers"),
        (3e38, 0, "do not add up"),
        (2.4e-4, 3, "do not add up"),
        (2.4e-4, -40, "do not add up"),
    ],
)
def test_predictions_that_are_no_probabilities_are_refused(
    path: Path, scale: float, floor: float, reason: str
):
    put(HEAD_BYTES + 64 + ROW_BYTES, "<ff", scale, floor)(path)
    with KlBaseReader(path) as reader:
        assert reader.rows(0, 0, 1)
        with pytest.raises(IntegrityError, match=reason):
            reader.rows(0, 0, 3)


@given(st.integers(0, 203), st.integers(0, 255))
def test_any_damaged_byte_is_harmless(tmp_path_factory, offset: int, byte: int):
    path = tmp_path_factory.mktemp("fuzz") / "base.kld"
    with writing_base(path, [[1] * 8, [2] * 8], n_ctx=N_CTX, n_vocab=N_VOCAB) as writer:
        for chunk in range(N_CHUNKS):
            writer.add(logits_of(chunk))
    damage(lambda data: data.__setitem__(offset, byte))(path)
    with works_or_is_refused("no sound KL base file"), KlBaseReader(path) as reader:
        for chunk in range(reader.header.n_chunks):
            assert len(reader.chunk(chunk)) == reader.header.n_ctx
            rows = reader.rows(chunk, 0, reader.header.n_rows)
            assert np.isfinite(rows.totals).all()


def test_a_file_that_shrinks_while_it_is_read_is_refused(path: Path):
    with KlBaseReader(path) as reader:
        with path.open("r+b") as file:
            file.truncate(100)
        with pytest.raises(IntegrityError, match="shorter"):
            reader.rows(1, 0, 3)


def test_a_missing_file_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"none\.kld"):
        KlBaseReader(tmp_path / "none.kld")


def test_a_text_without_a_whole_chunk_is_refused(tmp_path: Path):
    path = tmp_path / "base.kld"
    with (
        pytest.raises(UsageError, match="no whole chunk of 8"),
        writing_base(path, [[1, 2, 3]], n_ctx=N_CTX, n_vocab=N_VOCAB),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_finished_does_not_appear(tmp_path: Path):
    path = tmp_path / "base.kld"
    path.write_bytes(b"_logits_ that were there before")
    with (
        pytest.raises(IntegrityError, match="should have"),
        writing_base(path, [[1] * 8, [2] * 8], n_ctx=N_CTX, n_vocab=N_VOCAB) as writer,
    ):
        writer.add(logits_of(0))  # and none of the second chunk
    assert path.read_bytes() == b"_logits_ that were there before"
    assert list(tmp_path.iterdir()) == [path]


def test_another_file_is_not_replaced(tmp_path: Path, tiny_copy: Path):
    before = tiny_copy.read_bytes()
    for path in (tiny_copy, tmp_path):
        with (
            pytest.raises(UsageError, match="in the way"),
            writing_base(path, [[1] * 8], n_ctx=N_CTX, n_vocab=N_VOCAB),
        ):
            pytest.fail("computed")
    assert tiny_copy.read_bytes() == before


def test_a_full_disk_is_noticed_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(folder: Path, n_bytes: int) -> None:
        assert (folder, n_bytes) == (tmp_path, 2 * 3 * ROW_BYTES)
        raise ResourceError("no room")

    monkeypatch.setattr(module, "require_free_disk", refuse)
    with (
        pytest.raises(ResourceError, match="no room"),
        writing_base(tmp_path / "b.kld", [[1] * 8, [2] * 8], n_ctx=N_CTX, n_vocab=N_VOCAB),
    ):
        pytest.fail("computed")
