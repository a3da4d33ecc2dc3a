"""``sweep``: measuring a grid of insertions, and running the user's command for each cell."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cbsurgeon.checks.environment import environment
from cbsurgeon.errors import OutputFileError, UsageError
from cbsurgeon.integrations import ray_cluster
from cbsurgeon.models import Model, save
from cbsurgeon.models.files import strict_json
from cbsurgeon.options import SweepOptions, documented, resolve
from cbsurgeon.report import notebook
from cbsurgeon.surgery import Recipe
from cbsurgeon.sweeps import Row, Runs, SweepTable, cells, measure
from cbsurgeon.sweeps.grid import BASELINE, Cell
from cbsurgeon.sweeps.runs import placeholders
from cbsurgeon.sweeps.storage import file_storage
from cbsurgeon.sweeps.study import spread
from cbsurgeon.sweeps.trials import results
from cbsurgeon.verbs.editing import insert
from cbsurgeon.verbs.results import write_text
from cbsurgeon.vocabulary import Progress

notebook.install(SweepTable)

TABLE, IDENTITY = "sweep.json", "identity.json"

_UNFINISHED_MARK = re.compile(rf"\.{re.escape(IDENTITY)}\.[0-9a-f]+\.tmp\.json")
"""Name of a temporary file that remains if a process is killed while it writes the first file of a sweep."""

CHANGEABLE = ("workers", "retries", "storage", "budget", "on")
"""Options that may change when a sweep is continued; they are not part of its digest."""


@documented(SweepOptions)
def sweep(
    model: Model,
    directory: str | Path,
    how: SweepOptions | None = None,
    /,
    *,
    progress: Progress | None = None,
    **keywords: Any,
) -> SweepTable:
    """Insert every combination of a grid into a model, measure the cost of each, and run a command for each.

    The model is captured once. Finished cells and runs are saved in the folder, so the same call continues an
    interrupted one. Several processes and machines can share one folder and storage.

    Args:
        model: the model to edit; it is not modified.
        directory: folder for the table, the recipes, the edited models and the runs.
        how: the grid and the command; or its fields as keywords.
        progress: called with a message at each step.

    Raises:
        UsageError: the grid or the command is not valid (CB-SWEEP-01, CB-SWEEP-05, CB-SWEEP-08).
        OutputFileError: the folder contains something else (CB-SWEEP-09).
        InputFileError: the storage cannot be used (CB-SWEEP-03, CB-SWEEP-04).
        CaptureError: the model cannot be captured as a whole.
        MissingPackage: Optuna (for a command), Ray (for ``on="ray"``) or ONNX Runtime (for own time) is not installed.
    """
    how = resolve(SweepOptions, how, keywords, "sweep")
    tell = progress or (lambda step: None)
    grid = cells(how)
    _check_command(how)
    folder = Path(directory)
    digest = _digest(model, how)
    _open_folder(folder, digest)
    rows, recipes = _measured(model, folder, grid, how, tell)
    table = SweepTable(model.provenance.reference, folder, tuple(rows), environment=environment())
    if how.run is not None:
        table = _run(model, table, recipes, how, digest, tell)
    write_text(folder / TABLE, strict_json.dumps(table.to_dict()) + "\n", force=True)
    return table


def _check_command(how: SweepOptions) -> None:
    if how.run is None:
        return
    placeholders(how.run)
    if how.metric is None:
        raise UsageError(
            "a command needs the name of its metric",
            code="CB-SWEEP-08",
            where=f"--run {how.run}",
            why="the table compares one number per run",
            do='--metric accuracy, if the command writes {"accuracy": 0.81} to {out}/metrics.json',
        )


def _digest(model: Model, how: SweepOptions) -> str:
    """Return a digest of the model and of all options except :data:`CHANGEABLE`: it identifies the sweep.

    Values of weights are included only as the digest of a file. Without a file, only names, shapes and dtypes are
    included, because a script that continues a sweep may initialise the weights again.
    """
    asked = {name: value for name, value in asdict(how).items() if name not in CHANGEABLE}
    origin = model.provenance
    held = model.module if model.module is not None else model.program
    state = {} if held is None else held.state_dict() if isinstance(held, nn.Module) else held.state_dict
    shapes = [[key, list(tensor.shape), str(tensor.dtype)] for key, tensor in state.items()]
    said = [origin.reference, origin.sha256, origin.architecture, dict(origin.architecture_options), asked, shapes]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _open_folder(folder: Path, digest: str) -> None:
    """Create the folder, or check that it belongs to this sweep.

    Raises:
        OutputFileError: it contains another sweep, or other files (CB-SWEEP-09).
    """
    mark = folder / IDENTITY
    text = json.dumps({"schema": "cbsurgeon.sweep-identity/1", "digest": digest}) + "\n"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True, exist_ok=True)
    # The mark is the first file that a sweep writes. A folder that has other files but no mark is not a sweep.
    foreign = not folder.is_dir() or any(not _UNFINISHED_MARK.fullmatch(entry.name) for entry in folder.iterdir())
    if not mark.is_file() and not foreign:
        _once(mark, lambda: write_text(mark, text))
    if mark.is_file():
        try:
            held = strict_json.load(mark)
        except (OSError, strict_json.NotStrictJSON):
            held = None
        if isinstance(held, dict) and held.get("digest") == digest:
            return
        why = "its model, grid, seeds, command or metric differ from the ones given now"
    else:
        why = "it contains files that were not written by a sweep" if folder.is_dir() else "it is not a folder"
    raise OutputFileError(
        "the folder does not belong to this sweep",
        code="CB-SWEEP-09",
        where=str(folder),
        why=why,
        do="give another folder with -o",
    )


def _once(file: Path, write: Callable[[], object]) -> None:
    """Write a file unless it exists, also if another process that continues the same sweep writes it meanwhile."""
    if file.exists():
        return
    try:
        write()
    except OutputFileError as error:
        if error.code != "CB-OUT-01":
            raise


def _measured(
    model: Model, folder: Path, grid: tuple[Cell, ...], how: SweepOptions, tell: Progress
) -> tuple[list[Row], dict[str, Recipe]]:
    """Measure all cells, or read those measured before; return the rows and the recipes of possible cells."""
    tell("capturing and inspecting the model")
    measured = measure(model, how)
    rows, recipes = [measured.baseline()], dict[str, Recipe]()
    (folder / "cells").mkdir(exist_ok=True)
    try:
        for number, cell in enumerate(grid, 1):
            tell(f"cell {number} of {len(grid)}: {cell.name}")
            kept = folder / "cells" / f"{cell.name}.json"
            row, recipe = measured.read(cell, kept) if kept.is_file() else measured.cell(cell)
            if not kept.is_file():
                document = {"row": row.to_dict(), "recipe": recipe.to_dict() if recipe else None}
                write_text(kept, json.dumps(document, indent=1) + "\n", force=True)
            rows.append(row)
            if recipe is not None:
                recipes[cell.name] = recipe
    finally:
        measured.close()
    return rows, recipes


def _run(
    model: Model, table: SweepTable, recipes: dict[str, Recipe], how: SweepOptions, digest: str, tell: Progress
) -> SweepTable:
    """Run the user's command for every cell and seed; return the table with the results."""
    assert how.run is not None and how.metric is not None
    folder = table.directory
    (folder / "models").mkdir(exist_ok=True)
    models, written = {BASELINE: f"models/{BASELINE}.safetensors"}, {}
    for name in (BASELINE, *recipes):
        models[name], file = f"models/{name}.safetensors", folder / f"models/{name}.safetensors"
        if not file.exists():
            tell(f"writing {file.name}")
            edited = model if name == BASELINE else insert(model, recipes[name], share=True)
            _once(file, partial(save, edited, file))
        if name in recipes:
            written[name] = f"models/{name}.recipe.json"
            write_text(folder / written[name], recipes[name].to_json(), force=True)
    storage = how.storage or file_storage(folder)
    name = f"cbsurgeon-{digest[:16]}" if how.storage else "cbsurgeon"
    runs = Runs(
        name, how.run, how.metric, how.minimize, how.retries, storage, digest, models, written, tuple(how.seeds)
    )
    if how.budget is not None:
        runs = replace(runs, until=time.time() + how.budget)
    runs.write(folder)
    (ray_cluster.spread if how.on == "ray" else spread)(folder, how.workers, tell)
    found = tuple(results(runs))
    left = len(models) * len(how.seeds) - len(found)
    return replace(table, results=found, metric=how.metric, minimize=how.minimize, left=left)
