"""Terminal tables: they contain everything that decides a verdict, at any width, with colour codes only on request."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer

import cbsurgeon as cbs
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.report import figures, render_html, render_text
from cbsurgeon.verbs.results import cautions, insertion
from cbsurgeon.vocabulary import inputs_called
from tests.report import documents

ALL = {
    "inspect": documents.inspection(),
    "insert": documents.insertion(),
    "export": documents.export(),
    "verify": documents.verification(),
    "audit": documents.audit(),
    "bench": documents.benchmark(),
    "sweep": documents.sweep(),
    "roofline": documents.audit(shares=True),
    "ship": documents.shipment(),
    "evaluate": documents.evaluation(),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [40, 80, 120])
def test_text_fits_its_width(name: str, width: int) -> None:
    text = render_text(ALL[name], width=width)
    assert text
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text


@pytest.mark.parametrize("name", ALL)
def test_colour_only_when_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in render_text(ALL[name], color=True)


def test_the_chosen_blocks_are_an_explicit_list() -> None:
    assert "6,7,8,9,10,11" in render_text(documents.insertion())


def test_a_dry_run_does_not_claim_to_have_done_it() -> None:
    text = render_text({**documents.insertion(), "dry_run": True, "output": None})
    assert text.startswith("would insert") and "written" not in text


def test_rejected_candidates_only_on_request() -> None:
    assert "no-residual" not in render_text(documents.inspection())
    assert "no-residual" in render_text({**documents.inspection(), "show_rejected": True})


def test_a_failed_check_shows_the_limit_and_a_tolerance_that_would_pass() -> None:
    text = render_text(documents.verification(ok=False))
    assert (
        text.startswith("DIFFERENT")
        and "[x]" in text
        and "3.1e-02" in text
        and "2.1e-05" in text
        and "would pass" in text
    )


def test_uncounted_operators_are_named() -> None:
    assert "aten.frobnicate" in render_text(documents.audit())


def test_an_occupied_block_shows_its_operator() -> None:
    document = documents.inspection(1)
    document["blocks"][0]["sites"]["end"]["occupied"] = "cb"
    row = next(line for line in render_text(document).splitlines() if "cb@end" in line)
    assert "mid, cb@end" in row and "end, cb@end" not in row


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: figures.indices([0, 2, 6, 7, 8, 10, 11]), "0,2,6-8,10,11"),
        (lambda: figures.indices([]), "none"),
        (lambda: figures.counted(1, "block"), "1 block"),
        (lambda: figures.counted(5, "process"), "5 processes"),
        (lambda: figures.profile((1, 8, 64)), "1 to 64, tuned for 8"),
        (lambda: figures.profile((4, 4, 4)), "4 only"),
        (lambda: figures.count(22_050_664), "22.05 M"),
        (lambda: figures.count(4608, signed=True), "+4,608"),
        (lambda: figures.count(-2_300_000, signed=True), "-2.30 M"),
        (lambda: figures.size(96_900_000), "96.9 MB"),
        (lambda: figures.percent(0.0), "+0.00 %"),
        (lambda: figures.percent(0.000_02), "+0.0020 %"),
        (lambda: figures.slowdown(1.0123), "+1.23 %"),
        (lambda: figures.small(None), "not finite"),
    ],
)
def test_numbers_read_well(call: Any, expected: str) -> None:
    assert call() == expected


def test_every_point_of_a_sweep_is_listed_and_the_worst_named() -> None:
    text = render_text(documents.sweep(), width=120)
    for point in ("batch 1, 224 x 224", "batch 8, 224 x 224", "batch 8, 288 x 288"):
        assert point in text
    assert "worst point: batch 8, 288 x 288" in text
    assert "510.0 MB" in text and "512.0 MB" in text


def test_a_roofline_says_where_operators_are_not_negligible() -> None:
    document = documents.audit(shares=True)
    text = " ".join(render_text(document, width=120).split())
    assert "NOT negligible above 1 %" in text
    above = [row["estimate"] for row in document["roofline"]["rows"] if row["estimate"] > 0.01]
    assert (
        f"{len(above)} of {len(document['roofline']['rows'])} estimates, marked !; most {100 * max(above):.1f} %"
        in text
    )
    assert "lower bound / estimate" not in text and "at the peaks / estimate" in text
    assert all(device["name"] in text for device in document["roofline"]["hardware"])
    assert all(meaning in text for meaning in document["roofline"]["forms"].values())
    assert "roofline" not in documents.audit() and "share of latency" not in render_text(documents.audit())


def test_remarks_on_blocks_are_one_line_for_all_alike() -> None:
    """Swin with its feature maps: each stage's stream leaves the model, and its attention runs in windows."""
    timm = pytest.importorskip("timm", reason="the model is timm's")
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 1, 1), features_only=True
    )
    found = inspect(Model(model.eval(), (torch.randn(2, 3, 64, 64),)))
    assert found.attention[0].tokens == 256
    assert found.attention[0].sites["end"].tokens == 4
    text = render_text(found.to_dict(), width=120)
    assert "block      0, 1, 2, 3: its residual stream is also an output" in text
    assert "attention  0: in windows: a mean is over the 4 tokens of a window, not over all 256" in text


