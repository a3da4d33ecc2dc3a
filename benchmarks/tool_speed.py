"""Speed of cbsurgeon itself: start-up, inspect, insert and export, compared with other tools for the same task.

    python benchmarks/tool_speed.py                      all parts: tables, and results/tool_speed.json
    python benchmarks/tool_speed.py --parts startup inspect --repeats 3
    python benchmarks/tool_speed.py --parts insert --dtypes float32

The two programs of a ratio take turns (A B B A) in one process; start-up and insert are measured in new processes.
Times are medians with quartiles, in seconds. Parts that are not measured keep their rows. The exit code is 1 if a limit
is exceeded. Polygraphy and onnx-graphsurgeon are compared if they are installed (`pip install polygraphy
onnx-graphsurgeon`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path, and its files would hide packages of the same name.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

RESULTS = ROOT / "benchmarks" / "results" / "tool_speed.json"
SCHEMA = "cbsurgeon.tool_speed/1"
PARTS = ("startup", "inspect", "export", "onnx", "insert")
MODELS = {"ViT-S": "timm:deit_small_patch16_224", "Swin-T": "timm:swin_tiny_patch4_window7_224"}
LARGE = "timm:vit_giant_patch14_224"
"""1.01 billion parameters."""

HELP_SECONDS = 0.3
"""Largest start-up time in seconds; a user does not notice a shorter wait."""
INSPECT_RATIO = 1.15
"""Largest ratio of the times of inspection and of ``torch.export`` alone."""
INSERT_SECONDS, INSERT_MEMORY = 20.0, 1.2
"""Limits for a model of a billion parameters: seconds, and peak memory divided by the size of the weights."""
SAME = 1e-4
"""Largest difference between the outputs of two files with the same nodes in float32, relative to the largest output;
the fusions may differ."""

OPSET = 20


@dataclass(frozen=True)
class Times:
    """Several measurements of one duration, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return median, quartiles and all values."""
        low, _, high = statistics.quantiles(self.seconds, n=4) if len(self.seconds) > 1 else self.seconds * 3
        every = [round(value, 4) for value in self.seconds]
        return {"median": round(self.median, 4), "quartiles": [round(low, 4), round(high, 4)], "all": every}


def interleaved(arms: dict[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Time the programs in turns, in order and in reverse order, after one run of each that is not counted."""
    names = list(arms)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for arm in arms.values():
        arm()
    for _ in range(repeats):
        for name in (*names, *reversed(names)):
            start = time.perf_counter()
            arms[name]()
            taken[name].append(time.perf_counter() - start)
    return {name: Times(tuple(values)) for name, values in taken.items()}


def ratio(times: dict[str, Times], above: str, below: str) -> float:
    """Return the median of the ratios of neighbouring runs, which a slow drift of the machine does not change."""
    pairs = zip(times[above].seconds, times[below].seconds, strict=True)
    return round(statistics.median(one / other for one, other in pairs), 4)


def rows_of(part: str, what: str, times: dict[str, Times], base: str) -> list[dict[str, Any]]:
    """Return one row per program, with its ratio to the base."""
    return [
        {"part": part, "what": what, "arm": name, **spent.to_dict(), "ratio": ratio(times, name, base), "to": base}
        for name, spent in times.items()
    ]


def absent(part: str, what: str, arm: str, package: str) -> dict[str, Any]:
    """Return the row of a tool that is not installed."""
    return {"part": part, "what": what, "arm": arm, "absent": f"{package} is not installed"}


# Start-up


