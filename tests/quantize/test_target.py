import re

import pytest

from llmedge.core.errors import ResourceError, UsageError
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import read_header
from llmedge.quantize.plans import require_possible
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
    target, header = Target("ram", 200 * MIB, "X", KvCacheOptions(8192)), read_header(smollm2)
    assert target.file_bytes(header) < 0
    with pytest.raises(ResourceError, match=r"more than the 0\.0 MiB that .* leave") as caught:
        require_possible(header, target, "generic")
    assert "--ctx" in caught.value.hint
    assert "allow at least --target-ram" in caught.value.hint
    assert "kv cache of 8192 tokens" in caught.value.message


def test_memory_that_is_too_small_is_broken_down_and_the_smallest_is_named(smollm2):
    header = read_header(smollm2)
    target = Target("ram", 300 * MIB, "X", KvCacheOptions(4096))
    error = target.too_small(header, 400 * MIB, MIB, hint="")
    for part in ("401.0 MiB", "kv cache of 4096 tokens", "compute buffer", "runtime 96.0 MiB"):
        assert part in error.message
    (n_mib,) = re.findall(r"--target-ram (\d+)MiB", error.hint)
    enough = Target("ram", int(n_mib) * MIB, "X", KvCacheOptions(4096))
    assert 401 * MIB <= enough.file_bytes(header) < 402 * MIB


def test_bits_per_weight_that_are_enough_are_named(smollm2):
    header = read_header(smollm2)
    error = Target("bpw", 2.0, "X").too_small(header, 50_000_000, 0, hint="")
    (bits,) = re.findall(r"--target-bpw (\S+)", error.hint)
    assert Target("bpw", float(bits), "X").tensor_bytes(header, 0) >= 50_000_000


def test_a_bare_number_is_bytes_and_that_is_said():
    with pytest.raises(UsageError, match="a target of 95 bytes") as caught:
        require_sensible(Target("size", 95, "95"))
    assert "95MB" in caught.value.hint


@pytest.mark.parametrize(("kind", "value"), [("bpw", 0.5), ("kld", 0.0), ("size", 10), ("bpw", 99)])
def test_targets_that_cannot_be_meant_are_refused(kind, value: float):
    with pytest.raises(UsageError, match="cannot be meant"):
        require_sensible(Target(kind, value, "X"))
    assert require_sensible(Target("bpw", 4.5, "X")).value == 4.5
