"""Saving finished units of an evaluation in the user's state folder, so that it can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cbsurgeon.data import Data, Problem
from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.records.table import Table
from cbsurgeon.evaluation.side import Side
from cbsurgeon.models.files import atomic
from cbsurgeon.options import EvaluateOptions

EVERY = 5.0
"""Seconds between two files. A process that is killed loses at most the work of this time. One that is interrupted
writes what is finished."""
_SCHEMA = "cbsurgeon.evaluate-state/1"


@dataclass
class Progress:
    """Finished units and their records.

    Attributes:
        units: numbers of the units.
        table: the records of their images.
        problems, notes: unreadable samples and conversions in these units.
        findings: findings for the first batch; ``None`` if it is not in these units.
    """

    units: list[int] = field(default_factory=list)
    table: Table = field(default_factory=Table)
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] | None = None

    def add(self, other: Progress) -> None:
        """Add the units of another instance."""
        self.units += other.units
        self.table.extend(other.table)
        self.problems += other.problems
        self.notes.update(other.notes)
        self.findings = other.findings if self.findings is None else self.findings


class State:
    """The saved files of one evaluation; a different model, dataset or option has its own folder.

    Args:
        folder: the folder of the files; it need not exist.
        rank: rank of this process, used in file names.

    Attributes:
        usable: whether the folder could be written so far.
        images: number of images whose records are saved, as far as this process knows.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self._rank = folder, rank
        self._saved, self._count, self.usable, self.images = time.monotonic(), 0, True, 0

    def read(self) -> Progress:
        """Return all saved units, from all processes."""
        from safetensors import SafetensorError

        found = Progress()
        for path in sorted(self.folder.glob("part-*.safetensors")) if self.folder.is_dir() else ():
            with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
                # The units of a damaged file, or one of another version, are evaluated again.
                part = _read(path)
                if not set(part.units) & set(found.units):
                    found.add(part)
        return found

    def clear(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def due(self) -> bool:
        """Return whether it is time to write another file."""
        return self.usable and time.monotonic() - self._saved >= EVERY

    def write(self, part: Progress) -> None:
        """Save the units finished since the last file; if the folder is not writable, nothing can be resumed."""
        self._saved, self._count = time.monotonic(), self._count + 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = f"part-{self._rank}-{os.getpid()}-{self._count}.safetensors"
            with atomic.output(self.folder / name) as staged:
                _write(staged, part)
            self.images += len(part.table)
        except (OSError, CBSurgeonError):
            self.usable = False

    def summary(self) -> str:
        """Return what is saved, as text for an interruption."""
        if self.images:
            return f"{self.images:,} images are saved; the same command with --resume continues"
        return "no image is saved" + ("" if self.usable else f", because {self.folder} cannot be written")


def state_of(sides: Sequence[Side], opened: Data, how: EvaluateOptions) -> State:
    """Return the state of this evaluation, in ``$XDG_STATE_HOME/cbsurgeon/evaluate``."""
    document = {
        "sides": [[side.name, side.runtime.backend, side.fingerprint()] for side in sides],
        "views": [asdict(view) for view in opened.views],
        "data": [opened.source.spec, opened.source.fingerprint(), opened.batch, opened.strict],
        "how": [how.task, list(how.metrics), how.output, str(how.classes), list(how.robust), how.seeds],
    }
    key = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # a user without a home folder: nothing can be written, and nothing resumed
        home = Path(os.devnull)
    return State(home / "cbsurgeon" / "evaluate" / key, opened.share[0])


def _write(path: Path, part: Progress) -> None:
    from safetensors.torch import save_file

    indices, names, columns = part.table.ordered()
    document = {
        "schema": _SCHEMA,
        "units": part.units,
        "names": names,
        "problems": [[problem.name, problem.reason] for problem in part.problems],
        "notes": dict(part.notes),
        "findings": None if part.findings is None else [finding.to_dict() for finding in part.findings],
    }
    tensors = {f"column/{name}": column.contiguous() for name, column in columns.items()}
    save_file({"indices": indices, **tensors}, path, metadata={"cbsurgeon": json.dumps(document)})


def _read(path: Path) -> Progress:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        document: dict[str, Any] = json.loads((file.metadata() or {})["cbsurgeon"])
        if document["schema"] != _SCHEMA:
            raise ValueError(document["schema"])
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = Progress([int(unit) for unit in document["units"]])
    columns = {name.removeprefix("column/"): tensor for name, tensor in tensors.items() if name != "indices"}
    if document["names"]:
        found.table.add(tensors["indices"], document["names"], columns)
    found.problems = [Problem(name, reason) for name, reason in document["problems"]]
    found.notes = Counter(document["notes"])
    if document["findings"] is not None:
        found.findings = [Finding(**finding) for finding in document["findings"]]
    return found
