"""Insert CB and export to ONNX and TensorRT, for one model of every family of the zoo.

    python benchmarks/deploy_sweep.py                    the whole sweep: a table, and results/deploy_sweep.json
    python benchmarks/deploy_sweep.py --only timm/swin   those models again; the other results stay
    python benchmarks/deploy_sweep.py --missing          only models without a result
    python benchmarks/deploy_sweep.py --reproduce        errors of TensorRT's parser for single operators

CB is inserted at End in the upper half of the blocks (in the causal form for causal models). The result is exported to
ONNX, compared with the edited model in ONNX Runtime (float32, batches 1 and 2), and built into a TensorRT engine. The
exit code is 1 if a step of a family fails, unless TensorRT's parser does not support one of the model's own operators
(``UPSTREAM``). ``--reproduce`` shows the errors of the parser without cbsurgeon.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.coverage import read_truth  # noqa: E402
from benchmarks.zoo import Entry, entries  # noqa: E402
from benchmarks.zoo.deployment import STEPS, measure  # noqa: E402
from benchmarks.zoo.sweeping import Sweep, parser  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "deploy_sweep.json"
UPSTREAM = {
    "Col2Im": "torch.nn.functional.fold(x, (4, 4), (2, 2))",
    "DFT": "torch.fft.fft(x).real",
    "Resize": "torch.nn.functional.interpolate(x[:, None], size=(2, 8), mode='bilinear', antialias=True)",
}
"""Operators that ONNX Runtime runs and TensorRT-RTX 1.7 does not parse → an expression of ``x`` that needs them."""
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx-cu13", "timm", "torchvision", "transformers")


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep; return the exit code."""
    accepted = parser((__doc__ or "").splitlines()[0], RESULTS, timeout=900.0)
    accepted.add_argument("--reproduce", action="store_true", help="show the errors of the parser, and stop")
    options = accepted.parse_args(arguments)
    if options.reproduce:
        return reproduce()
    return Sweep(
        script=Path(__file__),
        schema="cbsurgeon.deploy-sweep/1",
        results=RESULTS,
        entries=families,
        measure=measure,
        lost=lambda entry, result: {
            "group": entry.group,
            "family": entry.family,
            "steps": {},
            "remarks": [],
            **result,
        },
        good=lambda result: not result.get("error") or upstream(result) is not None,
        summary=summary,
        table=table,
        packages=PACKAGES,
    ).run(options)


def upstream(result: Mapping[str, Any]) -> str | None:
    """Return the operator that TensorRT's parser does not support, if that is the reason of the failure."""
    if "the TensorRT parser cannot read this model" not in result.get("error", ""):
        return None
    return next((operator for operator in UPSTREAM if f"({operator})" in result["why"]), None)


def reproduce() -> int:
    """Export each expression with torch only, parse it with TensorRT only, and print the error of the parser."""
    import io

    import tensorrt_rtx
    import torch

    class Expression(torch.nn.Module):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

        def forward(self, x: torch.Tensor) -> Any:
            return eval(self.text, {"torch": torch, "x": x})

    for operator, text in UPSTREAM.items():
        buffer = io.BytesIO()
        example = (torch.randn(1, 4, 9),)
        torch.onnx.export(Expression(text), example, dynamo=True, opset_version=20, verbose=False).save(buffer)
        log = tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR)
        network = tensorrt_rtx.Builder(log).create_network(0)
        reader = tensorrt_rtx.OnnxParser(network, log)
        parsed = reader.parse(buffer.getvalue())
        said = "parsed" if parsed else "; ".join(reader.get_error(i).desc() for i in range(reader.num_errors))
        print(f"{operator:<8} {text}\n         {said}")
    return 0


def families() -> Iterator[Entry]:
    """Return the first model of every family that has a block."""
    expected, seen = read_truth(), set[tuple[str, str]]()
    for entry in entries():
        if expected[entry.name]["blocks"] and (entry.group, entry.family) not in seen:
            seen.add((entry.group, entry.family))
            yield entry


def summary(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of models that passed each step."""
    reached = Counter(step for result in models.values() for step in result["steps"])
    return {
        "families": len(models),
        "with_blocks": sum(bool(result.get("blocks", 1)) for result in models.values()),
        **{step: reached[step] for step in STEPS},
        "failed_upstream": sum(upstream(result) is not None for result in models.values()),
        "failed": sum(bool(result.get("error")) and upstream(result) is None for result in models.values()),
        "sites": sum(result.get("sites", 0) for result in models.values()),
    }


def table(models: Mapping[str, Any]) -> str:
    """Return one line per family with its remarks, and the sums, as text."""
    head = f"{'model':<50}{'sites':>6}{'insert s':>10}{'onnx s':>8}{'parity s':>10}{'max |diff|':>12}{'engine s':>10}"
    lines = [head, "-" * len(head)]
    for name, result in models.items():
        seconds = [f"{result['steps'].get(step, float('nan')):.1f}" for step in STEPS]
        differ = f"{result['parity']['max_abs']:.1e}" if "parity" in result else "-"
        lines.append(
            f"{name:<50}{result.get('sites', 0):>6}{seconds[0]:>10}{seconds[1]:>8}{seconds[2]:>10}{differ:>12}"
            f"{seconds[3]:>10}"
        )
        lines += [f"    {remark}" for remark in result["remarks"]]
        if result.get("error"):
            known = upstream(result)
            lines.append(f"    {'UPSTREAM' if known else 'FAILED'}: {result['error']} {result.get('why', '')}".rstrip())
    return "\n".join([*lines, "-" * len(head), *(f"{word}: {value}" for word, value in summary(models).items())])


if __name__ == "__main__":
    raise SystemExit(main())
