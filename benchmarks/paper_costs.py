"""Recount the paper's cost figures, and print them next to the paper's.

    python benchmarks/paper_costs.py                 all models: a table, and results/paper_costs.json
    python benchmarks/paper_costs.py --only ViT-S    the figures of one row
    python benchmarks/paper_costs.py -o FILE         path of the JSON file

Each model is built by timm with random weights and captured once. The operators are inserted into the captured program,
so that the deployed form is counted. FLOPs are counted as in the paper: multiply-accumulates, as torchprofile counts
them. A figure agrees if it rounds to the digits that the paper prints. Otherwise the reason is printed; a difference
without a known reason makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path, and its files would hide packages of the same name.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from cbsurgeon.graph.capture import capture  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "paper_costs.json"
SCHEMA = "cbsurgeon.paper-costs/1"

SE_REDUCTION = 16
"""Reduction ratio of SE. The paper cites SE [26] without a ratio; 16 is the default of the SE paper."""

MODELS = {
    "ViT-Ti": "deit_tiny_patch16_224",
    "ViT-S": "deit_small_patch16_224",
    "ViT-B": "deit_base_patch16_224",
    "ViT-Ti distilled": "deit_tiny_distilled_patch16_224",
    "ViT-S distilled": "deit_small_distilled_patch16_224",
    "ViT-B distilled": "deit_base_distilled_patch16_224",
    "PiT-B": "pit_b_224",
    "Mixer-S/16": "mixer_s16_224",
}

TABLES: dict[str, dict[str, tuple[str | None, str | None]]] = {
    "Table 1": {"ViT-S": ("22", None)},
    "Table 4": {"ViT-S": (None, "4.6")},
    "Table 5": {"ViT-Ti": ("5.7", "1.3"), "ViT-S": ("22.0", "4.6"), "ViT-B": ("86.6", "17.6")},
    "Table 11": {"PiT-B": ("73.8", "12.4"), "Mixer-S/16": ("18.5", "3.8")},
    "Table S12": {
        "ViT-Ti distilled": ("5.9", "1.3"),
        "ViT-S distilled": ("22.4", "4.6"),
        "ViT-B distilled": ("87.3", "17.6"),
    },
    "Tables S16, S17": {"ViT-S": (None, "1260")},
}
"""Parameters [M] and FLOPs [G] as printed in the paper ([M] in S16 and S17). Table 2 has accuracies only."""

WITH_SCALES = ("Table 1", "Table 5", "Table S12")
"""Tables that have rows with CB_S."""

INCREMENTS: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {
    "Table S16": {
        ("cb", "end"): ("+0.9", "+0.9", "+1.8"),
        ("cb_gate", "end"): ("+0.9", "+0.9", "+1.8"),
        ("cb_hybrid", "end"): ("+1.8", "+1.8", "+3.6"),
    },
    "Table S17": {
        (op, pos): (printed,)
        for op, row in {
            "cb": ("+0.9", "+3.6", "+0.9"),
            "cb_gate": ("+0.9", "+3.6", "+0.9"),
            "cb_hybrid": ("+1.8", "+7.3", "+1.8"),
        }.items()
        for pos, printed in zip(("front", "mid", "end"), row, strict=True)
    },
}
"""FLOPs [M] an operator adds to ViT-S in all 12 layers; in S16 at the MLP, at the MSA, at both."""

PLACES = ("mlp", "msa", "both")

CUT = "the paper cuts 22.05 off where rounding gives 22.1"
REASONS = {
    ("Table 5", "ViT-S", "params"): CUT,
    ("Table 5", "ViT-S + CB", "params"): CUT,
    ("Table 5", "ViT-S + CB_S", "params"): CUT,
    ("Tables S16, S17", "ViT-S", "flops"): (
        "a slip of the paper: 1260 M is its ViT-Ti (1.3 G); Tables 4 and 5 give ViT-S as 4.6 G"
    ),
    ("Table S12", "ViT-B distilled", "flops"): "198 tokens; the paper repeats the 17.6 G of ViT-B with 197",
}
"""Why a figure may differ. ``+ CB`` and ``+ CB_S`` rows share the reason of their base row."""


@dataclass(frozen=True)
class Figure:
    """One figure of the paper, and the recounted figure.

    Attributes:
        table, row, quantity: position of the figure in the paper.
        printed: the figure as printed in the paper; ``None`` if the paper has none.
        value: the recounted figure, in ``unit``.
        unit: ``M``, ``G`` or ``%``.
        exact: the recounted figure with all digits.
        reason: the reason of a difference, if it is known.
    """

    table: str
    row: str
    quantity: str
    printed: str | None
    value: float
    unit: str
    exact: int | float
    reason: str = ""

    @property
    def ours(self) -> str:
        """The recounted value with as many digits as in the paper (three significant digits if the paper has none)."""
        if self.printed is None:
            return f"{self.value:.3g}"
        digits = len(self.printed.partition(".")[2])
        return f"{self.value:+.{digits}f}" if self.printed.startswith("+") else f"{self.value:.{digits}f}"

    @property
    def verdict(self) -> str:
        """``agree``, ``differs because ...``, ``DIFFERS``, or ``the paper gives none``."""
        if self.printed is None:
            return "the paper gives none"
        if self.ours == self.printed:
            return "agree"
        return f"differs because {self.reason}" if self.reason else "DIFFERS"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "table": self.table,
            "row": self.row,
            "quantity": self.quantity,
            "paper": self.printed,
            "ours": self.ours,
            "exact": self.exact,
            "unit": self.unit,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Subject:
    """A captured model, its inspection, and its count."""

    name: str
    base: Any
    found: Any
    counted: Any

    @classmethod
    def build(cls, name: str) -> Subject:
        """Build with timm, capture, find blocks, count."""
        from cbsurgeon import checks, graph, models

        built = models.load(f"timm:{MODELS[name]}")
        program = capture(built, check=False)
        base = models.Model(None, provenance=built.provenance, program=program.exported)
        return cls(name, base, graph.inspect(base), checks.count(base))

    def added(self, op: str, pos: str = "end", at: str = "mlp") -> Any:
        """Return the additional cost of an operator in all layers, a :class:`cbsurgeon.checks.cost.counts.Tally`."""
        from cbsurgeon import checks, surgery

        recipe = surgery.plan(self.found, op=op, layers="all", pos=pos, at=at)
        return checks.count(surgery.insert_program(self.base, recipe)).total - self.counted.total

    def sites(self, pos: str, at: str = "mlp") -> list[tuple[int, int]]:
        """Tokens and channels of every site."""
        from cbsurgeon import surgery

        recipe = surgery.plan(self.found, op="cb", layers="all", pos=pos, at=at)
        return [(site.tokens, site.channels) for site in recipe.sites]


def gate_flops(tokens: int, channels: int) -> int:
    """CB_gate multiplies every value once (appendix B.7): N*C."""
    return tokens * channels


def hybrid_flops(tokens: int, channels: int) -> int:
    """CB_hybrid multiplies every value with the class token and scales it in CB (appendix B.7): 2*N*C."""
    return 2 * tokens * channels


CLOSED_FORMS: dict[str, Callable[[int, int], int]] = {"cb_gate": gate_flops, "cb_hybrid": hybrid_flops}


def se_cost(tokens: int, channels: int, reduction: int = SE_REDUCTION) -> tuple[int, int]:
    """Parameters and FLOPs of SE [26] on one tensor of tokens.

    Mean over the tokens (C, as torchprofile counts a mean), a layer C → C/r, ReLU, a layer C/r → C, sigmoid, and the
    multiplication of every value by its channel's gate (N*C). Both layers have biases, as in common implementations.
    """
    hidden = channels // reduction
    return 2 * channels * hidden + hidden + channels, 2 * channels * hidden + channels + tokens * channels


def figures(only: str | None = None, progress: Callable[[str], None] = lambda message: None) -> list[Figure]:
    """All figures, or those of one row."""
    made = []
    for name in MODELS:
        if only in (None, name):
            progress(f"{name}: {MODELS[name]}")
            subject = Subject.build(name)
            made += [*_totals(subject), *(_details(subject) if name == "ViT-S" else ())]
    order = [*TABLES, *INCREMENTS, "Table 3", "section 3.2"]
    return sorted(made, key=lambda figure: order.index(figure.table))


def _totals(subject: Subject) -> Iterator[Figure]:
    """Return parameters and FLOPs of the model, with CB and with CB_S in all layers, for every table that has it."""
    name, total = subject.name, subject.counted.total
    rows = {name: total, f"{name} + CB": total + subject.added("cb"), f"{name} + CB_S": total + subject.added("cb_s")}
    for table, printed in TABLES.items():
        if name not in printed:
            continue
        params, flops = printed[name]
        slip = table.startswith("Tables S16")
        for row, tally in rows.items():
            if (row.endswith("CB_S") and table not in WITH_SCALES) or (slip and row != name):
                continue
            if params:
                yield _figure(table, row, name, "params", params, tally.params, "M")
            if flops:
                yield _figure(table, row, name, "flops", flops, tally.flops, "M" if slip else "G")


def _figure(table: str, row: str, base: str, quantity: str, printed: str, exact: int, unit: str) -> Figure:
    reason = REASONS.get((table, row, quantity)) or REASONS.get((table, base, quantity), "")
    return Figure(table, row, quantity, printed, exact / {"M": 1e6, "G": 1e9}[unit], unit, exact, reason)


def _details(subject: Subject) -> Iterator[Figure]:
    """Return the figures that the paper has for ViT-S only: Tables 3, S16, S17 and the 0.02 % of CB_S."""
    for table, rows in INCREMENTS.items():
        for (op, pos), printed in rows.items():
            for at, text in zip(PLACES, printed, strict=False):
                exact = _increment(subject, op, pos, at)
                row = f"ViT-S + {op} at {at}, {pos}"
                yield Figure(table, row, "flops", text, exact / 1e6, "M", exact)
    scales = subject.added("cb_s").params
    share = 100 * scales / subject.counted.total.params
    yield Figure("section 3.2", f"ViT-S + CB_S: {scales:,} parameters", "params", "0.02", share, "%", share)
    squeeze = [se_cost(*site) for site in subject.sites("end")]
    params, flops = (sum(column) for column in zip(*squeeze, strict=True))
    yield Figure("Table 3", "ViT-S + CB", "params", None, 0.0, "M", 0)
    yield Figure("Table 3", f"ViT-S + SE, reduction {SE_REDUCTION}", "params", None, params / 1e6, "M", params)
    broadcast = subject.added("cb").flops
    yield Figure("Table 3", "ViT-S + CB", "flops", None, broadcast / 1e6, "M", broadcast)
    yield Figure("Table 3", f"ViT-S + SE, reduction {SE_REDUCTION}", "flops", None, flops / 1e6, "M", flops)


def _increment(subject: Subject, op: str, pos: str, at: str) -> int:
    """Count on the edited program if the operator is built in, otherwise by its formula."""
    from cbsurgeon import operators

    if op in operators.names():
        return int(subject.added(op, pos, at).flops)
    return sum(CLOSED_FORMS[op](*site) for site in subject.sites(pos, at))


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write the JSON; return 1 if a figure differs without a known reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MODELS, help="the figures of one row")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="path of the JSON file")
    options = parser.parse_args(arguments)
    made = figures(options.only, lambda message: print(message, file=sys.stderr))
    for figure in made:
        paper = figure.printed or "-"
        print(
            f"{figure.table:<16} {figure.row:<34} {figure.quantity:<7} paper {paper:>6} {figure.unit:<2} "
            f"ours {figure.ours:>7} {figure.unit:<2} {figure.verdict}"
        )
    wrong = [figure for figure in made if figure.verdict == "DIFFERS"]
    print(f"{len(made)} figures, {len(wrong)} differ without a known reason")
    if options.only is None:
        _write(options.output, made)
    return 1 if wrong else 0


def _write(path: Path, made: list[Figure]) -> None:
    from cbsurgeon.checks.environment import packages

    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": SCHEMA, "packages": packages(), "figures": [figure.to_dict() for figure in made]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
