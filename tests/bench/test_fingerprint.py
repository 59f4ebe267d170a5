from dataclasses import replace

from llmedge.bench.fingerprint import take_fingerprint
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.library import library_info
from llmedge.runtime.model import ModelOptions


def test_a_fingerprint_carries_everything_that_speed_depends_on():
    context = ContextOptions(n_ctx=640, n_batch=256, n_ubatch=128, type_k="q8_0")
    fingerprint = take_fingerprint(ModelOptions(load_mode="mmap"), context, 3)
    assert (fingerprint.n_threads, fingerprint.n_ctx, fingerprint.n_batch) == (3, 640, 256)
    assert (fingerprint.n_ubatch, fingerprint.type_k, fingerprint.type_v) == (128, "q8_0", "f16")
    assert fingerprint.load_mode == "mmap"
    assert fingerprint.llama_cpp == library_info().label
    assert fingerprint.features == library_info().features
    assert fingerprint.n_cores >= 1
    assert fingerprint.memory_bytes > 0


def test_equal_conditions_have_equal_fingerprints():
    one = take_fingerprint(ModelOptions(), ContextOptions(), 2)
    assert one == take_fingerprint(ModelOptions(), ContextOptions(), 2)
    assert one != replace(one, n_threads=3)
