"""Latency overhead of CB: each form compared with the unedited model, in the runtimes for a CPU.

    python benchmarks/overhead.py                                   everything (hours; an idle machine)
    python benchmarks/overhead.py --models ViT-S Swin-T --backends onnxruntime --budget 300
    python benchmarks/overhead.py --summary                         the table of all measured rows

Rows in results/overhead.json are kept; rows that are measured again are replaced. The file is written after each row,
so that an interrupted run keeps its rows. Rows that violate a claim are printed as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path, and its files would hide packages of the same name.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from cbsurgeon.graph.capture import capture  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "overhead.json"
SCHEMA = "cbsurgeon.overhead/1"

MODELS = {
    "ViT-Ti": "timm:deit_tiny_patch16_224",
    "ViT-S": "timm:deit_small_patch16_224",
    "ViT-B": "timm:deit_base_patch16_224",
    "Swin-T": "timm:swin_tiny_patch4_window7_224",
    "Mixer-S/16": "timm:mixer_s16_224",
    "PVTv2-B1": "timm:pvt_v2_b1",
}
BACKENDS = ("onnxruntime", "compile", "eager")
VARIANTS = {
    "base": "the model against itself, built again: shows the noise of the method",
    "folded": "CB with its factor 1/2 folded into the weights",
    "line": "CB as written in the paper",
    "cb_s": "CB_S with scale 0.1",
    "se": "squeeze-and-excitation at the same sites",
}
BOUND = 0.01
"""Claimed upper bound of the overhead of folded CB in ONNX Runtime."""

SAMPLE_DIGITS = 4
"""Significant digits of raw samples in the file; more digits of a 20 ms sample are noise."""


@dataclass(frozen=True)
class Arms:
    """One model prepared: its program, its recipe's sites, and a folder for exported files."""

    model: Any
    program: Any
    found: Any
    layers: str
    folder: Path

    def edited(self, variant: str) -> Any | None:
        """Return the model with the variant's operator in its module; ``None`` if that operator is not built in."""
        from cbsurgeon import operators, surgery

        op = {"folded": "cb", "line": "cb"}.get(variant, variant)
        if variant == "base":
            return self.model
        if op not in operators.names():
            return None
        options = {"initial": 0.1} if op == "cb_s" else {}
        recipe = surgery.plan(self.found, op=op, layers=self.layers, pos="end", **options)
        return surgery.insert_module(self.model, recipe)

    def side(self, variant: str, backend: str) -> Any | None:
        """Return the argument of :func:`cbsurgeon.checks.bench`; ``None`` if there is no such row."""
        from cbsurgeon import deploy, models

        edited = self.edited(variant)
        if edited is None:
            return None
        if backend == "eager":
            return None if variant == "folded" else edited
        program = self.program if variant == "base" else capture(edited, check=False)
        if backend == "onnxruntime":
            path = self.folder / f"{variant}.onnx"
            if not path.exists():
                deploy.export_onnx(edited, path, fold=variant == "folded", program=program)
            return path
        if variant == "folded":
            program = deploy.fold(program, plainly=True)[0]
        return models.Model(None, provenance=edited.provenance, program=program.exported)