def startup(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time new processes: Python alone, ``cbsurgeon --help``, importing torch, and importing cbsurgeon."""
    arms = {
        "python -c pass": ["-c", "pass"],
        "cbsurgeon --help": ["-m", "cbsurgeon", "--help"],
        "import torch": ["-c", "import torch"],
        "import cbsurgeon": ["-c", "import cbsurgeon"],
    }
    times = interleaved({name: lambda words=words: fresh(words) for name, words in arms.items()}, options.repeats)
    yield from rows_of("startup", "", times, "python -c pass")


def fresh(words: Sequence[str]) -> str:
    """Run this Python in a new process; return its output."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=_surroundings())
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def _surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


# Inspect


def inspecting(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time inspection of a model compared with ``torch.export`` of the same model, which it includes."""
    import torch

    import cbsurgeon

    batch = torch.export.Dim("batch", min=1)
    for name, reference in MODELS.items():
        model = cbsurgeon.load(reference)

        def plain(model: Any = model) -> None:
            with torch.no_grad():
                torch.export.export(model.module, model.example_inputs, dynamic_shapes=({0: batch},), strict=False)

        times = interleaved(
            {"torch.export": plain, "cbsurgeon inspect": lambda model=model: cbsurgeon.inspect(model)}, options.repeats
        )
        yield from rows_of("inspect", name, times, "torch.export")


# Export


def exporting(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time export compared with ``torch.onnx.export``; cbsurgeon also compares the capture with the model and checks
    the file."""
    import torch

    import cbsurgeon

    batch = torch.export.Dim("batch", min=1)
    for name, reference in MODELS.items():
        model = cbsurgeon.load(reference)
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
            ours, plain = Path(place) / "ours.onnx", Path(place) / "plain.onnx"
            times = interleaved(
                {
                    "torch.onnx.export": lambda model=model, plain=plain: torch.onnx.export(
                        model.module,
                        model.example_inputs,
                        plain,
                        dynamo=True,
                        opset_version=OPSET,
                        dynamic_shapes=({0: batch},),
                        external_data=False,
                        verbose=False,
                    ),
                    "cbsurgeon export": lambda model=model, ours=ours: cbsurgeon.export(
                        model, ours, opset=OPSET, force=True
                    ),
                },
                max(1, options.repeats // 2),
            )
        yield from rows_of("export", name, times, "torch.onnx.export")


# Beside the tools for ONNX files


def onnx_tools(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time inspecting a model (in new processes) and inserting CB, compared with Polygraphy and onnx-graphsurgeon."""
    import cbsurgeon

    for name, reference in MODELS.items():
        model = cbsurgeon.load(reference)
        _spread(model.module)
        found = cbsurgeon.inspect(model)
        recipe = cbsurgeon.plan(found)
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
            bare = Path(place) / "bare.onnx"
            cbsurgeon.export(model, bare, opset=OPSET)
            yield from _looking(name, reference, bare, options)
            axes = {f"{found.blocks[site.index].fc2[0]}.bias": list(site.token_axes) for site in recipe.sites}
            yield from _inserting(name, model, recipe, axes, bare, options)


def _spread(module: Any) -> None:
    """Make all biases different, because an exporter merges equal biases, and their names are lost."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


def _looking(name: str, reference: str, bare: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    arms: dict[str, Callable[[], object]] = {
        "cbsurgeon inspect": lambda: fresh(["-m", "cbsurgeon", "inspect", reference, "--json"])
    }
    if importlib.util.find_spec("polygraphy"):
        code = "import sys; from polygraphy.tools import main; sys.argv[0] = 'polygraphy'; sys.exit(main())"
        words = ["-c", code, "inspect", "model", str(bare), "--show", "layers"]
        arms = {"polygraphy inspect model": lambda: fresh(words), **arms}
    else:
        yield absent("onnx", f"{name}, looking", "polygraphy inspect model", "polygraphy")
    yield from rows_of("onnx", f"{name}, looking", interleaved(arms, max(1, options.repeats // 2)), next(iter(arms)))


def _inserting(
    name: str, model: Any, recipe: Any, axes: dict[str, list[int]], bare: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Time inserting and exporting a model, and adding CB by hand to an exported file."""
    import cbsurgeon

    hand, ours = bare.with_name("hand.onnx"), bare.with_name("ours.onnx")
    arms: dict[str, Callable[[], object]] = {
        "cbsurgeon insert": lambda: cbsurgeon.insert(model, recipe),
        "cbsurgeon insert and export": lambda: cbsurgeon.export(
            cbsurgeon.insert(model, recipe), ours, opset=OPSET, force=True, fold=False
        ),
    }
    what = f"{name}, inserting"
    if not importlib.util.find_spec("onnx_graphsurgeon"):
        yield absent("onnx", what, "onnx-graphsurgeon by hand", "onnx-graphsurgeon")
        yield from rows_of(
            "onnx", f"{name}, inserting", interleaved(arms, max(1, options.repeats // 2)), next(iter(arms))
        )
        return
    arms = {"onnx-graphsurgeon by hand": lambda: by_hand(bare, hand, axes), **arms}
    times = interleaved(arms, max(1, options.repeats // 2))
    difference = _difference(hand, ours, model)
    for row in rows_of("onnx", what, times, "onnx-graphsurgeon by hand"):
        yield {**row, "sites": len(axes), "difference": difference}


def by_hand(source: Path, target: Path, axes: dict[str, list[int]]) -> None:
    """Add CB to an ONNX file by hand: find the last addition of each MLP by its bias, and insert the paper's line after
    it.

    The biases and the token axes must be known in advance; here they are taken from the recipe.
    """
    import numpy
    import onnx
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(onnx.load(source))
    half = gs.Constant("cb_half", numpy.array(0.5, dtype=numpy.float32))
    for number, bias in enumerate(axes):
        node = next(node for node in graph.nodes if any(getattr(value, "name", "") == bias for value in node.inputs))
        result = node.outputs[0]
        inner, mean, half_mean, half_inner = (
            gs.Variable(f"cb_{number}_{word}", dtype=numpy.float32) for word in ("x", "mean", "half_mean", "half_x")
        )
        node.outputs = [inner]
        over = gs.Constant(f"cb_{number}_axes", numpy.array(axes[bias], dtype=numpy.int64))
        graph.nodes += [
            gs.Node("ReduceMean", inputs=[inner, over], outputs=[mean], attrs={"keepdims": 1}),
            gs.Node("Mul", inputs=[mean, half], outputs=[half_mean]),
            gs.Node("Mul", inputs=[inner, half], outputs=[half_inner]),
            gs.Node("Add", inputs=[half_inner, half_mean], outputs=[result]),
        ]
    graph.cleanup().toposort()
    onnx.save(gs.export_onnx(graph), target)


def _difference(hand: Path, ours: Path, model: Any) -> float:
    """Return the largest difference of the two files on one input, relative to the largest output."""
    import onnxruntime

    found = []
    for path in (hand, ours):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: model.example_inputs[0].numpy()}
        found.append(session.run(None, feeds)[0])
    return float(abs(found[0] - found[1]).max() / abs(found[0]).max())


# Insert into a large file


def inserting_large(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure ``cbsurgeon insert FILE`` in a new process: seconds, and peak memory divided by the size of the
    weights."""
    for dtype in options.dtypes:
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-", dir=options.folder) as place:
            source = Path(place) / f"large.{options.suffix}"
            made = json.loads(
                fresh([__file__, "--make", str(source), "--large", options.large, "--dtypes", dtype]).splitlines()[-1]
            )
            runs = [_insert_once(source, Path(place) / f"out.{options.suffix}") for _ in range(options.large_repeats)]
        memory = max(peak for _, peak, _ in runs)
        yield {
            "part": "insert",
            "what": f"{options.large}, {dtype}, .{options.suffix}",
            "arm": "cbsurgeon insert FILE",
            **Times(tuple(seconds for seconds, _, _ in runs)).to_dict(),
            **made,
            "cpu_seconds": round(statistics.median(cpu for _, _, cpu in runs), 2),
            "peak_bytes": memory,
            "memory_ratio": round(memory / made["weights_bytes"], 3),
        }


_WITNESS = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]))
"""
"""Measures a process from a small parent process, because a process inherits the peak memory of its parent."""


def _insert_once(source: Path, target: Path) -> tuple[float, int, float]:
    """Return seconds, peak resident bytes and processor seconds of one process."""
    words = [sys.executable, "-m", "cbsurgeon", "insert", str(source), "-o", str(target), "--quiet", "--json"]
    seconds, peak, processor = json.loads(fresh(["-c", _WITNESS, *words]))
    target.unlink()
    return seconds, peak, processor


def make(path: Path, reference: str, dtype: str) -> dict[str, Any]:
    """Write the large model with random weights; runs in a process of its own."""
    import torch

    import cbsurgeon
    from cbsurgeon.models import builders
    from cbsurgeon.models.builders.weightless import allocate

    model = builders.build(reference, weightless=True)
    assert model.module is not None
    model.module.to(getattr(torch, dtype))
    allocate(model.module)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.module.parameters():
        parameter.data.uniform_(-0.02, 0.02, generator=generator)
    cbsurgeon.save(model, path)
    held = list(model.module.parameters())
    return {"parameters": sum(p.numel() for p in held), "weights_bytes": sum(p.nbytes for p in held)}


# Limits


def bounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each limit with the measured value and whether it holds."""
    found = []
    for row in rows:
        if row["arm"] == "cbsurgeon --help":
            found.append(_bound("cbsurgeon --help, seconds", row["median"], HELP_SECONDS))
        if row["part"] == "inspect" and row["arm"] == "cbsurgeon inspect":
            found.append(_bound(f"inspect / torch.export, {row['what']}", row["ratio"], INSPECT_RATIO))
        if row["part"] == "insert":
            found.append(_bound(f"insert, {row['what']}, seconds", row["median"], INSERT_SECONDS))
            found.append(_bound(f"insert, {row['what']}, memory / weights", row["memory_ratio"], INSERT_MEMORY))
        if row["part"] == "onnx" and row["arm"] == "cbsurgeon insert and export" and "difference" in row:
            found.append(_bound(f"file against the one made by hand, {row['what']}", row["difference"], SAME))
    return found


def _bound(what: str, measured: float, most: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "most": most, "holds": measured <= most}


def show(rows: list[dict[str, Any]], judged: list[dict[str, Any]]) -> None:
    """The tables."""
    print(f"{'part':<9}{'model':<52}{'arm':<30}{'median s':>9}{'quartiles':>18}{'ratio':>8}  to")
    for row in rows:
        if "absent" in row:
            print(f"{row['part']:<9}{row['what']:<52}{row['arm']:<30}{row['absent']}")
            continue
        low, high = row["quartiles"]
        tail = f"{row['ratio']:>8.3f}  {row['to']}" if "ratio" in row else ""
        if "memory_ratio" in row:
            peak, weights = row["peak_bytes"] / 1e9, row["weights_bytes"] / 1e9
            memory = f"peak {peak:.2f} GB = {row['memory_ratio']:.3f} x weights of {weights:.2f} GB"
            tail = f"  {row['cpu_seconds']:.1f} s of processor, {memory}"
        print(f"{row['part']:<9}{row['what']:<52}{row['arm']:<30}{row['median']:>9.3f}{low:>9.3f}{high:>9.3f}{tail}")
    print()
    for bound in judged:
        word = "holds" if bound["holds"] else "BROKEN"
        print(f"{word:<7}{bound['what']:<60}{bound['measured']:>10.4g} (at most {bound['most']:g})")


PART: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "startup": startup,
    "inspect": inspecting,
    "export": exporting,
    "onnx": onnx_tools,
    "insert": inserting_large,
}


def written(path: Path) -> list[dict[str, Any]]:
    """Return the rows of earlier runs."""
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=7, help="rounds (A B B A); half as many for slow programs")
    parser.add_argument("--large-repeats", type=int, default=5, help="processes that insert into the large file")
    parser.add_argument("--large", default=LARGE, help="the large model")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of its weights")
    parser.add_argument("--suffix", choices=["safetensors", "pt"], default="safetensors", help="of its file")
    parser.add_argument("--folder", type=Path, help="folder of the large file; a temporary folder by default")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make:
        print(json.dumps(make(options.make, options.large, options.dtypes[0])))
        return 0
    from cbsurgeon.checks.environment import environment

    rows = [row for row in written(options.output) if row["part"] not in options.parts]
    for part in options.parts:
        before = environment()
        for row in PART[part](options):
            rows.append({**row, "load": [before["load"][0], os.getloadavg()[0]]})
            print(f"{part}: {row['what']} {row['arm']} {row.get('median', 'absent')}", file=sys.stderr)
        rows.sort(key=lambda row: PARTS.index(row["part"]))
        judged = bounds(rows)
        document = {"schema": SCHEMA, "environment": before, "rows": rows, "bounds": judged}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    show(rows, judged)
    return 0 if all(bound["holds"] for bound in judged) else 1


if __name__ == "__main__":
    raise SystemExit(main())
