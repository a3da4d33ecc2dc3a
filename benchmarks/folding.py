"""Time saved by folding: CB folded compared with CB as written in the paper, with the same weights; and export time.

Three parts, all written to one file:

- own time: ONNX Runtime's profiler times every operator. ``ratio`` is the sum of the median times of the inserted
  operators, folded divided by the paper's form. ``beside`` checks that no time moves into the model's own operators: it
  is the same ratio for all additions, multiplications and means of the file, minus those of the model without CB.
- end to end: whole runs, interleaved, with a control (:func:`cbsurgeon.checks.bench`), on both back ends. Several
  processes are used, because two copies of one model in one process may differ by more than one per cent.
- export: processor seconds of ``cbsurgeon``'s export divided by those of ``torch.onnx.export`` of the same module,
  interleaved.

    python benchmarks/folding.py [--parts own end export] [--models vit_tiny_patch16_224 ...] [-o results.json]

Rows that are measured again are replaced; other rows are kept. Half an hour on two idle cores. On a busy machine,
ratios of very short times are noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbsurgeon.graph.capture import capture

SCHEMA = "cbsurgeon.folding/2"
RESULTS = Path(__file__).parent / "results" / "folding.json"
MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224")
PARTS = ("own", "end", "export")

OWN_TARGET, EXPORT_TARGET = 0.65, 1.15

SLOWER_BY = 0.01
"""The folded form counts as slower if it is proven slower by more than this, the difference of identical files."""

ROUNDS, RUNS, WARM = 3, 9, 2
"""Own time: number of turns of each file, runs per turn, and first runs of a turn that are not counted."""

EXPORTS = 3
"""Number of interleaved pairs of exports per model, after one pair that is not counted."""

ELEMENTWISE = {"Add", "Mul", "ReduceMean"}


@dataclass(frozen=True)
class Arms:
    """One model without CB, with CB as written in the paper, and with CB folded; as captured programs and as files."""

    name: str
    model: Any
    edited: Any
    programs: dict[str, Any]
    folder: Path

    def path(self, form: str) -> Path:
        """Return the ONNX file of a form; it is exported at the first call."""
        from cbsurgeon import deploy

        path = self.folder / f"{form}.onnx"
        if not path.exists():
            source = self.model if form == "base" else self.edited
            deploy.export_onnx(source, path, fold=form == "folded", program=self.programs[form])
        return path

    def compiled(self, form: str) -> Any:
        """Return the program of a form as a model; the folded form is the one for compilers."""
        from cbsurgeon import deploy
        from cbsurgeon.models import Model

        program = self.programs["line"]
        if form == "folded":
            program, _ = deploy.fold(program, plainly=True)
        return Model(None, provenance=self.edited.provenance, program=program.exported)


def arms(name: str, folder: Path) -> Arms:
    """Build one model and insert CB at the end of every block."""
    import timm
    import torch

    from cbsurgeon import graph, surgery
    from cbsurgeon.models import Model

    torch.manual_seed(0)
    model = Model(timm.create_model(name).eval(), (torch.randn(2, 3, 224, 224),))
    edited = surgery.insert_module(model, surgery.plan(graph.inspect(model), layers="all", pos="end"))
    line = capture(edited)
    return Arms(name, model, edited, {"base": capture(model), "line": line, "folded": line}, folder)


def inserted(path: Path) -> set[str]:
    """Names of the operators that belong to an inserted site."""
    import onnx

    from cbsurgeon.deploy.onnx.metadata import module_path

    nodes = onnx.load(path, load_external_data=False).graph.node
    notes = {node.name: {item.key: item.value for item in node.metadata_props} for node in nodes}
    return {name for name, note in notes.items() if "context_broadcast" in module_path(note)}


def profiled(path: Path, inputs: dict[str, Any], threads: int) -> tuple[float, float]:
    """Microseconds per run in the inserted operators, and in these and all additions, multiplications and means."""
    from cbsurgeon.deploy.runtimes.onnx_runtime import OnnxRuntime

    names, times = inserted(path), defaultdict(list)
    with OnnxRuntime(path, threads=threads, profile=path.with_suffix(".profile")) as runtime:
        for _ in range(RUNS):
            runtime.run(inputs)
        profile = runtime.end_profiling()
    for event in json.loads(profile.read_text()):
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"]:
            times[name, event["args"]["op_name"]].append(event["dur"])
    profile.unlink()
    medians = {key: statistics.median(found[WARM:]) for key, found in times.items()}
    own = sum(value for (name, _), value in medians.items() if name in names)
    beside = sum(value for (name, kind), value in medians.items() if name in names or kind in ELEMENTWISE)
    return own, beside


def own_time(model: Arms, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the own time of the operators at each batch size; the three files take turns."""
    forms = ("base", "line", "folded")
    for batch in options.batch:
        inputs = model.programs["line"].with_batch(batch)
        rounds = []
        for _ in range(ROUNDS):
            times = {form: profiled(model.path(form), inputs, options.threads) for form in forms}
            rounds.append(times)
        ratios = [times["folded"][0] / times["line"][0] for times in rounds]
        beside = {form: statistics.median(times[form][1] for times in rounds) for form in forms}
        ratio = statistics.median(ratios)
        yield {
            "batch": batch,
            "line_us": statistics.median(times["line"][0] for times in rounds),
            "folded_us": statistics.median(times["folded"][0] for times in rounds),
            "ratio": ratio,
            "spread": [min(ratios), max(ratios)],
            "beside": (beside["folded"] - beside["base"]) / (beside["line"] - beside["base"]),
            "beside_us": beside,
            "ok": ratio <= OWN_TARGET,
        }


