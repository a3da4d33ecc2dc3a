"""The HTML page of documents that have none of their optional parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cbsurgeon as cbs
from cbsurgeon.checks.cost.counts import Audit, Count, Tally
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.deploy.artifact import Export
from cbsurgeon.errors import InputFileError
from cbsurgeon.evaluation.comparison import Difference
from cbsurgeon.evaluation.result import Evaluation
from cbsurgeon.graph.block import Inspection
from cbsurgeon.report import render_html, render_text
from cbsurgeon.report.document import REQUIRED, kind_of
from cbsurgeon.sweeps import SweepTable
from cbsurgeon.sweeps.measuring import Row as Cell
from tests.report import documents

SIDE = {"name": "model.pth", "backend": "eager", "dtype": "float32", "output": "output"}


def one_model(**more: Any) -> dict[str, Any]:
    """An evaluation of one model, without claim, flips and preprocessing."""
    values = {"a": {"top1": 0.8140}}
    found = Evaluation({"a": SIDE}, "data/val", None, 160, values, intervals={"a": {"top1": None}}, **more)
    return {**found.to_dict(), "titles": {"top1": {"title": "top-1", "share": True}}}


def two_models() -> dict[str, Any]:
    """An evaluation of two models on images without labels: no metrics, no agreement."""
    return Evaluation({"a": SIDE, "b": SIDE}, "data/val", None, 160, {"a": {}, "b": {}}).to_dict()


def robust() -> dict[str, Any]:
    """One model under one corruption with one seed."""
    row = {"words": "noise 1", "seeds": 1, "metrics": {"a": {"top1": 0.5}}, "difference": {}}
    return {**one_model(), "robust": [row]}


def without_interval() -> dict[str, Any]:
    """Two models with a metric whose difference has no interval."""
    values = {"a": {"nll": 1.0}, "b": {"nll": None}}
    difference = {"nll": Difference(None, None, "lower", "none")}
    found = Evaluation(
        {"a": SIDE, "b": SIDE}, "data/val", None, 160, values, difference, titles={"nll": ("NLL", False)}
    )
    return found.to_dict()


def analysis() -> dict[str, Any]:
    """One model without maps, images, pictures and findings."""
    full = documents.analysis()
    empty: dict[str, Any] = {"layers": [], "scales": [], "findings": [], "pictures": [], "remarks": []}
    kept = {name: value for name, value in full.items() if name not in ("candidate", "corrected_for")}
    return {**kept, **empty, "images": 0, "reason": "no attention was found"}


def latency() -> dict[str, Any]:
    """A benchmark without own time, samples, notes and peak memory."""
    return Benchmark(
        a="a.onnx",
        b="b.onnx",
        ratio=1.0,
        ci95=(0.99, 1.01),
        upper95=1.01,
        lower95=0.99,
        verdict="inconclusive",
        sentence="INCONCLUSIVE",
        claim=0.01,
        pairs=3,
        processes=1,
        pairs_needed=None,
        control_ratio=1.0,
        control_ci95=(0.99, 1.01),
        median_seconds=(0.01, 0.01),
        peak_memory=(None, None),
        environment={},
        samples=(),
    ).to_dict()


def verification() -> dict[str, Any]:
    """One row, without bisection, images, noise, cosine and top-1."""
    full = documents.verification(bisected=False)
    row = {**full["rows"][0], "noise": None, "cosine": None, "top1": None}
    return {**full, "rows": [row], "notes": [], "failures": []}


def sparse() -> list[dict[str, Any]]:
    inserted = {"schema": "cbsurgeon.inspect/1", "reference": "m.onnx", "blocks": [], "rejected": [], "inserted": []}
    reading = documents.insertion((0,))
    for name in ("leaks", "trained"):
        reading.pop(name, None)
    shipment = {**documents.shipment(), "left_out": {}, "environment": {}, "weights": None}
    return [
        one_model(),
        two_models(),
        robust(),
        without_interval(),
        analysis(),
        latency(),
        verification(),
        inserted,
        Inspection((), ()).to_dict(),
        {**reading, "layers": None, "blocks": None, "output": None, "dry_run": True},
        {"schema": "cbsurgeon.remove/1", "reference": "m.pth", "removed": [], "output": "plain.pth"},
        Export(Path("m.pt2"), "pt2", None, "float32", 1, "c0ffee", (), ()).to_dict(),
        Audit(Count("m.pth", Tally(), {}, {}, {})).to_dict(),
        SweepTable("m.pth", Path("sweep"), (Cell("baseline", params=1, flops=1, bytes=1),)).to_dict(),
        {**shipment, "documents": [one_model(), reading]},
        {"schema": "cbsurgeon.report/1", "documents": [one_model()]},
        {"schema": "cbsurgeon.error/1", "code": "CB-REF-01", "what": "no such model"},
    ]


SPARSE = sparse()


def test_every_kind_of_document_has_a_sparse_one() -> None:
    assert {f"cbsurgeon.{kind_of(document)}" for document in SPARSE} == set(REQUIRED)


@pytest.mark.parametrize("number", range(len(SPARSE)))
def test_a_document_without_its_optional_parts_makes_a_page_and_a_text(number: int) -> None:
    document = SPARSE[number]
    assert "</html>" in render_html([document])
    assert render_text(document)


def test_the_evaluation_of_one_model_names_it_and_its_metric() -> None:
    page = render_html([one_model()])
    assert "model.pth" in page and "81.40 %" in page and "measured" in page
    assert " against" not in page.split('<section id="accuracy">')[1].split("</section>")[0]


def test_a_document_that_lacks_a_field_is_refused_with_its_name(tmp_path: Path) -> None:
    broken = {name: value for name, value in documents.benchmark().items() if name != "peak_memory"}
    with pytest.raises(InputFileError, match="not a result") as caught:
        cbs.write_report([broken], tmp_path / "page.html")
    assert caught.value.code == "CB-REPORT-02" and "peak_memory" in caught.value.why
