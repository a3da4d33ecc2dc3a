"""Results in notebooks: the tables as HTML, every text escaped, and the example notebook as it runs."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import cbsurgeon as cbs
from cbsurgeon.checks import Sweep
from cbsurgeon.report import notebook, render_text
from cbsurgeon.sweeps import SweepTable
from tests.cli.running import tiny_vit
from tests.report import documents
from tests.report.documents import HOSTILE

NOTEBOOK = Path(__file__).parents[2] / "examples" / "08_notebook.ipynb"
TAGS = {"div", "table", "thead", "tbody", "tr", "th", "td"}
SHOWN = (cbs.Model, cbs.Inspection, cbs.Recipe, cbs.Export, cbs.Verification, cbs.Benchmark, cbs.Audit)
LARGEST = 100_000
"""Bytes of the notebook with its outputs."""


class Reader(HTMLParser):
    """Tags, attributes and texts; every tag must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def everywhere(value: Any) -> Any:
    """A document whose texts are hostile, except the words that the tables look up."""
    if isinstance(value, dict):
        return {key: item if key in KEPT else everywhere(item) for key, item in value.items()}
    if isinstance(value, list):
        return [everywhere(item) for item in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


KEPT = ("schema", "verdict", "position", "format", "kind", "role", "tone", "metric", "status")


class Result:
    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def to_dict(self) -> dict[str, Any]:
        return self.document


@pytest.mark.parametrize(
    "make", ["inspection", "export", "verification", "audit", "benchmark", "analysis", "evaluation", "sweep"]
)
def test_no_text_of_a_result_becomes_markup(make: str) -> None:
    plain = getattr(documents, make)()
    expected = Reader(notebook._method(notebook._result)(Result(plain)))
    hostile = Reader(notebook._method(notebook._result)(Result(everywhere(plain))))
    for read in (expected, hostile):
        assert read.tags <= TAGS and read.names <= {"style"}
    assert HOSTILE in hostile.text or make in ("audit", "benchmark")  # these show numbers only


@pytest.mark.parametrize(
    ("verb", "kinds"),
    [
        ("load", (cbs.Model,)),
        ("inspect", (cbs.Inspection,)),
        ("plan", (cbs.Recipe,)),
        ("export", (cbs.Export,)),
        ("verify", (cbs.Verification,)),
        ("bench", (cbs.Benchmark, Sweep)),
        ("audit", (cbs.Audit,)),
        ("analyze", (cbs.Analysis,)),
        ("evaluate", (cbs.Evaluation,)),
        ("sweep", (SweepTable,)),
        ("ship", (cbs.Shipment,)),
    ],
)
def test_the_results_of_a_verb_have_a_form_for_notebooks(verb: str, kinds: tuple[type, ...]) -> None:
    getattr(cbs, verb)  # importing a verb adds the form to its results
    assert all(callable(getattr(kind, notebook.METHOD)) for kind in kinds)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (cbs.Evaluation, "evaluation"),
        (cbs.Analysis, "analysis"),
        (cbs.Shipment, "shipment"),
        (SweepTable, "sweep"),
    ],
)
def test_print_shows_what_the_command_line_shows(kind: type, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = getattr(documents, make)()
    result = object.__new__(kind)
    monkeypatch.setattr(kind, "to_dict", lambda self: document)
    printed = str(result)
    assert printed == render_text(document).rstrip("\n") and len(printed.splitlines()) > 2
    assert Reader(result._repr_html_()).text


def test_a_session_shows_what_it_did() -> None:
    module, inputs = tiny_vit()
    model = cbs.Model(module, inputs)
    found = cbs.inspect(model)
    recipe = cbs.plan(found, layers="all")
    edited = cbs.insert(model, recipe)
    shown = [Reader(one._repr_html_()).text for one in (model, found, recipe, edited, cbs.audit(model, edited))]
    assert f"{sum(one.numel() for one in module.parameters()):,} parameters" in shown[0]
    assert all(block.path in shown[1] for block in found.blocks)
    assert all(site.path in shown[2] and str(site.channels) in shown[2] for site in recipe.sites)
    assert "cb at the end of 2 blocks" in shown[3]
    assert "x".join(map(str, inputs[0].shape)) in shown[0]


def test_the_example_is_executed_and_small() -> None:
    nbformat = pytest.importorskip("nbformat", reason="notebooks are read by it")
    assert NOTEBOOK.stat().st_size < LARGEST
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    cells = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        (output,) = cell.outputs
        assert output.output_type == "execute_result"
        assert Reader(output.data["text/html"]).text.strip()


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="notebooks are read by it")
    client = pytest.importorskip("nbclient", reason="notebooks are run by it")
    found = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(found, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "same" in Reader(found.cells[-1].outputs[-1].data["text/html"]).text
    assert (tmp_path / "deit-cb.onnx").exists()
