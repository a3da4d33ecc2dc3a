"""The HTML report as text: self-contained, escaped, complete."""

from __future__ import annotations

import html
import re
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest

from cbsurgeon.errors import MissingPackage, UsageError
from cbsurgeon.report import render_html, render_text
from cbsurgeon.report.page import SECTIONS
from tests.report import documents

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Tags, ids, references, and whether every element that was opened was closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[str(value)] += 1
            if name in ("href", "src", "xlink:href", "action", "data"):
                self.links.append(str(value))
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def page() -> str:
    return render_html([documents.shipment()])


def test_every_section_is_present_once_and_linked(page: str) -> None:
    found = outline(page)
    assert [name for name in SECTIONS if found.ids[name] == 1] == list(SECTIONS)
    assert {f"#{name}" for name in SECTIONS} <= set(found.links)


def test_the_page_is_self_contained(page: str) -> None:
    found = outline(page)
    assert found.tags["script"] == 0 and found.handlers == []
    inside = ("#", "data:,", "data:image/jpeg;base64,", "data:image/png;base64,")
    outside = [link for link in found.links if not link.startswith(inside)]
    assert outside == []
    assert not re.search(r"@import|url\((?!#|data:image/)", page)


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    """One document has several plots: a plot must not use the clip path of another one."""
    found = outline(page)
    assert [name for name, times in found.ids.items() if times > 1] == []
    references = {link[1:] for link in found.links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert references <= set(found.ids)


def test_plots_take_the_page_colours(page: str) -> None:
    """A colour of matplotlib's own would be invisible on one of the two backgrounds."""
    plots = re.findall(r"<svg[^>]*matplotlib.*?</svg>|<figure><figcaption>.*?</figure>", page, re.DOTALL)
    assert len(plots) >= 5
    assert not [color for plot in plots for color in re.findall(r"#0[1-6]0[1-6]0[1-6]", plot)]
    assert "var(--b)" in page and "var(--ink)" in page


def hostile() -> list[dict[str, object]]:
    inspection = documents.inspection(2, documents.HOSTILE)
    inspection["blocks"][0]["path"] = documents.HOSTILE
    insertion = {**documents.insertion((0,)), "op": documents.HOSTILE, "layers": documents.HOSTILE}
    insertion["recipe"] = {"note": documents.HOSTILE}
    verification = documents.verification()
    verification["sides"][0]["name"] = documents.HOSTILE
    verification["rows"][0]["inputs"] = documents.HOSTILE
    audit = documents.audit()
    audit["a"] = audit["by_operator"][0]["operator"] = audit["inserted"]["b"][0]["path"] = documents.HOSTILE
    bench = {**documents.benchmark(), "b": documents.HOSTILE, "sentence": documents.HOSTILE}
    shipment = {
        **documents.shipment(),
        "title": documents.HOSTILE,
        "environment": {documents.HOSTILE: documents.HOSTILE},
    }
    shipment["files"] = {documents.HOSTILE: {"bytes": 1, "sha256": documents.HOSTILE}}
    shipment["documents"] = [inspection, insertion, documents.export(documents.HOSTILE), verification, audit, bench]
    return [shipment]


def test_names_from_models_and_paths_are_escaped() -> None:
    page = render_html(hostile())
    found = outline(page)
    assert found.tags["script"] == 0
    assert "alert(" in page and "<script" not in page


@pytest.mark.parametrize(
    ("document", "sections"),
    [
        (documents.inspection(), ["network"]),
        (documents.verification(bisected=False), ["parity"]),
        (documents.audit(), ["costs"]),
        (documents.benchmark("inconclusive"), ["latency", "environment"]),
        (documents.export(), ["files", "environment"]),
    ],
)
def test_one_document_alone_makes_a_page(document: dict[str, object], sections: list[str]) -> None:
    found = outline(render_html([document]))
    assert [name for name in SECTIONS if found.ids[name]] == sections


def test_verdicts_are_told_apart() -> None:
    assert "INCONCLUSIVE" in render_html([documents.benchmark("inconclusive")])
    assert "DIFFERENT" in render_html([documents.verification(ok=False)])
    assert "DIFFERENT" not in render_html([documents.verification(ok=True)])


def test_a_difference_that_is_not_finite_is_drawn_as_failed() -> None:
    document = documents.verification(ok=False)
    for name in ("max_abs", "rel_l2", "would_pass_at", "cosine"):
        document["rows"][2][name] = None
    document["max_abs"] = document["would_pass_at"] = None
    assert "not finite" in render_html([document])


def test_more_than_two_models_have_a_table_of_their_own() -> None:
    document = documents.audit()
    assert "All models" not in render_html([document])
    third = {**document["models"][1], "reference": documents.HOSTILE}
    page = render_html([{**document, "models": [*document["models"], third]}])
    assert "All models, with the difference to A" in page
    assert documents.HOSTILE not in page and "C: " in page


def test_an_audit_of_an_older_version_makes_a_page() -> None:
    """Its fields are those of the contract; what was added later is left out."""
    document = documents.audit()
    added = ("bytes_fused", "bytes_explained", "models")
    older = {key: value for key, value in document.items() if key not in added}
    for item in older["inserted"]["b"]:
        del item["bytes_fused"], item["traffic"]
    page = render_html([older])
    assert "bytes moved, unfused" in page and "bytes moved, fused" not in page
    assert "bytes moved, unfused" in render_text(older)


def test_both_byte_counts_are_explained() -> None:
    page = render_html([documents.audit()])
    assert "bytes moved, unfused" in page and "bytes moved, fused" in page
    assert "Bytes are not time" in page


def test_sweeps_and_rooflines_are_tables_of_their_own() -> None:
    page = render_html([documents.sweep(), documents.audit(shares=True)])
    for point in ("batch 1, 224 x 224", "batch 8, 224 x 224", "batch 8, 288 x 288"):
        assert f"<td>{point}</td>" in page
    assert "Share of latency by roofline" in page and "Not negligible: " in page
    assert page.count("H200 SXM</td>") == 2  # a row for each type
    plain = render_html([documents.benchmark(), documents.audit()])
    assert "Share of latency" not in plain and "worst point" not in plain


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing to report"):
        render_html([])


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_an_absent_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=f"(?i){package}") as caught:
        render_html([documents.audit()])
    assert "cbsurgeon[report]" in caught.value.do


