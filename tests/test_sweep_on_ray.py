"""A sweep whose workers are placed on a Ray cluster of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cbsurgeon as cbs
from tests.test_sweep import ROOT, SCRIPT, command, encoder, started

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cbsurgeon[ray]'")


HOW = {"op": ("cb", "se"), "layers": ("all",), "seeds": (0, 1), "metric": "accuracy"}


def test_two_workers_on_ray_give_the_table_of_one_process(tmp_path: Path) -> None:
    run = command(tmp_path, SCRIPT, "0.2")
    on_ray = cbs.sweep(encoder(), tmp_path / "ray", run=run, workers=2, on="ray", **HOW)
    assert len(started(tmp_path)) == len(set(started(tmp_path))) == 6
    (tmp_path / "log").unlink()
    here = cbs.sweep(encoder(), tmp_path / "here", run=run, **HOW)
    assert on_ray.to_dict()["rows"] == here.to_dict()["rows"]
    assert on_ray.to_dict()["runs"] == here.to_dict()["runs"]


def test_a_killed_worker_repeats_only_its_run(tmp_path: Path) -> None:
    """The script leaves the id of the Ray worker above it, which is killed in the middle of the second run."""
    script = "import os\n" + SCRIPT.replace(
        'with log.open("a")', '(out / "worker").write_text(str(os.getppid()))\nwith log.open("a")'
    )
    run = command(tmp_path, script, "1.5")
    code = f"""
import cbsurgeon as cbs
from tests.test_sweep import encoder
cbs.sweep(encoder(), {str(tmp_path / "s")!r}, run={run!r}, workers=2, on="ray", **{HOW!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    while not (tmp_path / "log").exists() or len(started(tmp_path)) < 3:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    time.sleep(0.3)
    last = (tmp_path / "log").read_text().splitlines()[-1].split()
    worker = int((tmp_path / "s" / "runs" / last[0] / f"seed-{last[1]}" / "worker").read_text())
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said.decode()
    runs = json.loads((tmp_path / "s" / "sweep.json").read_text())["runs"]
    assert len(runs) == 6 and all(one["value"] is not None for one in runs)
    again = [line for line in set(started(tmp_path)) if started(tmp_path).count(line) > 1]
    assert again == [" ".join(last)], "the run of the killed worker, and no other"
