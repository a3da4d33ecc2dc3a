"""Thousands of damaged files for every reader: each must be read, or refused with an error of cbsurgeon.

    python benchmarks/fuzz.py --mutants 5000 -o benchmarks/results/fuzz.json

The test suite tries three hundred of the same kind (``tests/test_fuzz.py``).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.attacks.mutation import fault, mutated, readers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=5000, help="number of damaged files, for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    tried: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as originals, tempfile.TemporaryDirectory() as place:
        ways = readers(Path(originals))
        (Path(place) / "model.engine").write_bytes(b"no engine")
        for number in range(options.mutants):
            reader = ways[number % len(ways)]
            seed = options.seed + number
            content = mutated(reader, random.Random(seed))
            tried[reader.name] += 1
            if found := fault(reader, content, Path(place)):
                faults.append({"reader": reader.name, "seed": seed, "fault": found})
                print(f"{reader.name}, seed {seed}: {found}", flush=True)
    document = {
        "mutants": options.mutants,
        "seed": options.seed,
        "seconds": round(time.monotonic() - start, 1),
        "tried": dict(tried),
        "faults": faults,
    }
    print(f"{options.mutants} damaged files, {len(faults)} faults, {document['seconds']} s")
    if options.output:
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
