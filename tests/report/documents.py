"""Result documents for the tests of the report, made from the real result classes with invented numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from cbsurgeon.checks.cost.counts import Audit, Count, Inserted, Tally
from cbsurgeon.checks.cost.roofline import roofline
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.sampling import Process
from cbsurgeon.checks.latency.share.result import GraphDifference, Interval, Operators, OwnTime, Share, SiteTime
from cbsurgeon.checks.parity.located import Bisection, BlockGap
from cbsurgeon.checks.parity.result import Verification
from cbsurgeon.checks.parity.row import Row, Side, Tolerance
from cbsurgeon.deploy.artifact import Export, FoldedSite, Port
from cbsurgeon.evaluation.comparison import Claim, Difference
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.result import Evaluation, Flip
from cbsurgeon.graph.block import Block, Hook, Inspection, Rejected, Site, Use
from cbsurgeon.graph.reasons import Reason
from cbsurgeon.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, cropped
from cbsurgeon.operators import CB
from cbsurgeon.sweeps import SweepTable
from cbsurgeon.sweeps.measuring import Row as Cell
from cbsurgeon.sweeps.runs import Result

HOSTILE = "<script>alert('x')</script>&\"]]>"
"""Stands in names that come from a model or a path; a page that shows it raw would run it."""


def block(index: int, path: str, stack: str = "blocks") -> Block:
    sites = {
        position: Site(position, (1,), 2, (0,), 197, width, (Use(f"node_{index}"),), (Hook(f"{path}.fc2", "output"),))
        for position, width in (("front", 384), ("mid", 1536), ("end", 384))
    }
    return Block(index, stack, "mlp", path, (f"{path}.fc1",), (f"{path}.fc2",), (1,), 197, 384, 1536, True, 1, sites)


def inspection(depth: int = 12, stack: str = "blocks") -> dict[str, Any]:
    blocks = tuple(block(i, f"blocks.{i}.mlp", stack) for i in range(depth))
    rejected = (
        Rejected(Reason.NO_RESIDUAL, f"the result of head is added to nothing {HOSTILE}", ("linear_49",), "head", 2),
        Rejected(Reason.ONE_TOKEN, "the stream holds one token; a mean over it is the identity", ("add_7",), "", 1),
    )
    return Inspection(blocks, rejected, reference="timm:deit_small_patch16_224", fingerprint="ab12" * 8).to_dict()


def insertion(chosen: tuple[int, ...] = (6, 7, 8, 9, 10, 11)) -> dict[str, Any]:
    sites = [
        {
            "index": index,
            "stack": "blocks",
            "kind": "mlp",
            "path": f"blocks.{index}.mlp",
            "position": "end",
            "channels": 384,
            "tokens": 197,
            "token_axes": [1],
            "channel_axis": 2,
            "batch_axes": [0],
            "enabled": True,
        }
        for index in chosen
    ]
    return {
        "schema": "cbsurgeon.insert/1",
        "reference": "timm:deit_small_patch16_224",
        "op": "cb",
        "formula": "(x + mean x) / 2",
        "position": "end",
        "layers": "upper",
        "chosen": list(chosen),
        "blocks": 12,
        "sites": sites,
        "keys_added": [],
        "dry_run": False,
        "output": "model.safetensors",
        "identity_at_start": False,
        "recipe": {"schema": "cbsurgeon.recipe/1", "op": "cb", "layers": "upper", "sites": sites},
    }


def export(name: str = "model.onnx") -> dict[str, Any]:
    dims: tuple[int | str, ...] = ("batch", 3, 224, 224)
    return Export(
        path=Path(name),
        format="onnx",
        opset=20,
        dtype="float32",
        bytes=88_345_678,
        sha256="c0ffee" * 10 + "abcd",
        inputs=(Port("x", "float32", dims),),
        outputs=(Port("output", "float32", ("batch", 1000)),),
        sites=tuple(FoldedSite(f"blocks.{i}.mlp:end", "cb", "last-projection") for i in range(6, 12)),
        versions={"onnx": "1.23.2", "torch": "2.15.0"},
        seconds={"capture": 2.5, "export": 3.0},
    ).to_dict()


def verification(ok: bool = True, bisected: bool = True) -> dict[str, Any]:
    tolerance = Tolerance(2.1e-5, 1e-4, 4e-6, "measured", "8 times the rounding noise of this model on these inputs")
    rows = tuple(
        Row(
            inputs="generated",
            batch=batch,
            output="output",
            max_abs=error,
            rel_l2=error / 3,
            cosine=1.0,
            top1=1.0,
            noise=2.4e-6,
            would_pass_at=error,
            tolerance=tolerance,
            ok=error < 2e-5,
        )
        for batch, error in ((1, 1.4e-6), (2, 1.9e-6), (7, 2.2e-6 if ok else 3.1e-2))
    )
    gaps = tuple(
        BlockGap(
            block=f"blocks.{i}.mlp",
            node=f"add_{i}",
            max_abs=1e-6 * (i + 1),
            rel_l2=2e-7 * (i + 1),
            cosine=1.0,
            allowed=6e-6,
            would_pass_at=1e-6 * (i + 1),
            ok=True,
        )
        for i in range(12)
    )
    sides = (
        Side("timm:deit_small_patch16_224", "eager", "cpu", "float32"),
        Side("model.onnx", "onnxruntime", "cpu", "float32"),
    )
    found = Bisection(gaps, sides, None) if bisected else None
    return Verification(
        a=sides[0], b=sides[1], rows=rows, reference="float64 program", bisection=found, seconds=7.0
    ).to_dict()


def audit(*, shares: bool = False) -> dict[str, Any]:
    cb, traffic = Tally(0, 75_648, 227_712, 1_212_672, 305_664), CB.cost(197, 384).traffic
    operators = {
        "linear": Tally(21_600_000, 4_200_000_000, 8_400_000_000, 310_000_000),
        "conv2d": Tally(295_000, 57_802_752, 115_000_000, 1_900_000),
        "layer_norm": Tally(19_200, 1_000_000, 13_000_000, 15_000_000),
        "scaled_dot_product_attention": Tally(0, 357_663_744, 730_000_000, 29_000_000),
        "gelu": Tally(0, 0, 18_000_000, 29_000_000),
        "add": Tally(75_648, 1_900_000, 1_900_000, 22_000_000),
    }
    total = sum(operators.values(), Tally())
    inserted = tuple(
        Inserted(f"blocks.{i}.mlp", "cb", 197, 384, 1, cb, "3NC + 2C: sum, 1/N, half x, half mean, add", traffic)
        for i in range(6, 12)
    )
    extra = sum([cb] * 6, Tally())
    blocks = {f"blocks.{i}.mlp": Tally(1_181_568, 232_000_000, 465_000_000, 12_000_000) for i in range(12)}
    calls = dict.fromkeys(operators, 12)
    a = Count("timm:deit_small_patch16_224", total, blocks, operators, calls, weight_bytes=88_202_656)
    b = Count(
        "timm:deit_small_patch16_224 + cb",
        total + extra,
        {path: tally + (cb if i > 5 else Tally()) for i, (path, tally) in enumerate(blocks.items())},
        {**operators, "cb": extra},
        {**calls, "cb": 6},
        uncounted={"aten.frobnicate": 2},
        inserted=inserted,
        weight_bytes=88_202_656,
    )
    counted = Audit(a, b)
    return {**counted.to_dict(), **({"roofline": roofline(counted)} if shares else {})}


def benchmark(verdict: str = "negligible") -> dict[str, Any]:
    random.seed(4)

    def pair(mean: float) -> tuple[float, float]:
        return random.gauss(mean, 0.0003), random.gauss(mean, 0.0003)

    samples = tuple(
        Process(
            tuple(pair(0.0400) for _ in range(12)),
            tuple(pair(0.04008) for _ in range(12)),
            tuple(pair(0.0400) for _ in range(12)),
            (0.4, 0.6),
            (510_000_000, 512_000_000),
        )
        for _ in range(5)
    )
    return Benchmark(
        a="timm:deit_small_patch16_224",
        b="model.onnx",
        ratio=1.0021,
        ci95=(0.9989, 1.0052),
        upper95=1.0047,
        lower95=0.9993,
        verdict=verdict,  # type: ignore[arg-type]
        sentence="at most 0.5 % slower with 95 % confidence",
        claim=0.01,
        pairs=60,
        processes=5,
        pairs_needed=None,
        control_ratio=1.0003,
        control_ci95=(0.9981, 1.0022),
        median_seconds=(0.0400, 0.0401),
        peak_memory=(510_000_000, 512_000_000),
        environment={"processor": "a processor", "threads": 2, "versions": {"torch": "2.15.0"}},
        samples=samples,
        notes=("the machine was shared",),
        own=own_time(),
        pairs_agree=True,
    ).to_dict()


def own_time() -> OwnTime:
    """Folded CB at six sites, as ONNX Runtime executes it."""
    bias = Operators("Add", "float[1,197,384] float[384]", "float[1,197,384]", 5, 95.0)
    moved = Operators("Add", "float[1,197,384] float[1,1,384]", "float[1,197,384]", 5, 88.0)
    tiny = Operators("Add", "float[1,1,384] float[384]", "float[1,1,384]", 5, 22.0)
    mean = Operators("MatMul", f"float[1,1,197] {HOSTILE}", "float[1,1,384]", 6, 110.0)
    overhead = Interval(0.0024, (0.0021, 0.0027), 0.00215, 0.00265)
    return OwnTime(
        share=Share(0.0043, (0.0041, 0.0045), 62),
        overhead=overhead,
        unchanged=Interval(0.001, (-0.002, 0.004), -0.0015, 0.0035),
        graph=GraphDifference((mean, tiny), (), ((bias, moved),)),
        sites=tuple(SiteTime(f"blocks.{i}.mlp.context_broadcast", 20.0 + i) for i in range(6, 12)),
        run_microseconds=(39_800.0, 39_900.0),
        profiled_seconds=(0.0425, 0.0426),
        seconds=6.0,
        method="a profiler",
        notes=("two runs were left out",),
    )


def analysis() -> dict[str, Any]:
    """A small one of two models, measured."""
    from tests.attention.test_page import document

    return document()


def evaluation() -> dict[str, Any]:
    """Two models on 2,000 images, one of which flipped."""
    view = cropped((224, 224), 0.9, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD, source="timm")
    sides = {
        letter: {"name": name, "backend": backend, "dtype": "float32", "output": "output"}
        for letter, name, backend in (("a", "model.safetensors", "eager"), ("b", "model.onnx", "onnxruntime"))
    }
    picture = "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD/2Q=="
    return Evaluation(
        sides=sides,
        data="imagenet/val",
        task="classification",
        samples=2000,
        metrics={"a": {"top1": 0.8140, "nll": 0.8321}, "b": {"top1": 0.8135, "nll": None}},
        difference={
            "top1": Difference(-0.0005, (-0.0028, 0.0018), "higher", "score", 0, 1, 1.0),
            "nll": Difference(None, None, "lower", "none"),
        },
        intervals={"a": {"top1": (0.796, 0.830), "nll": (0.80, 0.86)}, "b": {"top1": (0.795, 0.830), "nll": None}},
        preprocessing={"a": view, "b": view},
        agreement=(0.9995, (0.9972, 0.9999)),
        distance=2.1e-4,
        flipped=(Flip(7, f"n01440764/{HOSTILE}.JPEG", 0, 0, 3, 0.01, picture),),
        flips=1,
        claim=Claim("top1", 0.001, "inconclusive", 13_500),
        findings=(Finding("not-finite", f"B's outputs are not finite for 1 image {HOSTILE}"),),
        problems={f"bad{HOSTILE}.jpg": "truncated"},
        skipped=1,
        notes={"grey to RGB": 3},
        remarks=("the first 2000 samples",),
        titles={"top1": ("top-1", True), "nll": ("NLL", False)},
        classes=("tench", "goldfish", "shark", HOSTILE),
        seconds=12.0,
        rate=170.0,
        environment={"threads": 2},
    ).to_dict()


def sweep() -> dict[str, Any]:
    """Three points, the worst on top."""
    points = [
        {**benchmark(verdict), "environment": {**benchmark()["environment"], "batch": batch, "size": size}}
        for batch, size, verdict in ((1, 224, "negligible"), (8, 224, "inconclusive"), (8, 288, "slower"))
    ]
    return {**points[2], "sweep": points}


def grid() -> dict[str, Any]:
    """A sweep with a training command: two cells, two seeds."""
    cost = {"params": 22_050_664, "flops": 4_608_338_304, "bytes": 228_900_000}
    rows = (
        Cell("baseline", **cost),
        Cell("cb-end-mlp-upper", {"op": "cb"}, (6, 7), **{**cost, "bytes": 234_100_000}),
        Cell("se-end-mlp-upper", {"op": "se"}, (6, 7), **{**cost, "params": 22_274_920, "bytes": 236_000_000}),
    )
    runs = [Result(row.name, seed, 0.8 + 0.01 * seed + 0.02 * n, 1) for n, row in enumerate(rows) for seed in (0, 1)]
    return SweepTable("timm:deit_small_patch16_224", Path("sweep"), rows, tuple(runs), "accuracy").to_dict()


def shipment(ok: bool = True) -> dict[str, Any]:
    return {
        "schema": "cbsurgeon.ship/1",
        "title": "timm:deit_small_patch16_224",
        "ok": ok,
        "directory": "shipped",
        "command": "cbsurgeon ship timm:deit_small_patch16_224 --layers upper -o shipped",
        "weights": {
            "reference": "deit.pth",
            "architecture": "timm:deit_small_patch16_224",
            "options": {},
            "sha256": "beef" * 16,
            "shipped_sha256": "f00d" * 16,
        },
        "files": {"model.onnx": {"bytes": 88_345_678, "sha256": "c0ffee" * 10 + "abcd"}},
        "left_out": {"engine": "no TensorRT builder is installed"},
        "environment": {
            "date": "2026-11-30T09:00:00+00:00",
            "cores": 2,
            "processor": "a processor",
            "python": "3.11.2",
            "torch": "2.15.0",
            "platform": "Linux",
        },
        "documents": [
            inspection(),
            insertion(),
            export(),
            verification(ok),
            audit(),
            benchmark(),
            analysis(),
            evaluation(),
            grid(),
        ],
    }
