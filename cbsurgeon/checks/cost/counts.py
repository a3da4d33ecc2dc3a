"""The cost of a model (parameters, arithmetic, memory traffic), and the difference between two models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cbsurgeon.operators.common.cost import FORMS, Traffic

SCHEMA = "cbsurgeon.audit/1"

QUANTITIES = ("params", "flops", "operations", "bytes", "bytes_fused")
"""The counted quantities, in the order they are shown."""

CONVENTIONS = {
    "params": "trainable values, shared ones counted once; for a file, its floating-point weights",
    "flops": "as in the paper (and torchprofile): one multiply-accumulate is one FLOP; an inserted operator "
    "is counted by its formula, N*C for CB",
    "operations": "every addition, multiplication and pointwise function is one operation; a matrix product is two "
    "per multiply-accumulate",
    "bytes": "bytes read and written without fusion (eager PyTorch): every operand and result of every counted "
    "node, weights included",
    "bytes_fused": "an estimate for compiled and exported models: operands and results of products, norms and "
    "reductions; pointwise operators and copies are fused into them; an inserted operator counts in its folded form",
}


@dataclass(frozen=True)
class Tally:
    """The cost of a model or of a part of it.

    Attributes:
        params: number of parameter values.
        flops: multiply-accumulates, as the paper counts them.
        operations: all additions, multiplications and pointwise functions.
        bytes: bytes read plus written without any fusion.
        bytes_fused: bytes read plus written when pointwise operators are fused; an estimate.
    """

    params: int = 0
    flops: int = 0
    operations: int = 0
    bytes: int = 0
    bytes_fused: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in QUANTITIES))

    def __sub__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) - getattr(other, name) for name in QUANTITIES))

    def to_dict(self) -> dict[str, int]:
        """JSON form."""
        return {name: getattr(self, name) for name in QUANTITIES}


@dataclass(frozen=True)
class Inserted:
    """The cost of one inserted operator, by its formula.

    Attributes:
        path: module path of the operator, or of its block.
        op: name of the operator (``cb``, ``cb_s`` ...).
        tokens, channels: size of its input tensor for one image.
        calls: how often it runs in one forward pass.
        tally: its cost over all calls, at the batch of the audit.
        formula: how ``operations`` is computed for one image and one call.
        traffic: memory traffic of one call in each of its forms (eager, compiled, folded ...), slowest first.
    """

    path: str
    op: str
    tokens: int
    channels: int
    calls: int
    tally: Tally
    formula: str
    traffic: tuple[Traffic, ...] = ()

    def in_form(self, form: str) -> Traffic:
        """Return its traffic in a form, or in the next slower form it has."""
        order = list(FORMS)
        slower = [traffic for traffic in self.traffic if order.index(traffic.form) <= order.index(form)]
        return slower[-1] if slower else self.traffic[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "path": self.path,
            "op": self.op,
            "tokens": self.tokens,
            "channels": self.channels,
            "calls": self.calls,
            "formula": self.formula,
            "traffic": [asdict(traffic) for traffic in self.traffic],
            **self.tally.to_dict(),
        }


@dataclass(frozen=True)
class Count:
    """The cost of one model.

    Attributes:
        reference: the model or file.
        total: cost of the whole model.
        by_block: module path of a block → its cost, in graph order.
        by_operator: operator (``linear``, ``layer_norm`` ...; ``cb`` for an inserted one) → its cost.
        calls: operator → number of nodes.
        uncounted: operator without a counting rule → number of nodes. Their cost is missing from every sum.
        free: operator that computes and copies nothing (views, dropout in evaluation ...) → number of nodes.
        inserted: the operators cbsurgeon inserted.
        weight_bytes: bytes of weights read in one forward pass (part of ``total.bytes``).
    """

    reference: str
    total: Tally
    by_block: Mapping[str, Tally] = field(default_factory=dict)
    by_operator: Mapping[str, Tally] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    inserted: tuple[Inserted, ...] = ()
    weight_bytes: int = 0


@dataclass(frozen=True)
class Audit:
    """The cost of A, of B and of further models, and their differences to A.

    Attributes:
        a, b: the counts; ``b`` may be ``None``.
        batch: batch size of the counts.
        dtype: element type of A's floating-point tensors.
        more: counts of further models, each compared with A as well.
    """

    a: Count
    b: Count | None = None
    batch: int = 1
    dtype: str = "float32"
    more: tuple[Count, ...] = ()

    def __bool__(self) -> bool:
        """True when every operator was counted."""
        return not any(count.uncounted for count in self.models)

    @property
    def models(self) -> tuple[Count, ...]:
        """A, B and the further models, in the order they were given."""
        return (self.a, *((self.b,) if self.b else ()), *self.more)

    @property
    def difference(self) -> Tally | None:
        """B minus A; ``None`` if there is no B."""
        return None if self.b is None else self.b.total - self.a.total

    def compared(self, quantity: str) -> dict[str, Any]:
        """Return a quantity's ``a``, ``b``, ``difference``, ``relative`` (difference over A) and ``convention``."""
        values = _side_by_side(self.a.total, self.b.total if self.b else None, quantity)
        return {**values, "convention": CONVENTIONS[quantity]}

    @property
    def bytes_explained(self) -> str:
        """An explanation of the two byte counts and their relation to latency; empty if nothing is inserted."""
        if self.b is None or not self.b.inserted:
            return ""
        unfused, fused = (self.compared(name)["relative"] or 0.0 for name in ("bytes", "bytes_fused"))
        return (
            f"{100 * unfused:+.2f} % as in eager PyTorch (unfused), {100 * fused:+.2f} % as in exported and compiled "
            "models (fused). Bytes are not time: cbsurgeon bench measures the latency, audit --roofline estimates it."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.audit/1``."""
        b = self.b
        return {
            "schema": SCHEMA,
            "a": self.a.reference,
            "b": b.reference if b else None,
            "batch": self.batch,
            "dtype": self.dtype,
            **{quantity: self.compared(quantity) for quantity in QUANTITIES},
            "bytes_explained": self.bytes_explained,
            "models": [self._model(found) for found in self.models],
            "weight_bytes": {"a": self.a.weight_bytes, "b": b.weight_bytes if b else None},
            "by_block": _rows("block", self.a.by_block, b.by_block if b else None),
            "by_operator": [
                {**row, "calls": {"a": self.a.calls.get(name, 0), "b": b.calls.get(name, 0) if b else None}}
                for row in _rows("operator", self.a.by_operator, b.by_operator if b else None)
                for name in [row["operator"]]
            ],
            "inserted": {
                "a": [item.to_dict() for item in self.a.inserted],
                "b": [item.to_dict() for item in b.inserted] if b else None,
            },
            "uncounted": {"a": dict(self.a.uncounted), "b": dict(b.uncounted) if b else None},
            "free": {"a": dict(self.a.free), "b": dict(b.free) if b else None},
        }

    def _model(self, found: Count) -> dict[str, Any]:
        """Return one model's totals and, unless it is A, their difference to A."""
        difference = None if found is self.a else (found.total - self.a.total).to_dict()
        return {
            "reference": found.reference,
            **found.total.to_dict(),
            "difference": difference,
            "uncounted": dict(found.uncounted),
        }

    def __str__(self) -> str:
        if self.more:
            others = [replace(self, b=found, more=()) for found in self.models[1:]]
            return "\n".join(str(pair) for pair in others)
        rows = [f"{self.a.reference}{f' -> {self.b.reference}' if self.b else ''}   (batch {self.batch}, {self.dtype})"]
        rows += [_line(quantity, self.compared(quantity)) for quantity in QUANTITIES]
        for side, count in (("a", self.a), ("b", self.b)):
            if count and count.uncounted:
                listed = ", ".join(f"{name} x{calls}" for name, calls in count.uncounted.items())
                rows.append(f"  not counted in {side}: {listed}")
        return "\n".join(rows)


def _side_by_side(a: Tally, b: Tally | None, quantity: str) -> dict[str, Any]:
    first = getattr(a, quantity)
    if b is None:
        return {"a": first, "b": None, "difference": None, "relative": None}
    second = getattr(b, quantity)
    return {
        "a": first,
        "b": second,
        "difference": second - first,
        "relative": (second - first) / first if first else None,
    }


def _rows(label: str, a: Mapping[str, Tally], b: Mapping[str, Tally] | None) -> list[dict[str, Any]]:
    names: Iterable[str] = dict.fromkeys([*a, *(b or {})])
    return [
        {
            label: name,
            **{
                quantity: _side_by_side(a.get(name, Tally()), None if b is None else b.get(name, Tally()), quantity)
                for quantity in QUANTITIES
            },
        }
        for name in names
    ]


def _line(quantity: str, values: Mapping[str, Any]) -> str:
    row = f"  {quantity:<11} {readable(values['a']):>10}"
    if values["b"] is None:
        return row
    relative = "" if values["relative"] is None else f"  ({100 * values['relative']:+.4f} %)"
    return f"{row}  ->  {readable(values['b']):>10}   {readable(values['difference'], signed=True):>11}{relative}"


def readable(value: int, *, signed: bool = False) -> str:
    """``value`` with three or four digits and a decimal unit (k, M, G, T)."""
    sign = "+" if signed and value >= 0 else ""
    for unit, size, start in (("T", 10**12, 10**12), ("G", 10**9, 10**9), ("M", 10**6, 10**5)):
        if abs(value) >= start:
            return f"{sign}{value / size:.2f} {unit}"
    return f"{sign}{value:,}"
