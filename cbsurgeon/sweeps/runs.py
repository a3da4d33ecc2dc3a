"""The runs of a sweep's command: their description for workers, and the result of one run."""

from __future__ import annotations

import json
import shlex
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.files import atomic, strict_json

PLACEHOLDERS = ("model", "recipe", "seed", "out")
"""What the braces of a command may name."""

PLAN = "runs.json"
"""The file in a sweep's folder that describes its runs for the workers."""


@dataclass(frozen=True)
class Runs:
    """The description of a sweep's runs.

    Attributes:
        name: name of the study.
        command: the user's command with the placeholders ``{model}``, ``{recipe}``, ``{seed}`` and ``{out}``.
        metric: name of the number to read from ``{out}/metrics.json``.
        minimize: whether a smaller metric is better.
        retries: how often a failed or lost run is repeated.
        storage: URL of Optuna's storage.
        digest: digest of everything that identifies the sweep; stored in the study.
        models: cell → file of its edited model, relative to the folder.
        recipes: cell → file of its recipe, relative to the folder; the baseline has none.
        seeds: the seeds; every cell runs once per seed.
        until: time, in seconds since 1970, after which no run starts; ``None`` for no limit.
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

    @property
    def grid(self) -> list[tuple[str, int]]:
        """The cell and seed of every run in the order in which they start: all cells with the first seed, and so on."""
        return [(cell, seed) for seed in self.seeds for cell in self.models]

    def write(self, folder: Path) -> None:
        """Write the description into the folder, for the workers."""
        with atomic.output(folder / PLAN, force=True) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def words(self, folder: Path, cell: str, seed: int, out: Path) -> list[str]:
        """Return the command of one run as words, with its placeholders filled in."""
        recipe = self.recipes.get(cell)
        values = {
            "model": str(folder / self.models[cell]),
            "recipe": str(folder / recipe) if recipe else "",
            "seed": str(seed),
            "out": str(out),
        }
        return [word.format(**values) for word in shlex.split(self.command)]

    @classmethod
    def read(cls, folder: Path) -> Runs:
        """Read the description from a sweep's folder.

        Raises:
            InputFileError: the folder does not contain a sweep with runs (CB-SWEEP-02).
        """
        try:
            document = strict_json.load(folder / PLAN)
            wrong = [name for name, kind in _KINDS.items() if type(document[name]) is not kind]
            if wrong:
                raise TypeError(f"{wrong[0]} has another type")
            return cls(**{**document, "seeds": tuple(document["seeds"])})
        except (OSError, TypeError, KeyError, strict_json.NotStrictJSON) as error:
            raise InputFileError(
                "the folder does not contain a sweep with runs",
                code="CB-SWEEP-02",
                where=str(folder / PLAN),
                why=str(error)[:200],
                do="create one with cbsurgeon sweep REF --run COMMAND --metric NAME -o DIR",
            ) from error


_KINDS = {
    **dict.fromkeys(("name", "command", "metric", "storage", "digest"), str),
    "minimize": bool,
    "retries": int,
    "models": dict,
    "recipes": dict,
    "seeds": list,
}
"""Type of each field in the file."""


@dataclass(frozen=True)
class Result:
    """The result of one run.

    Attributes:
        cell, seed: the cell and seed of the run.
        value: the metric; ``None`` if all attempts failed.
        attempts: number of attempts.
        why: why it failed; empty if it did not.
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
    """Check the words and placeholders of a command.

    Raises:
        UsageError: it has no words, an unknown placeholder, or cannot be split into words (CB-SWEEP-05).
    """
    try:
        words = shlex.split(command)
        fields = [field for word in words for field in string.Formatter().parse(word) if field[1] is not None]
    except ValueError as error:
        raise _not_a_command(command, str(error)) from error
    if not words or "\0" in command:
        raise _not_a_command(command, "it has a null character" if words else "it is empty")
    for _, name, form, conversion in fields:
        if name not in PLACEHOLDERS or form or conversion:
            given = f"{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
            raise _not_a_command(command, f"{given!r} is not a placeholder")


def _not_a_command(command: str, why: str) -> UsageError:
    return UsageError(
        "the command of the sweep cannot be read",
        code="CB-SWEEP-05",
        where=f"--run {command}",
        why=why,
        do="use {model}, {recipe}, {seed} and {out}; write {{ and }} for literal braces",
    )