def rows(options: argparse.Namespace, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Measure and yield one row at a time."""
    from cbsurgeon import checks, graph, models

    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
            model = models.load(MODELS[name])
            program = capture(model, check=False)
            captured = models.Model(None, provenance=model.provenance, program=program.exported)
            arms = Arms(model, program, graph.inspect(captured), options.layers, Path(place))
            for backend in options.backends:
                base = arms.side("base", backend)
                for variant in options.variants:
                    other = arms.side(variant, backend)
                    if other is None:
                        say(f"{name}, {backend}, {variant}: left out ({_why(variant, backend)})")
                        continue
                    say(f"{name}, {backend}, {variant}")
                    result = checks.bench(
                        base,
                        other,
                        backend=backend,
                        batch=options.batch,
                        budget=options.budget,
                        claim=options.claim,
                        processes=options.processes,
                        threads=options.threads,
                        progress=say,
                    )
                    yield _row(name, backend, variant, options, result)


def _why(variant: str, backend: str) -> str:
    if variant == "folded" and backend == "eager":
        return "folding is done on programs"
    return f"the operator {variant} is not built in"


def _row(name: str, backend: str, variant: str, options: argparse.Namespace, result: Any) -> dict[str, Any]:
    document = result.to_dict()
    document["samples"] = [_rounded(samples) for samples in document["samples"]]
    names = {"a": f"{name} base", "b": f"{name} {variant}"}
    key = {"model": name, "backend": backend, "variant": variant, "layers": options.layers, "batch": options.batch}
    return {**key, "result": {**document, **names}}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SAMPLE_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


KEY = ("model", "backend", "variant", "layers", "batch")


def merged(document: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return the document with one row added or replaced."""
    others = [old for old in document["rows"] if any(old[part] != row[part] for part in KEY)]
    return {**document, "rows": sorted([*others, row], key=lambda item: [str(item[part]) for part in KEY])}


def read(path: Path) -> dict[str, Any]:
    """Return the rows measured so far."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {"schema": SCHEMA, "rows": []}


def summary(document: dict[str, Any]) -> Iterator[str]:
    """Return the table, and for each claim about folded CB whether it holds."""
    for row in document["rows"]:
        result = row["result"]
        low, high = (100 * (value - 1) for value in result["ci95"])
        yield (
            f"{row['model']:<11} {row['backend']:<12} {row['variant']:<7} batch {row['batch']:<3} "
            f"{100 * (result['ratio'] - 1):+6.2f} % ({low:+.2f} to {high:+.2f})  "
            f"A/A {100 * (result['control']['ratio'] - 1):+.2f} %  {result.get('sentence', result['verdict'])}"
        )
    yield from _claims(document)
    yield from table(document)


def table(document: dict[str, Any]) -> Iterator[str]:
    """Return own time and end-to-end time of every form as a Markdown table, for the rows with own time."""
    rows = [row for row in document["rows"] if row["result"].get("own_time")]
    if not rows:
        return
    yield "| model | back end | form | own time, % of the run | end to end, % |"
    yield "|---|---|---|---|---|"
    for row in rows:
        result = row["result"]
        overhead = result["own_time"]["overhead"]
        own, end = (
            f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            for value, (low, high) in (
                (overhead["value"], overhead["ci95"]),
                (result["ratio"] - 1, [bound - 1 for bound in result["ci95"]]),
            )
        )
        yield f"| {row['model']} | {row['backend']} | {row['variant']} | {own} | {end} |"


def _claims(document: dict[str, Any]) -> Iterator[str]:
    found = {tuple(row[part] for part in KEY): row["result"] for row in document["rows"]}
    for (model, backend, variant, layers, batch), result in found.items():
        if variant != "folded":
            continue
        if backend == "onnxruntime":
            # Rows measured before own time decided have the verdict in ``outcome`` and the sentence in ``verdict``.
            verdict = result.get("outcome", result["verdict"])
            words = dict.fromkeys(("within", "negligible", "faster"), "holds") | {"slower": "does NOT hold"}
            word = words.get(verdict, "not settled")
            yield f"{model}, {backend}: folded at most {100 * BOUND:g} %: {word}"
        for rival in ("line", "se"):
            other = found.get((model, backend, rival, layers, batch))
            if other:
                word = "holds" if result["ratio"] < other["ratio"] else "does NOT hold"
                apart = result["ci95"][1] < other["ci95"][0] or other["ci95"][1] < result["ci95"][0]
                doubt = "" if apart else ", but the intervals overlap"
                yield f"{model}, {backend}: folded below {rival} (estimates): {word}{doubt}"


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the results, or print the rows measured so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--layers", default="upper", help="which blocks, as on the command line")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--budget", type=float, default=180.0, help="seconds per row")
    parser.add_argument("--claim", type=float, default=BOUND, help="as a fraction")
    parser.add_argument("--processes", type=int, help="new processes per row; five unless the budget is very small")
    parser.add_argument("--threads", type=int, help="threads within one operator")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    document = read(options.output)
    if not options.summary:
        try:
            for row in rows(options, lambda message: print(message, file=sys.stderr)):
                document = merged(document, row)
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")
        except KeyboardInterrupt:
            print("interrupted; the rows so far are kept", file=sys.stderr)
    for line in summary(document):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
