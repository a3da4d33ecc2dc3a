"""``analyze``: figures over a dataset, the paired difference of two models, the scales of CB_S, and clear errors."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

import cbsurgeon as cbs
from cbsurgeon.analysis.comparison import compared
from cbsurgeon.analysis.picturing import panel, spaced
from cbsurgeon.analysis.statistics.reducing import NAMES
from tests.attention import small

EXACT = 1e-5
"""Relative; float32 sums of a few numbers in another order."""

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def model(make: Any) -> cbs.Model:
    module, inputs = make()
    return cbs.Model(module, inputs)


def entropies(maps: Tensor) -> Tensor:
    return -(maps.double() * maps.double().log()).sum(-1)


def test_layers_hold_the_figures_of_the_network_s_own_maps() -> None:
    found = cbs.analyze(model(small.vit), data=IMAGES, batch=4)
    module, _ = small.vit()
    with torch.no_grad():
        module(IMAGES)
    assert found.images == 6
    assert [layer.attention.path for layer in found.layers] == ["blocks.0.0", "blocks.1.0"]
    for layer, block in zip(found.layers, module.blocks, strict=True):
        rows = entropies(block[0].map)
        squares = block[0].map.double().square().sum(-1)
        assert layer.entropy.mean == pytest.approx(rows.mean().item(), rel=EXACT)
        assert layer.entropy.by_head == pytest.approx(rows.mean((0, 2)).tolist(), rel=EXACT)
        assert layer.entropy.bound == math.log(17)
        for got, share in ((layer.entropy.p15, 0.15), (layer.entropy.p85, 0.85)):
            assert got == pytest.approx(numpy.quantile(rows.numpy(), share), abs=0.02)
        assert layer.class_entropy == pytest.approx(rows[:, :, 0].mean().item(), rel=EXACT)
        assert layer.nuclear_norm == pytest.approx((1 - squares).mean().item() / 8**0.5, rel=EXACT)
        assert layer.scale == pytest.approx(8**-0.5) and layer.scale_read
        assert layer.images["entropy"] == pytest.approx(rows.mean((1, 2)).tolist(), rel=EXACT)


def test_figures_do_not_depend_on_the_batch_size_or_on_how_the_data_are_given() -> None:
    wanted = cbs.analyze(model(small.vit), data=IMAGES, batch=6)
    for data, batch in (
        (IMAGES, 1),
        ({"x": IMAGES}, 4),
        ([IMAGES[:2], IMAGES[2:]], 32),
        ([(IMAGES[:5], torch.zeros(5)), (IMAGES[5:], torch.zeros(1))], 32),
    ):
        found = cbs.analyze(model(small.vit), data=data, batch=batch)
        for got, want in zip(found.layers, wanted.layers, strict=True):
            assert got.entropy.mean == pytest.approx(want.entropy.mean, rel=EXACT)
            assert got.images["weighted_distance"] == pytest.approx(want.images["weighted_distance"], rel=EXACT)


def test_the_json_document_has_what_programs_read(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "images.npz", x=IMAGES.numpy())
    found = cbs.analyze(small.vit()[0], data=IMAGES)
    document = json.loads(found.to_json())
    assert document["schema"] == "cbsurgeon.analyze/1"
    assert document["images"] == 6
    assert document["scales"] == []
    layer = document["layers"][0]
    assert {"path", "kind", "heads", "queries", "keys"} <= set(layer)
    assert (layer["kind"], layer["heads"], layer["queries"], layer["keys"]) == ("self", 2, 17, 17)
    assert {"mean", "p15", "p85", "bound"} <= set(layer["entropy"])
    assert {"class_entropy", "distance", "weighted_distance", "nuclear_norm"} <= set(layer)
    again = cbs.analyze(model(small.vit), data=tmp_path / "images.npz")
    assert again.layers[0].entropy.mean == pytest.approx(found.layers[0].entropy.mean, rel=EXACT)


def test_two_models_are_compared_image_by_image() -> None:
    found = cbs.analyze(model(small.vit), model(small.uniform), data=IMAGES)
    assert found.b is not None
    assert found.b.layers[1].entropy.mean == pytest.approx(math.log(17), rel=EXACT)
    shift = next(one for one in found.shifts if (one.layer, one.quantity) == (1, "entropy"))
    gaps = math.log(17) - numpy.asarray(found.layers[1].images["entropy"])
    assert shift.value == pytest.approx(gaps.mean(), rel=EXACT)
    half = 2.5706 * gaps.std(ddof=1) / math.sqrt(6)  # Student's 97.5 % quantile for five degrees of freedom
    assert shift.ci95 == pytest.approx((gaps.mean() - half, gaps.mean() + half), rel=1e-3)
    first = next(one for one in found.shifts if (one.layer, one.quantity) == (0, "entropy"))
    assert first.value == 0.0  # the first layers are the same
    (sentence,) = [one for one in found.findings if one.startswith("the entropy of layer")]
    # Two layers have three runs, of one or both of them; each of five quantities has those.
    assert found.runs == found.to_dict()["corrected_for"] == 15
    half = 5.24742 * gaps.std(ddof=1) / math.sqrt(6)  # Student's quantile at 1 - 0.05 / 15 / 2, from scipy
    ends = f"95 % interval {gaps.mean() - half:.3g} to {gaps.mean() + half:.3g}"
    assert sentence == f"the entropy of layer 1 is {gaps.mean():.3g} nats higher in B, {ends}"


def test_findings_about_nothing_are_rare() -> None:
    """Of 100 comparisons of 12 layers of noise, one in twenty may say anything; uncorrected, nearly half would."""
    draws = numpy.random.default_rng(0).standard_normal((100, 2, 12, 24))
    layer = cbs.analyze(model(small.vit), data=IMAGES).layers[0]

    def layers(rows: Any) -> list[Any]:
        return [
            replace(layer, attention=replace(layer.attention, index=place), images={name: tuple(row) for name in NAMES})
            for place, row in enumerate(rows)
        ]

    said = [compared(layers(a), layers(b)) for a, b in draws]
    assert sum(bool(findings) for _, findings, _ in said) <= 5
    alone = [any(s.ci95 is not None and s.ci95[0] * s.ci95[1] > 0 for s in shifts) for shifts, _, _ in said]
    assert sum(alone) > 30


def test_a_model_against_itself_has_no_finding() -> None:
    found = cbs.analyze(model(small.vit), model(small.vit), data=IMAGES)
    assert not found.findings
    assert all(shift.value == 0 for shift in found.shifts)


def with_scales(make: Any, *values: float) -> cbs.Model:
    """CB_S with given scales, the rest of the channels 0.5."""
    before = model(make)
    edited = cbs.insert(before, cbs.plan(cbs.inspect(before), op="cb_s", layers="all"))
    for part in edited.module.modules():
        if isinstance(part, cbs.CBS):
            part.scale.data.fill_(values[0])
            part.scale.data[: len(values)] = torch.tensor(values)
    return edited


def test_a_mixer_gives_the_scales_of_cb_s_and_the_reason_why_there_is_no_map() -> None:
    values = [0.1 * (-1) ** i * (i + 1) for i in range(16)]
    found = cbs.analyze(with_scales(small.mixer, *values), data=IMAGES)
    assert found.layers == () and found.images == 0
    assert "it has no attention" in found.a.reason
    low, high = numpy.quantile(numpy.abs(values), [0.1, 0.9])
    for scale in found.scales:
        assert scale.ratio == pytest.approx(low / high, rel=EXACT)
        assert scale.mean == pytest.approx(numpy.mean(values), rel=EXACT)
        assert scale.mean_abs == pytest.approx(numpy.mean(numpy.abs(values)), rel=EXACT)
    assert len(found.scales) == 2


def test_the_ratio_of_scales_that_are_all_zero_is_not_defined() -> None:
    found = cbs.analyze(with_scales(small.vit, 0.0), data=IMAGES)
    assert [scale.ratio for scale in found.scales] == [None, None]
    assert "not defined" in cbs_text(found)


def cbs_text(found: cbs.Analysis) -> str:
    from cbsurgeon.report import render_text

    return render_text(found.to_dict())


@pytest.mark.parametrize(
    ("code", "make", "options"),
    [
        ("CB-ANALYZE-01", small.vit, {"data": torch.randn(2, 1, 32, 32)}),
        ("CB-ANALYZE-02", small.vit, {}),
        ("CB-ANALYZE-03", small.vit, {"data": 7}),
        ("CB-ANALYZE-04", small.mixer, {"data": IMAGES}),
        ("CB-ANALYZE-08", small.asking, {"data": IMAGES}),
        ("CB-ANALYZE-05", small.vit, {"data": []}),
        ("CB-ANALYZE-06", small.vit, {"data": IMAGES, "query": "17"}),
        ("CB-DATA-03", small.vit, {"data": "no-such-folder"}),
    ],
)
def test_bad_input_is_named(code: str, make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(cbs.CBSurgeonError) as caught:
        cbs.analyze(model(make), **options)
    assert caught.value.code == code


def test_a_panel_keeps_the_largest_weights_that_hold_the_mass() -> None:
    weights = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])
    shown = panel(weights, 0.6)
    assert (shown > 0).tolist() == [False, True, False, True, False]
    assert shown.max() == 1
    assert torch.count_nonzero(panel(weights, 1.0)) == 4  # the smallest is 0 by the stretching


def test_pictures_hold_the_class_token_s_rows_of_both_models() -> None:
    found = cbs.analyze(model(small.vit), model(small.uniform), data=IMAGES, pictures=2, mass=1.0)
    assert [picture.name for picture in found.pictures] == ["[0]", "[1]"]
    picture = found.pictures[1]
    assert (picture.layer, picture.query, picture.grid) == ("blocks.1.0", "class", (4, 4))
    module, _ = small.vit()
    with torch.no_grad():
        module(IMAGES)
    row = module.blocks[1][0].map[1, 0, 0, 1:]
    expected = (row - row.min()) / (row.max() - row.min())
    assert picture.panels["a"][0] == pytest.approx(expected.tolist(), abs=1e-4)
    assert picture.pixels.startswith("data:image/jpeg")


@pytest.mark.parametrize("limit", [None, 6])
@pytest.mark.parametrize("batch", [2, 16])
def test_pictures_are_evenly_spaced_in_a_sorted_folder(batch: int, limit: int | None, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = numpy.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "b" / "0.png").write_bytes(b"broken")
    reading = {"size": (32, 32), "crop": 1.0, "mean": "imagenet", "std": "imagenet", "interpolation": "bilinear"}
    found = cbs.analyze(model(small.vit), data=tmp_path, pictures=3, batch=batch, limit=limit, **reading)
    second = "b/1.png" if limit is None else "b/2.png"  # the first that can be read
    assert [picture.name for picture in found.pictures] == ["a/0.png", second, "c/0.png"]


def test_processes_choose_the_pictures_that_one_would() -> None:
    indices, least = list(range(40)), [0, 13, 26]
    alone = [indices[place] for place in spaced(indices, least)]
    shares = [[index for index in indices if index // 4 % 2 == rank] for rank in range(2)]
    kept = sorted(share[place] for share in shares for place in spaced(share, least))
    assert [kept[place] for place in spaced(kept, least)] == alone == [0, 13, 26]


@pytest.mark.parametrize("name", ["curves.png", "curves.svg", "pictures.png"])
def test_plots_are_written_whole(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are drawn with it")
    found = cbs.analyze(model(small.vit), model(small.uniform), data=IMAGES, pictures=1)
    path = found.plot(tmp_path / name, name.split(".")[0])
    assert path.stat().st_size > 5000
    with pytest.raises(cbs.CBSurgeonError, match="exists"):
        found.plot(tmp_path / name)
    with pytest.raises(cbs.CBSurgeonError) as caught:
        found.plot(tmp_path / "curves.pdf")
    assert caught.value.code == "CB-ANALYZE-07"
    assert "<svg" in found._repr_html_() and "higher" in found._repr_html_()


FILE = Path(small.__file__)


def run(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*start, "cbsurgeon", "analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


@pytest.mark.wide
def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "images.npz", x=torch.randn(7, 3, 32, 32).numpy())
    how = (f"mod:{FILE}:vit", f"mod:{FILE}:uniform", "--data", str(tmp_path / "images.npz"), "--batch", "2", "--json")
    alone, shared = (run(*how, "--trust", processes=count) for count in (1, 2))
    assert alone.returncode == shared.returncode == 0, alone.stderr + shared.stderr
    one, two = json.loads(alone.stdout), json.loads(shared.stdout)
    for document in (one, two):
        for changing in ("seconds", "environment", "command"):
            document.pop(changing)
    assert one == two
    assert one["images"] == 7


def test_the_command_writes_the_report_and_names_bad_options(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "images.npz", x=IMAGES.numpy())
    how = (f"mod:{FILE}:vit", "--trust", "--data", str(tmp_path / "images.npz"))
    done = run(*how, "-o", str(tmp_path / "analysis.json"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "analysis.json").read_text())["images"] == 6
    assert "2 attentions, 6 images" in done.stdout
    wrong = run(*how, "-o", str(tmp_path / "analysis.pdf"))
    assert wrong.returncode == 2 and "CB-ANALYZE-07" in wrong.stderr