def test_changed_attention_is_drawn_and_not_shown_as_an_mlp() -> None:
    inspection = documents.inspection(2)
    branches = [
        {**block, "kind": "attention", "path": f"blocks.{i}.attn"} for i, block in enumerate(inspection["blocks"])
    ]
    inspection["attention"] = branches
    insertion = documents.insertion((1,))
    insertion["sites"][0].update(kind="attention", path="blocks.1.attn")
    page = render_html([inspection, insertion])
    assert "attention of blocks" in page
    changed = re.findall(r'<g class="block chosen".*?<text class="path"[^>]*>([^<]*)', page, re.DOTALL)
    assert changed == ["blocks.1.attn"]
    assert "attention of blocks" not in render_html([inspection, documents.insertion((1,))])


def test_the_head_lists_origin_and_omitted_steps() -> None:
    shipment = documents.shipment()
    head = html.unescape(render_html([shipment]).split("</header>")[0])
    for text in (
        shipment["command"],
        "2026-11-30T09:00:00+00:00",
        "a processor, 2 cores",
        "deit.pth, architecture timm:deit_small_patch16_224 (sha256 beefbeef",
        "as shipped, sha256 f00df00d",
        "no TensorRT builder is installed",
        "at most 0.5 % slower with 95 % confidence",
        "bytes moved, unfused +",
        "Train or fine-tune",
    ):
        assert text in head
    assert "How it was made" not in render_html([documents.audit()])  # nothing to say is not said


def test_own_time_is_drawn_and_the_graph_difference_listed() -> None:
    page = html.unescape(render_html([documents.benchmark()]))
    assert "0.43 % of a run of B (95 % interval 0.41 to 0.45 %)" in page
    assert 'id="plot-sites"' in page and "blocks.11.mlp" in page
    assert "only inserted operators are added" in page
    assert "5 Add float[1,197,384] float[1,1,384] (88 µs) instead of 5 Add float[1,197,384] float[384] (95 µs)" in page
    without = {**documents.benchmark(), "share": None, "graph": None, "own_time": None, "own_missing": "no profiler"}
    assert "not measured, no profiler" in render_html([without])


def test_benchmarks_of_an_older_version_are_shown() -> None:
    old = {**documents.benchmark(), "outcome": "within", "verdict": "at most 0.4 % slower"}
    for new in ("sentence", "share", "graph", "own_time", "own_missing", "pairs_agree"):
        del old[new]
    assert "at most 0.4 % slower" in render_html([old])
