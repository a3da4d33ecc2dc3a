"""Forms of Context Broadcasting at the end of an MLP under torch.compile: kernels and time of each.

    python benchmarks/compiled_forms.py
    python benchmarks/compiled_forms.py --shapes DeiT-S --batch 1 --threads 1

Four MLPs in a row (normalisation, activation, down projection, residual addition), compiled by Inductor without CB and
with CB in several exact forms. For each form:

- ``kernels``: number of kernels that Inductor generates; the matrix products are library calls and are not counted.
- ``over_base``: time over the time without CB, minus 1: median over rounds and 95 % interval of the median. All forms
  take turns in one process.

The output of every form is compared with the paper's formula in float64. A few minutes; the results are written after
every row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

RESULTS = Path(__file__).parent / "results" / "compiled_forms.json"
SCHEMA = "cbsurgeon.compiled-forms/1"
SHAPES = {"DeiT-S": (197, 384, 1536), "ViT-Ti": (197, 192, 768), "Mixer-S": (196, 512, 2048)}
SITES = 4
ROUNDING = 1e-4
"""Tolerance relative to the largest output, in float32."""

Site = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The activation [B, N, 4D], the weight [4D, D] and the bias [D] → the output of the MLP [B, N, D]."""


def base(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Without CB."""
    return a @ w + b


def line(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The paper's line."""
    x = a @ w + b
    return (x + x.mean(1, keepdim=True)) / 2


def folded(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The form of `cbsurgeon export`: the weight is halved, and the mean is added to the bias."""
    u = a @ (w * 0.5)
    return u + (u.mean(1, keepdim=True) + b)


def row(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The same, with the mean as a matrix product by a row of 1/N."""
    u = a @ (w * 0.5)
    return u + (torch.full((1, u.shape[1]), 1 / u.shape[1]) @ u + b)


def in_the_activation(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The mean of the activation, computed in its kernel, and projected: one more token through the weights."""
    half = w * 0.5
    return a @ half + (a.mean(1, keepdim=True) @ half + b)


def one_more_row(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The mean of the activation as one more row of the same matrix product."""
    u = torch.cat((a, a.mean(1, keepdim=True)), 1) @ (w * 0.5)
    return u[:, :-1] + (u[:, -1:] + b)


FORMS: dict[str, Site] = {one.__name__: one for one in (base, line, folded, row, in_the_activation, one_more_row)}


def network(site: Site, inputs: list[Tensor], weights: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Four sites: the stream [B, N, D], with the up projection, the activation and one form of the end."""
    stream = inputs[0]
    for up, down, bias in weights:
        normal = functional.layer_norm(stream, stream.shape[-1:])
        stream = stream + site(functional.gelu(normal @ up), down, bias)
    return functional.layer_norm(stream, stream.shape[-1:])


def measure(shape: tuple[int, int, int], batch: int, rounds: int) -> dict[str, Any]:
    """Return kernels and time of all forms at one size."""
    from torch._inductor import config, metrics

    tokens, channels, hidden = shape
    torch.manual_seed(0)
    inputs = [torch.randn(batch, tokens, channels)]
    weights = [
        (
            torch.randn(channels, hidden) / channels**0.5,
            torch.randn(hidden, channels) / hidden**0.5,
            torch.randn(channels),
        )
        for _ in range(SITES)
    ]
    exact = [tuple(value.double() for value in one) for one in weights]
    wanted = network(line, [inputs[0].double()], exact)  # type: ignore[arg-type]
    compiled, found = {}, {}
    torch._dynamo.reset()  # at most eight forms: PyTorch keeps as many compiled versions of one forward
    for name, site in FORMS.items():
        metrics.reset()
        # Weights are constants, as in a deployed model: Inductor computes `w * 0.5` once.
        with config.patch(freezing=True), torch.no_grad():
            module = Frozen(site, weights).eval()
            compiled[name] = torch.compile(module, dynamic=False)
            output = compiled[name](inputs[0])
        if name != "base":
            assert float((output.double() - wanted).abs().max()) <= ROUNDING * float(wanted.abs().max()), name
        found[name] = {"kernels": metrics.generated_kernel_count}
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    with torch.no_grad():
        for turn in range(rounds + 3):
            for name in FORMS if turn % 2 else reversed(FORMS):
                start = time.perf_counter()
                compiled[name](inputs[0])
                if turn >= 3:
                    times[name].append(time.perf_counter() - start)
    for name, own in times.items():
        if name != "base":
            ratios = sorted(one / plain - 1 for one, plain in zip(own, times["base"], strict=True))
            found[name]["over_base"] = {"value": statistics.median(ratios), "ci95": _median_interval(ratios)}
    found["base"]["milliseconds"] = 1000 * statistics.median(times["base"])
    return found


class Frozen(torch.nn.Module):
    """The network with its weights as parameters."""

    def __init__(self, site: Site, weights: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        super().__init__()
        self.site = site
        self.held = torch.nn.ParameterList(value.clone() for one in weights for value in one)

    def forward(self, stream: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D]."""
        held = list(self.held)
        return network(self.site, [stream], [tuple(held[at : at + 3]) for at in range(0, len(held), 3)])  # type: ignore[misc]


def _median_interval(ordered: list[float]) -> list[float]:
    """The 95 % interval of a median by order statistics (normal approximation of the binomial)."""
    count = len(ordered)
    half = 0.98 * count**0.5
    return [ordered[max(0, int(count / 2 - half))], ordered[min(count - 1, int(count / 2 + half))]]


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    from cbsurgeon.checks.environment import environment

    document: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(),
        "forms": {name: (site.__doc__ or "").strip() for name, site in FORMS.items()},
        "rows": [],
    }
    for name, batch, threads in product(options.shapes, options.batch, options.threads):
        torch.set_num_threads(threads)
        load = os.getloadavg()[0]
        found = measure(SHAPES[name], batch, max(20, options.rounds // batch))
        document["rows"].append({"shape": name, "batch": batch, "threads": threads, "load": load, "found": found})
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"{name} batch {batch} threads {threads}")
        for form, one in found.items():
            over = one.get("over_base")
            shown = (
                f"{100 * over['value']:+.2f} % ({100 * over['ci95'][0]:+.2f} to {100 * over['ci95'][1]:+.2f})"
                if over
                else ""
            )
            print(f"  {form:18} {one['kernels']:3} kernels  {shown}", flush=True)


if __name__ == "__main__":
    main()