def test_a_long_label_is_separated_from_its_text() -> None:
    document = documents.shipment()
    document["left_out"] = {"engine run": "the engine was built", "accuracy": "no --data was given"}
    text = render_text(document)
    assert "not done   engine run: the engine" in text and "not done   accuracy: no --data" in text


@pytest.mark.parametrize("number", [3, 25])
def test_the_metric_of_each_class_is_listed_or_of_the_worst_ten(number: int) -> None:
    document = documents.evaluation()
    document["classes"] = [f"name{label}" for label in range(number)]
    document["per_class"] = {str(label): {"a": label / 100, "b": 0.99} for label in reversed(range(number))}
    text = render_text(document)
    shown = [label for label in range(number) if f"{label} (name{label})" in text.split("of class")[1]]
    assert shown == list(range(min(number, 10) if number > 20 else number))
    assert ("10 worst of 25 classes" in text) == (number == 25)


def test_the_list_of_added_keys_ends_with_dots_only_if_it_is_cut() -> None:
    document = documents.insertion()
    document["keys_added"] = ["a.scale", "b.scale"]
    assert "2 added (a.scale, b.scale)" in render_text(document)
    document["keys_added"].append("c.scale")
    assert "3 added (a.scale, b.scale ...)" in render_text(document)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"op": "cb"}, "mean over axis 1 (6 tokens), 16 channels"),
        ({"op": "cb", "tokens": "1:"}, "mean over axis 1 (tokens 1: of 6), 16 channels"),
        ({"op": "cb", "causal": True}, "running mean, up to each token, over axis 1 (6 tokens), 16 channels"),
        ({"op": "se"}, "mean over axis 1 (6 tokens), 16 channels"),
    ],
)
def test_an_insertion_says_which_tokens_are_averaged(options: dict[str, Any], words: str) -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    model = cbs.Model(torch.nn.TransformerEncoder(layer, 2).eval(), (torch.randn(2, 6, 16),))
    found = cbs.inspect(model)
    recipe = cbs.plan(found, layers="1", **options)
    document = insertion(model, cbs.insert(model, recipe), recipe, blocks=2, output=None)
    assert f"{found.blocks[1].path} {words}" in " ".join(render_text(document).split())
    said = " ".join(cautions(recipe, found))
    assert ("no causal mask or order was found" in said) == bool(options.get("causal"))


def test_a_token_mlp_that_was_chosen_by_its_number_is_named() -> None:
    mixer = MlpMixer(num_blocks=1, img_size=64, embed_dim=64).eval()
    found = cbs.inspect(cbs.Model(mixer, (torch.randn(2, 3, 64, 64),)))
    kinds = [block.kind for block in found.blocks]
    assert kinds == ["token-mlp", "mlp"]
    for layers, named in (("0", True), ("1", False), ("all", False)):
        said = " ".join(cautions(cbs.plan(found, op="cb", layers=layers), found))
        assert ("block 0 is of kind token-mlp" in said) == named


