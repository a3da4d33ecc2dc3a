"""Workers of a sweep on a Ray cluster: the same processes as on one machine, placed by Ray.

Every worker takes cells from the sweep's own storage. Ray only starts the workers, and restarts a worker that was lost.
The folder of the sweep must have the same path on every machine of the cluster.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cbsurgeon.errors import CheckFailed, UsageError, missing
from cbsurgeon.sweeps.runs import Runs
from cbsurgeon.sweeps.storage import open_study, storage_errors
from cbsurgeon.sweeps.study import WAIT, work
from cbsurgeon.sweeps.trials import run_counts
from cbsurgeon.vocabulary import Progress

RESTARTS = 3
"""How often Ray restarts a lost worker. The run of the lost worker is repeated by the next free worker."""


def spread(folder: Path, workers: int, progress: Progress | None = None) -> None:
    """Run cells in several workers on a Ray cluster until none is left.

    The cluster is that of ``RAY_ADDRESS``, else one that runs on this machine, else a new one on this machine for the
    duration of the sweep. A worker uses one CPU and, if the cluster has GPUs, one GPU.

    Raises:
        MissingPackage: Ray is not installed.
        UsageError: the cluster has several machines, and the storage is a file on this machine (CB-SWEEP-10).
        CheckFailed: every worker ended with a fault (CB-SWEEP-06).
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        refuse_a_file(ray, Runs.read(folder))
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        place = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RESTARTS)(_worker)
        _wait(ray, [place.remote(str(folder.absolute())) for _ in range(workers)], folder, progress)
    finally:
        if own:
            ray.shutdown()


def _worker(folder: str) -> None:
    work(Path(folder))


def refuse_a_file(ray: Any, runs: Runs) -> None:
    """Refuse a SQLite file if the cluster has several machines.

    Raises:
        UsageError: the storage is a SQLite file and the cluster has several machines (CB-SWEEP-10).
    """
    machines = len({node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]})
    if machines > 1 and runs.storage.startswith("sqlite"):
        raise UsageError(
            "machines cannot share a SQLite file",
            code="CB-SWEEP-10",
            where=f"a Ray cluster of {machines} machines",
            why="a file in a network folder is not locked reliably, and runs would be lost or repeated",
            do="give a database: --storage postgresql://user@host/name",
        )


def _wait(ray: Any, tasks: list[Any], folder: Path, progress: Progress | None) -> None:
    runs = Runs.read(folder)
    study, failed, pending = open_study(runs), list[str](), list(tasks)
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=WAIT)
        for task in done:
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                failed.append(str(error).strip())
        if progress is not None:
            with storage_errors(runs):
                state = run_counts(study, runs)
            progress(f"runs: {state.done} of {state.total} done, {state.running} running on Ray")
    if len(failed) == len(tasks):
        raise CheckFailed(
            "every worker of the sweep failed",
            code="CB-SWEEP-06",
            where=f"{folder}, on Ray",
            why=failed[0][-300:],
            do="leave --on ray out and give --workers 1 to see the failure here",
        )


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray must not report usage statistics
    try:
        import ray
    except ImportError as error:
        raise missing("ray", "ray", "a sweep on a Ray cluster") from error
    return ray
