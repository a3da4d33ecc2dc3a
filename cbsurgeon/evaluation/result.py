"""What an evaluation found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cbsurgeon.errors import CheckFailed
from cbsurgeon.evaluation.comparison import Claim, Difference
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.statistics import Interval
from cbsurgeon.models import Preprocessing

SCHEMA = "cbsurgeon.evaluate/1"
MOST_LISTED = 1000
"""Images listed at most, of those that flipped and of those that could not be read; all are counted."""


@dataclass(frozen=True)
class Flip:
    """An image that the two models put into different classes.

    Attributes:
        index, name: which image it is.
        label: its class; ``None`` where the dataset has no labels.
        a, b: the classes that A and B say.
        margin: by how much A's output for its own class is above that for B's.
        thumbnail: the image as a ``data:`` address, for the first few.
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
    """Metrics of one model on a dataset, or of two with their difference.

    It is true unless something is wrong: B is worse than claimed (without a claim: worse than A with 95 % confidence),
    or a finding says that the two are not run alike.

    Attributes:
        sides: ``a`` and ``b`` → name, back end, dtype and output.
        data: the dataset.
        task: what the models do; ``None`` where nothing tells.
        samples: images that were counted.
        metrics: side → metric → value (``None`` where it is not finite), shares from 0 to 1.
        intervals: side → metric → 95 % interval.
        difference: metric → B minus A with its interval.
        preprocessing: side → how its images were preprocessed; empty for arrays.
        agreement: share of images for which both say the same, and its 95 % interval.
        distance: relative L2 difference of the outputs over all images.
        flipped: images that the two put into different classes, at most :data:`MOST_LISTED`; ``flips`` counts all.
        claim: the claim and its verdict, where one was made.
        findings: what is wrong.
        problems: images that could not be read → why, at most :data:`MOST_LISTED`; ``skipped`` counts all.
        notes: what was done to images beside the preprocessing → number of images.
        remarks: facts a user should see.
        titles: metric → its name for people, and whether it is a share.
        classes: names of the classes, where the dataset has them.
        per_class: class → side → value of the first metric, where it was asked for.
        robust: a row for each corruption or attack that was asked for: what is done, metrics, and their difference.
        seconds, rate: time, and images a second while reading and running.
        first: this process is the first of those that share the dataset, which shows the result.
        resumed: images that an interrupted run had finished.
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
        """Nothing is wrong; an open claim is not."""
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
        """The JSON form as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def raise_if_failed(self) -> Evaluation:
        """Return itself, or raise.

        Raises:
            CheckFailed: it is false (``CB-EVAL-06``).
        """
        if self.ok:
            return self
        a, b = (self.sides.get(letter, {}).get("name", "") for letter in ("a", "b"))
        reasons = [finding.text for finding in self.findings]
        if self.claim is not None and self.claim.verdict == "false":
            reasons.append(f"{self.claim.metric} is worse than claimed ({100 * self.claim.limit:g} percentage points)")
        kinds = {finding.kind for finding in self.findings}
        raise CheckFailed(
            "B is not as good as A" if kinds <= {"worse"} else "A and B are not evaluated alike",
            code="CB-EVAL-06",
            where=f"{a} -> {b}" if b else a,
            why="; ".join(reasons),
            do="cbsurgeon verify A B --bisect names the first block that differs; export again from the right model",
        )
