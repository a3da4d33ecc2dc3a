"""Kill a sweep at random moments and continue it: no finished run may be lost or repeated.

    python benchmarks/killed_sweep.py --kills 20

Every continuation starts a new process, which is killed together with its workers after a random time. Before each
continuation, the finished runs are read from the storage. The last continuation is not killed. Afterwards, all finished
runs must still be in the storage with the same values, and none of them may have been started again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cbsurgeon.sweeps.runs import Runs
from cbsurgeon.sweeps.storage import open_study

ROOT = Path(__file__).parents[1]
RUNS = (3 * 2 + 1) * 20
"""Cells of the grid and the baseline, times the seeds."""
TRAIN = """
import json, sys, time
from pathlib import Path
seed, out, log = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
with log.open("a") as file:
    file.write(f"{out.parent.name} {seed}\\n")
time.sleep(0.4)
(out / "metrics.json").write_text(json.dumps({"accuracy": hash((out.parent.name, seed)) % 1000}))
"""
SWEEP = """
import sys, torch
import cbsurgeon as cbs
from cbsurgeon.sweeps import storage
storage.HEARTBEAT, storage.GRACE = 1, 3
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
module = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
model = cbs.Model(module, (torch.randn(2, 5, 8),))
grid = {"op": ("cb", "cb_s", "se"), "layers": ("all", "upper"), "seeds": tuple(range(20))}
cbs.sweep(model, sys.argv[1], run=sys.argv[2], metric="accuracy", retries=100, workers=2, **grid)
"""


def finished(folder: Path) -> dict[tuple[str, int], float]:
    """Return the metric of each complete run in the storage, by cell and seed."""
    if not (folder / "runs.json").exists() and not (folder / "runs.db").exists():
        return {}
    trials = open_study(Runs.read(folder)).get_trials(deepcopy=False)
    return {(one.params["cell"], one.params["seed"]): one.value for one in trials if one.state.name == "COMPLETE"}


def count(log: Path) -> int:
    """Return the number of runs started so far."""
    return len(log.read_text().splitlines()) if log.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=4.0, help="largest number of seconds before a kill")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        (here / "train.py").write_text(TRAIN)
        folder, log = here / "sweep", here / "log"
        run = f"{sys.executable} {here / 'train.py'} {{seed}} {{out}} {log}"
        command = [sys.executable, "-W", "ignore", "-c", SWEEP, str(folder), run]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        known: dict[tuple[str, int], float] = {}
        lost = repeated = kills = 0
        while True:
            left = kills < args.kills
            before = count(log)
            process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
            while left and process.poll() is None and count(log) == before:
                time.sleep(0.05)  # not while libraries are loaded, before the sweep starts
            try:
                process.wait(timeout=chance.uniform(0.0, args.longest) if left else None)
                ended = True
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills, ended = kills + 1, False
            time.sleep(1.0)
            now = finished(folder)
            lost += sum(now.get(key) != value for key, value in known.items())
            started = log.read_text().splitlines()[before:] if log.exists() else []
            repeated += sum(f"{cell} {seed}" in started for cell, seed in known)
            known = now
            print(f"kills {kills}, finished {len(known)} of {RUNS}, lost {lost}, repeated {repeated}", flush=True)
            if ended:
                break
        starts = count(log)
    result = {"kills": kills, "runs": len(known), "starts": starts, "lost": lost, "repeated": repeated}
    print(json.dumps(result))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if lost or repeated or len(known) != RUNS else 0)


if __name__ == "__main__":
    main()
