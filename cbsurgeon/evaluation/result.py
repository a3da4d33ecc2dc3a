"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cbsurgeon.errors import CheckFailed
from cbsurgeon.evaluation.comparison import Claim, Difference
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.statistics import Interval
from cbsurgeon.models import Preprocessing
from cbsurgeon.models.files import strict_json

SCHEMA = "cbsurgeon.evaluate/1"
MOST_LISTED = 1000
"""Largest number of images listed whose prediction changed, and of images listed that could not be read; all of them
are counted."""


@dataclass(frozen=True)
class Flip:
    """An image for which the two models predict different classes.

    Attributes:
        index, name: index and name of the image.
        label: its class; ``None`` if the dataset has no labels.
        a, b: the classes predicted by A and B.
        margin: A's output for A's class minus A's output for B's class.
        thumbnail: the image as a ``data:`` URL, for the first few images.
    """

    index: int
    name: str
    label: int | None
    a: int
    b: int
    margin: float | None = None
    thumbnail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        document = {name: getattr(self, name) for name in ("index", "name", "label", "a", "b", "margin")}
        return {**document, "thumbnail": self.thumbnail} if self.thumbnail else document


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on a dataset, or of two models with their differences.

    Its truth value is false if B is worse than claimed (without a claim: worse than A with 95 % confidence), or if
    there is a finding.

    Attributes:
        sides: ``a`` and ``b`` → name, back end, dtype and output.
        data: the dataset.
        task: the task; ``None`` if unknown.
        samples: number of images evaluated.
        metrics: ``a`` or ``b`` → metric → value (``None`` if it is not finite); fractions are from 0 to 1.
        intervals: ``a`` or ``b`` → metric → 95 % confidence interval.
        difference: metric → B minus A with its interval.
        preprocessing: ``a`` or ``b`` → how images were preprocessed; empty for arrays.
        agreement: fraction of images with the same prediction, and its 95 % confidence interval.
        distance: relative L2 difference of the outputs over all images.
        flipped: images with different predictions, at most :data:`MOST_LISTED`.
        flips: number of all images with different predictions.
        claim: the claim and its verdict, if one was made.
        findings: the faults that were found.
        problems: image that could not be read → reason, at most :data:`MOST_LISTED`.
        skipped: number of all images that could not be read.
        notes: conversion (such as ``grey to RGB``) → number of images.
        remarks: facts that the user should know.
        titles: metric → its name in reports, and whether it is a fraction.
        classes: names of the classes, if the dataset has them.
        per_class: class → ``a`` or ``b`` → value of the first metric, if requested.
        robust: one row per requested corruption or attack: description, metrics, and their difference.
        seconds, rate: duration, and images per second while reading and running.
        first: whether this is the first of several processes; only the first one prints the result.
        resumed: number of images that an interrupted run had finished.
        environment: processor, versions.
    """

    sides: Mapping[str, Mapping[str, Any]]
    data: str
    task: str | None
    samples: int
    metrics: Mapping[str, Mapping[str, float | None]]
    difference: Mapping[str, Difference] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Interval | None]] = field(default_factory=dict)
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)
    agreement: tuple[float, Interval] | None = None
    distance: float | None = None
    flipped: tuple[Flip, ...] = ()
    flips: int = 0
    claim: Claim | None = None
    findings: tuple[Finding, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    skipped: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    titles: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    per_class: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)
    robust: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    rate: float = 0.0
    resumed: int = 0
    first: bool = True
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are no findings and the claim is not false (it may be inconclusive)."""
        return not self.findings and (self.claim is None or self.claim.verdict != "false")

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.evaluate/1``."""
        views = {letter: view.to_dict() for letter, view in self.preprocessing.items()}
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "ok": self.ok,
            "sides": {letter: dict(side) for letter, side in self.sides.items()},
            "data": self.data,
            "task": self.task,
            "samples": self.samples,
            "skipped": self.skipped,
            "preprocessing": views.get("a"),
            "metrics": {letter: dict(values) for letter, values in self.metrics.items()},
            "intervals": {
                letter: {name: None if ends is None else list(ends) for name, ends in values.items()}
                for letter, values in self.intervals.items()
            },
            "difference": {name: found.to_dict() for name, found in self.difference.items()},
            "titles": {name: {"title": title, "share": share} for name, (title, share) in self.titles.items()},
            "findings": [finding.to_dict() for finding in self.findings],
            "problems": [{"name": name, "reason": reason} for name, reason in self.problems.items()],
            "notes": dict(self.notes),
            "remarks": list(self.remarks),
            "seconds": self.seconds,
            "images_per_second": self.rate,
            "resumed": self.resumed,
            "environment": dict(self.environment),
        }
        if views.get("b", views.get("a")) != views.get("a"):
            document["preprocessing_b"] = views["b"]
        if self.agreement is not None:
            document["agreement"] = {"value": self.agreement[0], "ci95": list(self.agreement[1])}
            document["distance"] = self.distance
            document["flips"] = self.flips
            document["flipped"] = [flip.to_dict() for flip in self.flipped]
        if self.claim is not None:
            document["claim"] = self.claim.to_dict()
        if self.classes:
            document["classes"] = list(self.classes)
        if self.per_class:
            document["per_class"] = {str(label): dict(values) for label, values in self.per_class.items()}
        if self.robust:
            document["robust"] = [dict(row) for row in self.robust]
        return document

    def to_json(self) -> str:
        """Return the JSON form as text."""
        return strict_json.dumps(self.to_dict())

    def raise_if_failed(self) -> Evaluation:
        """Return the result itself, or raise an error if it is false.

        Raises:
            CheckFailed: there are findings, or the claim is false (``CB-EVAL-06``).
        """
        if self.ok:
            return self
        a, b = (self.sides.get(letter, {}).get("name", "") for letter in ("a", "b"))
        reasons = [finding.text for finding in self.findings]
        if self.claim is not None and self.claim.verdict == "false":
            reasons.append(f"{self.claim.metric} is worse than claimed ({100 * self.claim.limit:g} percentage points)")
        kinds = {finding.kind for finding in self.findings}
        raise CheckFailed(
            "B is worse than A" if kinds <= {"worse"} else "A and B cannot be compared as they are",
            code="CB-EVAL-06",
            where=f"{a} -> {b}" if b else a,
            why="; ".join(reasons),
            do="cbsurgeon verify A B --bisect names the first block that differs; export again from the right model",
        )
