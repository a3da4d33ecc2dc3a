"""Parity and latency on an NVIDIA GPU, for every runtime with GPU support, in at most eight minutes.

The rows of PyTorch (eager, program, folded, torch.compile) have been run on a GPU; those of ONNX Runtime and TensorRT
have not. On a machine without a GPU, the script prints a message and stops.

    python benchmarks/gpu.py [--models ViT-S Swin-T] [--dtypes float32 float16] [--batches 1 8] [--only latency]

Parity is measured first. Each row is one model with CB in its upper half, in one dtype, in one runtime on ``cuda``; it
is compared with the eager model on the CPU, with the tolerances of ``cbsurgeon verify``. Then latency is measured: CB
folded, CB as written in the paper, CB_S and SE are compared with the unedited model, interleaved in one process, with
the model against itself as control. Work is recorded as CUDA graphs and timed by the device if the runtime allows it. A
runtime that is not installed has a row with this reason; so has a row for which no time was left. A runtime that is
installed and fails is a failure. Nothing is downloaded: weights are random.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path, and its files would hide packages of the same name.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

import torch  # noqa: E402

from cbsurgeon import deploy, graph, models, surgery  # noqa: E402
from cbsurgeon.checks import bench, verify  # noqa: E402
from cbsurgeon.checks.environment import environment  # noqa: E402
from cbsurgeon.deploy.casting import cast  # noqa: E402
from cbsurgeon.deploy.tensorrt.package import PACKAGES  # noqa: E402
from cbsurgeon.errors import CBSurgeonError, MissingPackage, UsageError  # noqa: E402
from cbsurgeon.graph.capture import capture  # noqa: E402
from cbsurgeon.models.model import Model  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
SCHEMA = "cbsurgeon.gpu/2"

MODELS = {
    "ViT-S": "timm:deit_small_patch16_224",
    "Swin-T": "timm:swin_tiny_patch4_window7_224",
    "Mixer-S/16": "timm:mixer_s16_224",
}
DTYPES = ("float32", "float16", "bfloat16")
TORCH = ("eager", "compile")
VARIANTS = ("base", "folded", "line", "cb_s", "se")
BATCHES = (1, 2, 7)
PROFILE = (1, 8, 8)
DEVICE = "cuda"
CLAIM = 0.02
"""One process cannot prove a smaller difference, because the choice of kernels differs between processes."""
PARITY_SHARE = 0.5
"""Fraction of the time after which no further parity row is started, so that the rest is left for latency."""
RTX_LACKS = ((8, 0), (9, 0), (10, 0))
"""Compute capabilities of data-centre GPUs, which TensorRT-RTX's documentation does not list."""
ABSENT = ("CB-RUN-06", "CB-RUN-03")
"""Error codes for a missing provider of ONNX Runtime and for a missing GPU; they count as absent, not as failures."""

Row = dict[str, Any]


@dataclass
class Clock:
    """The available time.

    Attributes:
        seconds: seconds for the whole script.
        budget: seconds for measuring one row of latency.
    """

    seconds: float
    budget: float
    start: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.start


