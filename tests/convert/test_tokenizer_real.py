"""Real vocabularies: what llama.cpp's usual types lose, and that nothing is lost here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from llmedge.convert import tokenizer
from llmedge.convert.tokenizer import TokenizerOptions, TokenizerReport, convert_tokenizer
from llmedge.measure.sentences import read_sentences

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

INDIC = ("hi", "mr", "bn", "ta", "te", "kn", "ml", "gu", "pa")


def lost(report: TokenizerReport) -> dict[str, float]:
    return {result.kind: result.n_mismatches / result.n_texts for result in report.results}


def test_the_usual_tekken_type_loses_indic_text(
    vocabularies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    few = read_sentences(("en", *INDIC))
    monkeypatch.setattr(tokenizer, "read_sentences", lambda: few)
    shutil.copy(vocabularies / "tekken.json", tmp_path)
    _, report = convert_tokenizer(tmp_path, 131072, "llama", TokenizerOptions(compat=True))
    assert report.pre == "tekken"
    assert all(lost(report)[kind] > 0.8 for kind in INDIC)
    assert lost(report)["en"] == 0


def test_o200k_encodes_indic_text_as_its_own_library_does(o200k: Path):
    _, report = convert_tokenizer(o200k, 200064, "phi3")
    assert report.pre == "granite-embed-multi-97m"
    assert not any(lost(report).values())


def test_mistrals_sentencepiece_vocabulary(vocabularies: Path, tmp_path: Path):
    shutil.copy(vocabularies / "tokenizer.model", tmp_path)
    _, report = convert_tokenizer(tmp_path, 32768, "llama")
    assert (report.model, report.adds_bos) == ("llama", True)
    assert not any(lost(report).values())


def test_tekken_encodes_as_mistral_does_in_the_memory_of_a_small_machine(
    vocabularies: Path, tmp_path: Path
):
    shutil.copy(vocabularies / "tekken.json", tmp_path)
    code = (
        "import re, sys; from pathlib import Path; "
        "from llmedge.convert.tokenizer import convert_tokenizer; "
        "_, report = convert_tokenizer(Path(sys.argv[1]), 131072, 'llama'); "
        "assert report.pre == 'granite-embed-multi-97m', report; "
        "assert not any(result.n_mismatches for result in report.results), report; "
        "assert (report.adds_bos, report.adds_eos, report.n_padding) == (True, False, 0); "
        "linux = sys.platform == 'linux' or sys.exit(); "
        "import resource; status = Path('/proc/self/status').read_text(); "
        "own = int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]); "
        "children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
        "print(own // 1024, children // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if sys.platform == "linux":
        own_mib, child_mib = map(int, done.stdout.split())
        assert child_mib <= 140
        assert own_mib + child_mib <= 200
