import io
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError
from llmedge.gguf.imatrix_old import OldImatrix, OldParser
from tests.gguf.imatrix_files import old_imatrix

ENTRIES = {"blk.0.attn_q.weight": (4, [2.0, 8.0]), "blk.1.attn_q.weight": (0, [3.0])}


def parse(data: bytes) -> OldImatrix:
    return OldParser(Path("i.dat"), io.BytesIO(data), len(data)).parse()  # type: ignore[arg-type]


def test_calls_and_values_are_as_they_stand_in_the_file():
    found = parse(old_imatrix(ENTRIES))
    assert (found.datasets, found.n_chunks) == (("wiki.txt",), 12)
    assert {name: (n, values.tolist()) for name, (n, values) in found.entries.items()} == ENTRIES


@pytest.mark.parametrize("n_bytes", [0, 3, 4, 20, 40, 60])
def test_a_file_that_ends_early_is_refused(n_bytes: int):
    with pytest.raises(IntegrityError, match=r"i\.dat"):
        parse(old_imatrix(ENTRIES)[:n_bytes])
