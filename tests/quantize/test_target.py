import pytest

from llmedge.core.errors import ResourceError, UsageError
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import read_header
from llmedge.quantize.target import Target, require_sensible
from llmedge.runtime.dry_run import compute_buffer_bytes

MIB = 1 << 20


def test_a_size_is_for_the_whole_file(tiny_model):
    header = read_header(tiny_model)
    assert Target("size", 500_000, "500KB").tensor_bytes(header, 10_000) == 490_000


def test_bits_per_weight_are_for_all_tensors(tiny_model):
    header = read_header(tiny_model)
    expected = int(4.5 * header.n_weights / 8)
    assert Target("bpw", 4.5, "4.5BPW").tensor_bytes(header, 10_000) == expected


def test_quality_limits_no_bytes(tiny_model):
    assert Target("kld", 0.02, "KLD0.02").tensor_bytes(read_header(tiny_model), 0) is None


def test_memory_pays_for_the_context_and_the_buffers_first(smollm2):
    header = read_header(smollm2)
    small, large = KvCacheOptions(1024), KvCacheOptions(8192)
    rooms = [
        Target("ram", 600 * MIB, "600MIB", cache).file_bytes(header) for cache in (small, large)
    ]
    costs = [
        estimate_memory(header, cache).kv_cache_bytes + compute_buffer_bytes(header, cache)
        for cache in (small, large)
    ]
    assert rooms[0] - rooms[1] == costs[1] - costs[0]
    assert 0 < rooms[1] < rooms[0] < 600 * MIB


def test_a_context_that_takes_everything_is_refused(smollm2):
    with pytest.raises(ResourceError, match="nothing is left") as caught:
        Target("ram", 200 * MIB, "X", KvCacheOptions(8192)).file_bytes(read_header(smollm2))
    assert "--ctx" in caught.value.hint


@pytest.mark.parametrize(("kind", "value"), [("bpw", 0.5), ("kld", 0.0), ("size", 10), ("bpw", 99)])
def test_targets_that_cannot_be_meant_are_refused(kind, value: float):
    with pytest.raises(UsageError, match="cannot be meant"):
        require_sensible(Target(kind, value, "X"))
    assert require_sensible(Target("bpw", 4.5, "X")).value == 4.5
