"""Measure `llmedge pull` from a hub on loopback, one fault at a time; JSON on stdout.

Usage: python scripts/bench_pull.py [--mb 60] > pull.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from local_hub import Faults, LocalHub

REPO = "acme/bench"
MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=60)
    n_bytes = parser.parse_args().mb * MB
    faults = {
        "none": Faults(),
        "cut every 20 MB": Faults(cut_bytes=20 * MB),
        "cut every 8 MB": Faults(cut_bytes=8 * MB),
        "cut every 1 MB": Faults(cut_bytes=MB),
        "one byte flipped": Faults(flips=1),
        "a byte flipped every time": Faults(flips=99),
        "answers 429, 500, 503 once each": Faults(statuses=[429, 500, 503]),
        "killed at half": Faults(bytes_per_s=30 * MB),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hub" / REPO
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(random.Random(1).randbytes(n_bytes))
        results = [
            measure(Path(scratch), name, fault, n_bytes, is_killed=name == "killed at half")
            for name, fault in faults.items()
        ]
    print(json.dumps({"schema": "llmedge.bench-pull/1", "results": results}, indent=2))


def measure(
    scratch: Path, name: str, faults: Faults, n_bytes: int, *, is_killed: bool
) -> dict[str, object]:
    home = scratch / name.replace(" ", "-").replace(",", "")
    with LocalHub(scratch / "hub", faults) as hub:
        start = time.monotonic()
        process = pull(home, hub)
        if is_killed:
            wait_for_half(home, n_bytes)
            process.kill()
            process.communicate()
            process = pull(home, hub)
        _, errors = process.communicate()
        duration_s = time.monotonic() - start
        sent = hub.body_bytes()
    return {
        "fault": name,
        "file_bytes": n_bytes,
        "sent_bytes": sent,
        "extra_bytes": sent - n_bytes,
        "extra_percent": round(100 * (sent - n_bytes) / n_bytes, 3),
        "duration_s": round(duration_s, 2),
        "exit_code": process.returncode,
        "error": errors.strip().splitlines()[-2:] if process.returncode else [],
    }


def pull(home: Path, hub: LocalHub) -> subprocess.Popen[str]:
    environment = os.environ | {
        "HF_HOME": str(home / "hf"),
        "LLMEDGE_HOME": str(home / "llmedge"),
        "HF_ENDPOINT": hub.url,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "llmedge", "pull", REPO, "--json"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_half(home: Path, n_bytes: int) -> None:
    while sum(part.stat().st_size for part in home.rglob("*.part")) < n_bytes // 2:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
