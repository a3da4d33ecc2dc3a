"""Time of ``inspect`` with and without its cache: whole processes, in turns.

    python benchmarks/cache.py [REF] [RUNS]

Writes ``benchmarks/results/cache.json``: wall-clock seconds of each run without and with the cache, and the ratio of
each pair.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "cache.json"


def seconds(reference: str, place: str, *more: str) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cbsurgeon", "inspect", reference, "--json", *more],
        env={**os.environ, "XDG_CACHE_HOME": place, "CBSURGEON_NO_CACHE": "0"},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def main(reference: str = "timm:deit_small_patch16_224", runs: str = "7") -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as place:
        first = seconds(reference, place)
        pairs = [(seconds(reference, place, "--no-cache"), seconds(reference, place)) for _ in range(int(runs))]
    without, kept = ([pair[side] for pair in pairs] for side in (0, 1))
    ratios = sorted(one / other for one, other in pairs)
    found = {
        "reference": reference,
        "first": first,
        "without": without,
        "kept": kept,
        "median_without": statistics.median(without),
        "median_kept": statistics.median(kept),
        "worst_kept": max(kept),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "load": list(os.getloadavg()),
        "cores": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
