import os
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError
from llmedge.host.stamp import require_unchanged, stamp_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    return path


def test_a_file_that_nobody_touched_is_the_same(path: Path):
    require_unchanged(path, stamp_of(path.stat()))


def replaced(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"4321")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def rewritten(path: Path) -> None:
    path.write_bytes(b"4321")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [replaced, rewritten, Path.unlink])
def test_a_file_that_changed_is_named(path: Path, change):
    stamp = stamp_of(path.stat())
    change(path)
    with pytest.raises(IntegrityError, match="file changed while it was read"):
        require_unchanged(path, stamp)
