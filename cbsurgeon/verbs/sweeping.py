"""A grid of insertions into one model, and the user's command in each of its cells."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cbsurgeon.checks.environment import environment
from cbsurgeon.errors import OutputFileError, UsageError
from cbsurgeon.models import Model, save
from cbsurgeon.models.files import strict_json
from cbsurgeon.options import SweepOptions, documented, resolve
from cbsurgeon.surgery import Recipe
from cbsurgeon.sweeps import Row, Runs, SweepTable, cells, measure
from cbsurgeon.sweeps.grid import BASELINE, Cell
from cbsurgeon.sweeps.runs import placeholders
from cbsurgeon.sweeps.study import results, spread
from cbsurgeon.verbs.editing import insert
from cbsurgeon.verbs.results import write_text
from cbsurgeon.version import __version__
from cbsurgeon.vocabulary import Progress

TABLE, IDENTITY = "sweep.json", "identity.json"

APART = ("workers", "retries", "storage", "budget")
"""Fields that say where, how often and how long a sweep runs; with other values it is the same sweep."""


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
    """Insert every combination of a grid into one model, and tell what each costs and what a command makes of it.

    The model is captured once. The folder keeps every finished cell and run, so that the same call goes on where an
    interrupted one stopped; several processes and machines can work on one folder and storage.

    Args:
        model: what to edit; untouched.
        directory: folder for the table, the recipes, the edited models and the runs.
        how: the grid and the command; or its fields as keywords.
        progress: told each step.

    Raises:
        UsageError: a grid or a command that cannot be read (CB-SWEEP-01, CB-SWEEP-05, CB-SWEEP-08).
        OutputFileError: the folder holds something else (CB-SWEEP-09).
        InputFileError: the storage cannot be used (CB-SWEEP-03, CB-SWEEP-04).
        CaptureError: the model cannot be captured whole.
        MissingPackage: Optuna, for a command; ONNX Runtime, for own time.
    """
    how = resolve(SweepOptions, how, keywords, "sweep")
    tell = progress or (lambda step: None)
    grid = cells(how)
    _check_command(how)
    folder = Path(directory)
    digest = _digest(model, how)
    _claim(folder, digest)
    rows, recipes = _measured(model, folder, grid, how, tell)
    table = SweepTable(
        model.provenance.reference, folder, tuple(rows), environment={"cbsurgeon": __version__, **environment()}
    )
    if how.run is not None:
        table = _run(model, table, recipes, how, digest, tell)
    write_text(folder / TABLE, json.dumps(table.to_dict(), indent=2, ensure_ascii=False) + "\n", force=True)
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
            why="the table compares one number of every run",
            do='--metric accuracy, where the command writes {out}/metrics.json such as {"accuracy": 0.81}',
        )


def _digest(model: Model, how: SweepOptions) -> str:
    """What makes two sweeps the same: the model and what is asked for, but not where and how long it runs."""
    asked = {name: value for name, value in asdict(how).items() if name not in APART}
    origin = model.provenance
    said = [origin.reference, origin.sha256, origin.architecture, dict(origin.architecture_options), asked]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _claim(folder: Path, digest: str) -> None:
    """Make the folder, or see that it holds this very sweep.

    Raises:
        OutputFileError: it holds another sweep, or other files (CB-SWEEP-09).
    """
    mark = folder / IDENTITY
    if mark.is_file():
        try:
            held = strict_json.parse(mark.read_bytes())
        except strict_json.NotStrictJSON:
            held = None
        if isinstance(held, dict) and held.get("digest") == digest:
            return
        why = "its model, grid, seeds, command or metric are not the ones given now"
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        why = "it holds files that no sweep wrote"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(mark, json.dumps({"schema": "cbsurgeon.sweep-identity/1", "digest": digest}) + "\n")
        return
    raise OutputFileError(
        "the folder belongs to something else",
        code="CB-SWEEP-09",
        where=str(folder),
        why=why,
        do="name another folder with -o",
    )


def _measured(
    model: Model, folder: Path, grid: tuple[Cell, ...], how: SweepOptions, tell: Progress
) -> tuple[list[Row], dict[str, Recipe]]:
    """The rows of the table and the recipes of the cells that exist; cells measured earlier are read back."""
    tell("capture and inspect the model")
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
    """The table with what the user's command made of every cell."""
    assert how.run is not None and how.metric is not None
    folder = table.directory
    (folder / "models").mkdir(exist_ok=True)
    models, written = {BASELINE: f"models/{BASELINE}.safetensors"}, {}
    for name in (BASELINE, *recipes):
        models[name], file = f"models/{name}.safetensors", folder / f"models/{name}.safetensors"
        if not file.exists():
            tell(f"write {file.name}")
            save(model if name == BASELINE else insert(model, recipes[name], share=True), file)
        if name in recipes:
            written[name] = f"models/{name}.recipe.json"
            write_text(folder / written[name], recipes[name].to_json(), force=True)
    storage = how.storage or f"sqlite:///{(folder / 'runs.db').absolute()}"
    name = f"cbsurgeon-{digest[:16]}" if how.storage else "cbsurgeon"
    runs = Runs(name, how.run, how.metric, how.minimize, how.retries, storage, digest, models, written, how.seeds)
    if how.budget is not None:
        runs = replace(runs, until=time.time() + how.budget)
    runs.write(folder)
    spread(folder, how.workers, tell)
    found = tuple(results(runs))
    left = len(models) * len(how.seeds) - len(found)
    return replace(table, results=found, metric=how.metric, minimize=how.minimize, left=left)
