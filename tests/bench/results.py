"""A bench result with made-up figures; tests change what they are about."""

from dataclasses import replace

from llmedge.bench.fingerprint import Fingerprint
from llmedge.bench.record import BenchResult, Energy, Heat, ModelFacts, Rate

CONDITIONS = Fingerprint(
    place="host",
    cpu="Some CPU",
    machine="x86_64",
    n_cores=2,
    cores="0-1",
    memory_bytes=8 << 30,
    llama_cpp="llama.cpp 0.5.0 (abc123)",
    features=("AVX2",),
    openmp="GOMP_SPINCOUNT=1000",
    power_source="mains",
    n_threads=2,
    n_ctx=512,
    n_batch=512,
    n_ubatch=512,
    type_k="f16",
    type_v="f16",
    flash_attention="auto",
    load_mode="mmap",
    repack=True,
    n_gpu_layers=0,
)
_RESULT = BenchResult(
    model="m:Q4_0",
    facts=ModelFacts("m-Q4_0.gguf", 1000, 900, 1600, 4.5, "llama 1K Q4_0"),
    n_depth=0,
    prompt=Rate(512, (200.0, 202.0, 198.0)),
    generation=Rate(128, (20.0, 20.2, 19.8)),
    latency=None,
    load=None,
    memory=None,
    energy=Energy(),
    heat=Heat(),
    words=(),
    readings=None,
    flags=(),
    reasons=(),
    fingerprint=CONDITIONS,
    created="2026-01-01T00:00:00Z",
)


def make_result(**changes: object) -> BenchResult:
    return replace(_RESULT, **changes)  # type: ignore[arg-type]