def test_the_parity_line_of_a_shipment_has_the_largest_difference_and_the_notes() -> None:
    """The row that uses most of its tolerance is not the one with the largest difference."""
    document = documents.shipment()
    check = next(part for part in document["documents"] if part["schema"] == "cbsurgeon.verify/1")
    for row, used in zip(check["rows"], (0.41, 0.22, 0.12), strict=True):
        row["used"] = used
    check["notes"] = ["parity does not show whether both models contain the operators"]
    text = " ".join(render_text(document, width=200).split())
    assert (
        "same at batches 1,2,7: max |Δ| 2.2e-06; at most 41 % of the tolerance is used (batch 1, generated inputs)"
        in text
    )
    assert "note parity does not show whether both models contain the operators" in text
    check.update(ok=False)
    check["rows"][1].update(ok=False, reason="an element differs by 3 times its tolerance")
    text = " ".join(render_text(document, width=200).split())
    assert "DIFFERENT at batches 1,2,7" in text
    assert "an element differs by 3 times its tolerance (batch 2, generated inputs)" in text


def test_a_shipment_says_which_models_are_compared() -> None:
    text = " ".join(render_text(documents.shipment(), width=240).split())
    assert "A is timm:deit_small_patch16_224, B is model.onnx" in text
    assert "top-1 81.40 % in model.safetensors (eager), 81.35 % in model.onnx (onnxruntime)" in text
    assert "->" not in text.split("accuracy")[1].split("images")[0]


def test_the_profiler_line_says_that_both_models_are_profiled() -> None:
    text = " ".join(render_text(documents.benchmark(), width=240).split())
    assert "% longer under it. Operator times of A and B are both taken under it" in text
    assert "slows a run" not in text


def test_the_same_reason_for_not_folding_is_printed_once() -> None:
    document = documents.export()
    for number, site in enumerate(document["sites"]):
        site.update(op="cb_s", form="", reason="x has no factor" if number < 5 else "its weights are shared")
    text = " ".join(render_text(document, width=200).split())
    assert text.count("x has no factor") == 1 and "not folded 5 of 6 cb_s: x has no factor" in text
    assert "not folded blocks.11.mlp:end: its weights are shared" in text
    assert "not folded: 5 of 6 cb_s: x has no factor; not folded: blocks.11.mlp:end:" in render_html([document])


def test_the_texts_of_a_comparison_are_about_its_rows() -> None:
    """The tolerance line is about all rows; the reason of failed rows is printed once."""
    document = documents.verification(ok=False)
    kinds = ("generated", "large", "small")
    for row, kind, used in zip(document["rows"], kinds, (1.5, 2.5, 7.5), strict=True):
        row.update(inputs=kind, used=used, ok=False, reason=f"an element differs by {used} times its tolerance")
    document["tolerance"]["reason"] = "4 times the noise against float64 on small inputs"
    document["first_bad_block"] = "blocks.0.ff"
    text = " ".join(render_text(document, width=200).split())
    assert "measured for each kind of inputs: 4 times the noise against float64 on these inputs" in text
    assert "generated: random; large: the same, enlarged; small: a thousandth of them, or zero" in text
    assert text.count("failed ") == 2 and text.count("times its tolerance") == 1
    assert "differs by 7.5 times its tolerance (output, batch 7, small inputs); 2 other rows failed too" in text
    assert "first difference blocks.0.ff" in text and "differs from" not in text


def test_inputs_are_named_in_words() -> None:
    assert [inputs_called(kind) for kind in ("small", "images", "mine.npz")] == [
        "small inputs",
        "the images",
        "the inputs of mine.npz",
    ]


def test_two_models_that_read_images_in_the_same_way_have_one_line() -> None:
    one = cbs.load("timm:vit_tiny_patch16_224").preprocessing.to_dict()
    other = {**one, "size": [96, 96]}
    same, different = figures.preprocessings({"a": one, "b": one}), figures.preprocessings({"a": one, "b": other})
    assert [name for name, _ in same] == ["images"]
    assert [name for name, _ in different] == ["images A", "images B"]
    assert "crop 224x224" in different[0][1] and "crop 96x96" in different[1][1]
