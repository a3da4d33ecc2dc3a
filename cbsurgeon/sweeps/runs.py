"""What the runs of a sweep are made of, and what came out of one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.files import atomic, strict_json

PLAN = "runs.json"
"""File of a sweep's folder that says what its workers run."""


@dataclass(frozen=True)
class Runs:
    """What the workers of a sweep run.

    Attributes:
        name: of the study.
        command: with the placeholders ``{model}``, ``{recipe}``, ``{seed}`` and ``{out}``.
        metric: the number to read from ``{out}/metrics.json``.
        minimize: whether the smallest is the best.
        retries: how often a failed or lost run is repeated.
        storage: Optuna's URL.
        digest: of everything that makes two sweeps the same; kept in the study.
        models: cell → file of its edited model, relative to the folder.
        recipes: cell → its recipe, relative to the folder; absent for the baseline.
        seeds: every cell runs with each.
        until: no run starts after this time, in seconds since 1970.
    """

    name: str
    command: str
    metric: str
    minimize: bool
    retries: int
    storage: str
    digest: str
    models: Mapping[str, str]
    recipes: Mapping[str, str]
    seeds: tuple[int, ...]
    until: float | None = None

    def write(self, folder: Path) -> None:
        """Put it where workers read it."""
        with atomic.output(folder / PLAN, force=True) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def words(self, folder: Path, cell: str, seed: int, out: Path) -> list[str]:
        """The command of one run, its placeholders filled in."""
        recipe = self.recipes.get(cell)
        values = {
            "model": folder / self.models[cell],
            "recipe": folder / recipe if recipe else "",
            "seed": seed,
            "out": out,
        }
        return [word.format(**values) for word in shlex.split(self.command)]

    @classmethod
    def read(cls, folder: Path) -> Runs:
        """What the workers of a folder run.

        Raises:
            InputFileError: the folder holds no sweep with runs (CB-SWEEP-02).
        """
        try:
            document = strict_json.parse((folder / PLAN).read_bytes())
            return cls(**{**document, "seeds": tuple(document["seeds"])})
        except (OSError, TypeError, KeyError, strict_json.NotStrictJSON) as error:
            raise InputFileError(
                "the folder holds no sweep with runs",
                code="CB-SWEEP-02",
                where=str(folder / PLAN),
                why=str(error)[:200],
                do="cbsurgeon sweep REF --run COMMAND --metric NAME -o DIR writes one",
            ) from error


@dataclass(frozen=True)
class Result:
    """One finished run: its cell, its seed and what came out.

    Attributes:
        cell, seed: which run.
        value: the metric; ``None`` where the run failed for good.
        attempts: how often it was started.
        why: why it failed.
    """

    cell: str
    seed: int
    value: float | None
    attempts: int
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def placeholders(command: str) -> None:
    """Refuse a command whose placeholders are unknown, or that cannot be split into words.

    Raises:
        UsageError: it is one (CB-SWEEP-05).
    """
    known = {"model": "", "recipe": "", "seed": "", "out": ""}
    try:
        [word.format(**known) for word in shlex.split(command)]
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(
            "the command of the sweep cannot be read",
            code="CB-SWEEP-05",
            where=f"--run {command}",
            why=f"{error} is no placeholder" if isinstance(error, KeyError) else str(error),
            do="use {model}, {recipe}, {seed} and {out}; write {{ and }} for braces of your own",
        ) from error