@dataclass
class Subject:
    """One model, captured once; its edited forms and exported files are created when they are needed."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        self.model = models.load(MODELS[self.name])
        program = capture(self.model, check=False)
        captured = Model(None, provenance=self.model.provenance, program=program.exported)
        self.found = graph.inspect(captured)
        self._edited: dict[str, Model] = {"base": self.model}
        self._programs: dict[str, graph.Program] = {"base": program}
        self._files: dict[tuple[str, ...], Path] = {}

    def edited(self, variant: str) -> Model:
        """Return the model with an operator; ``folded`` and ``line`` are the same model."""
        op = {"folded": "cb", "line": "cb"}.get(variant, variant)
        if op not in self._edited:
            options = {"initial": 0.1} if op == "cb_s" else {}
            recipe = surgery.plan(self.found, op=op, layers="upper", pos="end", **options)
            self._edited[op] = surgery.insert_module(self.model, recipe)
        return self._edited[op]

    def program(self, variant: str) -> graph.Program:
        """Its program."""
        op = {"folded": "cb", "line": "cb"}.get(variant, variant)
        if op not in self._programs:
            self._programs[op] = capture(self.edited(variant), check=False)
        return self._programs[op]

    def onnx(self, variant: str, dtype: str, *, for_tensorrt: bool = False) -> Path:
        """The exported file."""
        key = (variant, dtype, "tensorrt" if for_tensorrt else "")
        if key not in self._files:
            path = self.folder / f"{'-'.join(filter(None, (self.name.replace('/', ''), *key)))}.onnx"
            self._files[key] = deploy.export_onnx(
                self.edited(variant),
                path,
                dtype=None if dtype == "float32" else dtype,
                fold=variant == "folded",
                for_tensorrt=for_tensorrt,
                program=self.program(variant),
                force=True,
            ).path
        return self._files[key]

    def engine(self, variant: str, dtype: str, package: str) -> Path:
        """The built engine."""
        key = ("engine", variant, dtype, package)
        if key not in self._files:
            if package == "tensorrt_rtx" and torch.cuda.get_device_capability() in RTX_LACKS:
                raise MissingPackage(
                    f"TensorRT-RTX has no kernels for {torch.cuda.get_device_name()}", code="CB-MISSING-01"
                )
            source = self.onnx(variant, dtype, for_tensorrt=True)
            options = deploy.BuildOptions(batch=PROFILE, package=package)
            target = source.with_name(f"{source.stem}-{package}.engine")
            self._files[key] = deploy.build_engine(source, target, options=options, force=True).path
        return self._files[key]

    def typed(self, variant: str, dtype: str) -> Model:
        """Return a copy of the model cast to a dtype."""
        if dtype == "float32":
            return self.edited(variant)
        import copy

        model, kind = self.edited(variant), getattr(torch, dtype)
        assert model.module is not None
        inputs = tuple(value.to(kind) if value.is_floating_point() else value for value in model.example_inputs)
        return Model(copy.deepcopy(model.module).to(kind), inputs, model.provenance, recipes=model.recipes)

    def typed_program(self, variant: str, dtype: str) -> Model:
        """Return the captured program cast to a dtype; folded if the variant is ``folded``."""
        program = self.program(variant)
        if variant == "folded":
            program, _ = deploy.fold(program, plainly=True)
        if dtype != "float32":
            program = cast(program, getattr(torch, dtype))
        return Model(None, provenance=self.model.provenance, program=program.exported)


# Parity


def parity(subject: Subject, dtypes: list[str], clock: Clock) -> Iterator[Row]:
    """Yield the parity rows of every runtime for one model with CB."""
    model = subject.edited("folded")
    row = partial(attempt, clock, PARITY_SHARE, "parity", subject.name)
    for backend in ("eager", "program", "folded", "compile"):
        yield row("float32", backend, partial(on_cuda, model, lambda: model, backend))
    for dtype in dtypes:
        file = partial(subject.onnx, "folded", dtype)
        for backend in ("onnxruntime", "onnxruntime-tensorrt"):
            yield row(dtype, backend, partial(on_cuda, model, file, backend))
        for package in PACKAGES:
            yield row(dtype, package, partial(engine_parity, subject, dtype, package))


def on_cuda(model: Model, target: Callable[[], Any], backend: str) -> Row:
    """Compare one runtime on the GPU with the eager model on the CPU."""
    found = verify(model, target(), batches=BATCHES, backends=("eager", backend), device=("cpu", DEVICE))
    return facts(found)


def engine_parity(subject: Subject, dtype: str, package: str) -> Row:
    """Check an engine, and its replay as a CUDA graph."""
    model, path = subject.edited("folded"), subject.engine("folded", dtype, package)
    row = facts(verify(model, path, batches=BATCHES))
    with deploy.open_runtime(path, device=DEVICE, cuda_graph=True) as runtime:
        inputs = subject.program("folded").with_batch(PROFILE[1])
        plain = runtime.run(inputs)
        replay = runtime.prepare(inputs)
        replay()
        runtime.synchronize()
        replayed = getattr(runtime, "_outputs", {})
        row["cuda_graph_equal"] = set(replayed) == set(plain) and all(
            torch.equal(value, replayed[key]) for key, value in plain.items()
        )
        row["layers"] = len(json.loads(runtime.layers()).get("Layers", ()))  # type: ignore[attr-defined]
        row["ok"] = row["ok"] and row["cuda_graph_equal"]
    return row


def facts(found: Any) -> Row:
    """Return the fields of a row for a verification."""
    return {
        "ok": found.ok,
        "max_abs": found.max_abs,
        "rel_l2": found.rel_l2,
        "allowed": found.tolerance.atol,
        "would_pass_at": found.would_pass_at,
        "reference": found.reference,
    }


# Latency


def latency(subject: Subject, dtypes: list[str], clock: Clock, batches: list[int]) -> Iterator[Row]:
    """Yield the latency rows: every form of the operator against the unedited model, in every runtime."""
    row = partial(attempt, clock, 1.0, "latency", subject.name)
    for dtype, batch in product(dtypes, batches):
        for backend in (*TORCH, "onnxruntime", *PACKAGES):
            for variant in VARIANTS:
                if backend == "eager" and variant == "folded":
                    continue  # folding is done on programs and files
                measured = row(dtype, backend, partial(timed, subject, dtype, backend, variant, clock.budget, batch))
                yield {**measured, "variant": variant, "batch": batch}
                if measured["ok"] is not True:
                    break  # a package that the first variant lacks is missing for the others, too
                torch._dynamo.reset()  # type: ignore[no-untyped-call]


def timed(subject: Subject, dtype: str, backend: str, variant: str, budget: float, batch: int) -> Row:
    """Run one benchmark in this process."""
    if backend in PACKAGES:
        sides: list[Any] = [subject.engine(name, dtype, backend) for name in ("base", variant)]
        backend = "tensorrt"
    elif backend == "onnxruntime":
        sides = [subject.onnx(name, dtype) for name in ("base", variant)]
    elif variant == "folded":
        sides = [subject.typed_program(name, dtype) for name in ("base", variant)]
    else:
        sides = [subject.typed(name, dtype) for name in ("base", variant)]
    result = bench(
        *sides,
        backend=backend,
        batch=batch,
        budget=budget,
        claim=CLAIM,
        processes=1,
        device=DEVICE,
    )
    document = result.to_dict()
    kept = ("ratio", "ci95", "upper95", "verdict", "sentence", "pairs", "control", "median_seconds", "notes")
    own = ("share", "own_time", "own_missing", "graph", "pairs_agree")
    return {"ok": True, "clock": document["environment"]["clock"], **{key: document[key] for key in kept + own}}


# Rows


def attempt(
    clock: Clock, share: float, part: str, name: str, dtype: str, backend: str, check: Callable[[], Row]
) -> Row:
    """Return one row: a result, a missing package, no time left, or a failure with its message."""
    row: Row = {"part": part, "model": name, "dtype": dtype, "backend": backend}
    if clock.spent > share * clock.seconds:
        return {**row, "ok": None, "why": f"no time left after {clock.spent:.0f} s", "seconds": 0.0}
    start = time.perf_counter()
    try:
        row.update(check())
    except MissingPackage as error:
        row.update(ok=None, why=error.what)
    except CBSurgeonError as error:
        absent = isinstance(error, UsageError) and error.code in ABSENT
        row.update(ok=None if absent else False, why=f"{error.what} [{error.code}] {error.why}")
    except Exception as error:
        # A driver, a compiler or a runtime may raise anything; the other rows must still be measured.
        row.update(ok=False, why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    torch.cuda.empty_cache()
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def show(row: Row) -> str:
    """Return the row as a line of text."""
    head = f"{row['part']:<8}{row['model']:<11} {row['dtype']:<9} {row['backend']:<21}"
    if "why" in row:
        return f"{head} {row.get('variant', ''):<7}{'FAILED' if row['ok'] is False else 'left out':<10} {row['why']}"
    if row["part"] == "parity":
        word = "same" if row["ok"] else "DIFFERENT"
        return f"{head} {word:<17} max |Δ| {row['max_abs']:.1e} of {row['allowed']:.1e} allowed"
    low, high = (100 * (value - 1) for value in row["ci95"])
    first, second = (1e3 * row["median_seconds"][side] for side in ("a", "b"))
    return (
        f"{head} {row['variant']:<7} batch {row['batch']:<4} "
        f"{first:.3f} -> {second:.3f} ms {100 * (row['ratio'] - 1):+6.2f} % "
        f"({low:+.2f} to {high:+.2f})  {row['verdict']}, {row['clock']}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Check and measure; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["ViT-S", "Swin-T"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "float16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8], help="samples per call of latency")
    parser.add_argument("--only", choices=("parity", "latency"), help="leave the other part out")
    parser.add_argument(
        "--seconds", type=float, default=450.0, help="for the whole script; no row is started after that"
    )
    parser.add_argument("--budget", type=float, default=4.0, help="seconds of measuring for each row of latency")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="keep the exported files here")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("skipped: PyTorch finds no NVIDIA GPU on this machine; nothing was checked", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    clock, found = Clock(options.seconds, options.budget), list[Row]()
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        subjects = [Subject(name, folder) for name in options.models]
        parts: dict[str, Callable[[Subject, list[str], Clock], Iterator[Row]]] = {
            "parity": parity,
            "latency": partial(latency, batches=options.batches),
        }
        for part in [parts[options.only]] if options.only else parts.values():
            for subject in subjects:
                for row in part(subject, options.dtypes, clock):
                    found.append(row)
                    print(show(row), flush=True)
                    write(options.output, found, clock)
    ran = [row for row in found if row["ok"] is not None]
    return 0 if ran and all(row["ok"] for row in ran) else 1


def write(path: Path, rows: list[Row], clock: Clock) -> None:
    """Write the results; called after every row, so that an interrupted run keeps its rows."""
    device = {
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
    }
    document = {
        "schema": SCHEMA,
        "environment": {**environment(), **device},
        "seconds": round(clock.spent, 1),
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
