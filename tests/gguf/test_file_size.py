import gguf
import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.core.progress import SilentProgress
from llmedge.gguf.file_size import quantized_file_bytes
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from tests.gguf.imatrix_files import write_imatrix
from tests.gguf_files import write_tiny_model


@pytest.mark.parametrize("mix", ["Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("key", ["", "general.quantization_version", "quantize.imatrix.file"])
def test_the_size_is_known_to_the_byte_whatever_the_source_says_already(
    tmp_path, settings, mix: str, key: str
):
    def change(writer: gguf.GGUFWriter) -> None:
        if key == "quantize.imatrix.file":
            writer.add_string(key, "an older matrix of another length")
        elif key:
            writer.add_uint32(key, 2)

    source = write_tiny_model(tmp_path / "tiny.gguf", change=change)
    imatrix = write_imatrix(
        tmp_path / "imatrix.gguf", {"blk.0.attn_q.weight": ([[1.0] * 256], [1.0])}
    )
    options = QuantizeOptions(output=tmp_path / "out", imatrix=imatrix)
    planned = quantize(
        source,
        find_mix(mix),
        QuantizeOptions(output=tmp_path / "out", dry_run=True, expects_imatrix=True),
        settings,
        SilentProgress(),
    )
    made = quantize(source, find_mix(mix), options, settings, SilentProgress())
    assert planned.file_bytes == made.file_bytes == made.path.stat().st_size


def test_another_alignment_is_refused(tmp_path):
    source = write_tiny_model(
        tmp_path / "tiny.gguf", change=lambda writer: writer.add_custom_alignment(64)
    )
    with pytest.raises(UnsupportedError, match="64 bytes"):
        quantized_file_bytes(read_header(source), [32], {})