def end_to_end(model: Arms, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure interleaved whole runs of both forms, on each back end."""
    from cbsurgeon import checks

    plans: list[tuple[str, int, Callable[[str], Any]]] = [
        *(("onnxruntime", batch, model.path) for batch in options.batch),
        *(("compile", batch, model.compiled) for batch in options.compile_batch),
    ]
    for backend, batch, side in plans:
        result = checks.bench(
            side("line"),
            side("folded"),
            backend=backend,
            batch=batch,
            budget=options.budget,
            claim=SLOWER_BY,
            processes=options.processes,
            threads=options.threads,
        )
        yield {
            "backend": backend,
            "batch": batch,
            "ratio": result.ratio,
            "ci95": list(result.ci95),
            "lower95": result.lower95,
            "upper95": result.upper95,
            "control": result.control_ratio,
            "control_ci95": list(result.control_ci95),
            "groups": result.pairs,
            "processes": result.processes,
            "ms": [1e3 * seconds for seconds in result.median_seconds],
            "load": [list(samples.load) for samples in result.samples],
            "ok": result.lower95 <= 1 + SLOWER_BY,
        }


def export_time(model: Arms, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure processor and wall-clock seconds of both exporters, in turns, from the same module to a file."""
    import torch

    from cbsurgeon.deploy.onnx.exporting import DEFAULT_OPSET, export_onnx

    def plain() -> None:
        with torch.no_grad():
            torch.onnx.export(
                model.edited.module,
                model.edited.example_inputs,
                str(model.folder / "plain.onnx"),
                dynamic_shapes=({0: "batch"},),
                opset_version=DEFAULT_OPSET,
                external_data=False,
                verbose=False,
                dynamo=True,
            )

    def ours() -> None:
        export_onnx(model.edited, model.folder / "ours.onnx", force=True)

    plain()  # the first export imports and compiles code that later exports reuse
    pairs = [(_seconds(plain), _seconds(ours)) for _ in range(EXPORTS)]
    ratios = [[after[clock] / before[clock] for before, after in pairs] for clock in (0, 1)]
    ratio = statistics.median(ratios[0])
    yield {
        "ratio": ratio,
        "spread": [min(ratios[0]), max(ratios[0])],
        "wall_ratio": statistics.median(ratios[1]),
        "plain_seconds": statistics.median(before[0] for before, _ in pairs),
        "ours_seconds": statistics.median(after[0] for _, after in pairs),
        "ok": ratio <= EXPORT_TARGET,
    }


def _seconds(call: Callable[[], None]) -> tuple[float, float]:
    """Processor and wall seconds of one call."""
    processor, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - processor, time.perf_counter() - wall


MEASURES = {"own": own_time, "end": end_to_end, "export": export_time}


def line(row: dict[str, Any]) -> str:
    """Return one row as a line of text."""
    what = f"{row.get('backend', '')} batch {row['batch']}" if "batch" in row else ""
    low, high = row.get("ci95") or row["spread"]
    more = f", beside {row['beside']:.2f}" if "beside" in row else ""
    more += f", control {row['control']:.3f}" if "control" in row else ""
    mark = "ok" if row["ok"] else "MISSED"
    return f"{row['model']:<30} {row['part']:<7} {what:<20} {row['ratio']:.3f} ({low:.3f} to {high:.3f}){more}  {mark}"


def _key(row: dict[str, Any]) -> tuple[int, str, int, str, int]:
    """Return the sort key of a row, in the order of the report."""
    model = MODELS.index(row["model"]) if row["model"] in MODELS else len(MODELS)
    return model, row["model"], PARTS.index(row["part"]), row.get("backend", ""), row.get("batch", 0)


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the results; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--compile-batch", type=int, nargs="*", default=[1, 8], help="batch sizes to compile for")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds per end-to-end row")
    parser.add_argument("--processes", type=int, default=5, help="new processes per end-to-end row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    from cbsurgeon.checks.environment import environment

    rows = json.loads(options.output.read_text(encoding="utf-8"))["rows"] if options.output.exists() else []
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "targets": {"own": OWN_TARGET, "end": 1 + SLOWER_BY, "export": EXPORT_TARGET},
        "environment": environment(),
    }
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
            model = arms(name, Path(place))
            for part in options.parts:
                for measured in MEASURES[part](model, options):
                    row = {"model": name, "part": part, "threads": options.threads, **measured}
                    rows = sorted([*(old for old in rows if _key(old) != _key(row)), row], key=_key)
                    document["rows"] = rows
                    print(line(row), flush=True)
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    missed = [row for row in rows if not row["ok"]]
    print(f"{len(missed)} of {len(rows)} missed, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
