"""The table of all error codes: which areas there are, and the explanation of each code."""

from __future__ import annotations

import importlib
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from cbsurgeon.errors.classes import CBSurgeonError, UsageError
from cbsurgeon.errors.entry import Entry
from cbsurgeon.errors.similar import nearest

SCHEMA = "cbsurgeon.explain/1"
SPELLINGS = re.compile(r"(?:CB-)?([A-Z]+)-(\d{1,2})")


@dataclass(frozen=True)
class Area:
    """A group of codes.

    Attributes:
        title: what the group is about.
        file: module of ``cbsurgeon.errors.codes`` that explains its codes.
    """

    title: str
    file: str


AREAS = {
    "CLI": Area("the command line", "command"),
    "OPTION": Area("keywords of the Python functions", "command"),
    "EXPLAIN": Area("cbsurgeon explain", "command"),
    "MISSING": Area("optional packages", "command"),
    "INTERNAL": Area("faults in cbsurgeon", "command"),
    "REF": Area("naming a model", "references"),
    "HF": Area("folders of transformers", "references"),
    "INPUT": Area("example inputs", "references"),
    "TRUST": Area("code that a file names", "references"),
    "LOAD": Area("reading a model file", "files"),
    "FIT": Area("weights and their architecture", "files"),
    "META": Area("metadata of a checkpoint", "files"),
    "WEIGHTS": Area("pretrained and random weights", "files"),
    "ST": Area("safetensors files", "archives"),
    "ZIP": Area("zip archives of torch.save", "archives"),
    "OUT": Area("output files and folders", "outputs"),
    "SAVE": Area("saving a model", "outputs"),
    "CAPTURE": Area("capturing a model's graph", "graph"),
    "LOCATE": Area("finding the requested blocks", "graph"),
    "SELECT": Area("choosing blocks (--layers, --exclude)", "graph"),
    "LEAK": Area("causal models and padding", "graph"),
    "PLAN": Area("the choice of an insertion", "surgery"),
    "OP": Area("operators", "surgery"),
    "SWEEP": Area("sweeps over a grid of insertions", "checking"),
    "RECIPE": Area("recipes", "surgery"),
    "INSERT": Area("inserting", "surgery"),
    "SURGERY": Area("changing a model", "surgery"),
    "REMOVE": Area("removing", "surgery"),
    "EXPORT": Area("exporting", "deploy"),
    "ONNX": Area("ONNX files", "deploy"),
    "ENGINE": Area("TensorRT engines", "deploy"),
    "RUN": Area("running a model in a back end", "deploy"),
    "DATA": Area("datasets and preprocessing", "data"),
    "VERIFY": Area("comparing outputs", "checking"),
    "BISECT": Area("finding the first block that differs", "checking"),
    "AUDIT": Area("counting parameters, FLOPs and bytes", "checking"),
    "COST": Area("the comparison with fvcore", "checking"),
    "BENCH": Area("measuring latency", "checking"),
    "ANALYZE": Area("the analysis of attention", "data"),
    "EVAL": Area("evaluating on data", "data"),
    "REPORT": Area("reports", "checking"),
}
"""Every area, in the order a user meets them. ``NAME`` in ``CB-NAME-01`` is the key."""


@dataclass(frozen=True)
class Explanation:
    """What an error code means.

    Attributes:
        code: the code, such as ``CB-LEAK-01``.
        area: title of the group it belongs to.
        title: one line.
        means: what happened.
        causes: usual causes, most frequent first.
        do: what to try, in this order.
    """

    code: str
    area: str
    title: str
    means: str
    causes: tuple[str, ...]
    do: tuple[str, ...]

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 100) -> str:
        """The explanation as lines of at most ``width`` columns."""
        rows = [f"{self.code}  {self.title}", *_paragraph("means", self.means, width)]
        for label, lines in (("causes", self.causes), ("do", self.do)):
            for number, text in enumerate(lines):
                rows += _paragraph(label if number == 0 else "", text, width, bullet="- ")
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.explain/1``."""
        return {
            "schema": SCHEMA,
            "code": self.code,
            "area": self.area,
            "title": self.title,
            "means": self.means,
            "causes": list(self.causes),
            "do": list(self.do),
        }


def explain(code: str | CBSurgeonError) -> Explanation:
    """Return what an error code means, its usual causes and what to do.

    Args:
        code: a code such as ``CB-LEAK-01``, in upper or lower case; brackets, the leading ``CB-`` and the zero may be
            left out or given. Or an error.

    Raises:
        UsageError: there is no such code (CB-EXPLAIN-01; the nearest code is named).
    """
    given = code.code if isinstance(code, CBSurgeonError) else str(code)
    match = SPELLINGS.fullmatch(given.strip().strip("[]").upper())
    area, number = match.groups() if match is not None else ("", "")
    wanted = f"CB-{area}-{number:0>2}"
    entry = _entries(AREAS[area].file).get(wanted) if area in AREAS else None
    if entry is None:
        raise _unknown(given)
    return Explanation(wanted, AREAS[area].title, *entry)


def explanations() -> dict[str, Explanation]:
    """Return every code and its explanation, in the order of :data:`AREAS`, then by number."""
    found: dict[str, Entry] = {}
    for file in dict.fromkeys(area.file for area in AREAS.values()):
        found.update(_entries(file))
    order = list(AREAS)
    ranked = sorted(found, key=lambda code: (order.index(code.split("-")[1]), code))
    return {code: Explanation(code, AREAS[code.split("-")[1]].title, *found[code]) for code in ranked}


def _entries(file: str) -> dict[str, Entry]:
    """The codes of one file. It is imported only when needed, so that a command starts quickly."""
    entries: dict[str, Entry] = importlib.import_module(f"cbsurgeon.errors.codes.{file}").CODES
    return entries


def _unknown(given: str) -> UsageError:
    near = nearest(given, explanations(), 1)
    return UsageError(
        f"there is no error code {given!r}",
        code="CB-EXPLAIN-01",
        where="cbsurgeon explain",
        why="a code reads CB-AREA-NN, such as CB-LEAK-01",
        do=f"cbsurgeon explain {near[0]}" if near else "list all codes: cbsurgeon explain",
    )


def _paragraph(label: str, text: str, width: int, bullet: str = "") -> list[str]:
    lead, rest = f"  {label:<7} {bullet}", " " * (10 + len(bullet))
    return textwrap.wrap(text, width, initial_indent=lead, subsequent_indent=rest, break_long_words=False) or [lead]
