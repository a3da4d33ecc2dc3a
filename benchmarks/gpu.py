"""Parity on an NVIDIA GPU, for every runtime that has one, in one command.

Nothing here has run on a GPU yet: this is written against the packages' documented interfaces and exercised on the CPU
up to the point where a device is needed. On a machine without a GPU it says so and stops.

    python benchmarks/gpu.py [--models vit swin] [--dtypes float32 float16 bfloat16] [--json out.json] [--keep DIR]

Each row is one model in one type through one runtime on ``cuda``, judged against the eager model on the CPU by the
same tolerance policy as ``cbsurgeon verify``. A runtime that is not installed is a row that says so; a runtime that is
installed and fails is a failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

import cbsurgeon
from cbsurgeon import graph, surgery
from cbsurgeon.checks import verify
from cbsurgeon.deploy import BuildOptions, build_engine, export_onnx, open_runtime
from cbsurgeon.deploy.tensorrt_package import PACKAGES
from cbsurgeon.errors import CBSurgeonError, MissingPackage, UsageError
from cbsurgeon.models.model import Model

MODELS = {
    "vit": lambda: timm.create_model("vit_small_patch16_224"),
    "deit": lambda: timm.create_model("deit_small_patch16_224"),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224"),
    "mixer": lambda: timm.create_model("mixer_s16_224"),
}
DTYPES = ("float32", "float16", "bfloat16")
BATCHES = (1, 2, 7)
PROFILE = (1, 2, 8)
DEVICE = "cuda"

Row = dict[str, Any]


def edited(name: str) -> Model:
    """A model with CB at End in its upper half."""
    torch.manual_seed(0)
    model = Model(MODELS[name]().eval(), (torch.randn(2, 3, 224, 224),))
    return surgery.insert_module(model, surgery.plan(graph.inspect(model), layers="upper", pos="end"))


def rows(name: str, dtypes: list[str], folder: Path) -> Iterator[Row]:
    """Every runtime for one model."""
    model = edited(name)
    program = graph.capture(model)
    for backend in ("eager", "program", "folded", "compile"):
        yield attempt(name, "float32", backend, partial(on_cuda, model, model, backend))
    for dtype in dtypes:
        path = folder / f"{name}-{dtype}.onnx"
        made = export_onnx(model, path, dtype=None if dtype == "float32" else dtype, program=program)
        for backend in ("onnxruntime", "onnxruntime-tensorrt"):
            yield attempt(name, dtype, backend, partial(on_cuda, model, made.path, backend))
        for package in PACKAGES:
            yield attempt(name, dtype, package, partial(engine, model, dtype, package, folder / name))


def on_cuda(model: Model, target: Any, backend: str) -> Row:
    """Parity of one runtime on the GPU against eager on the CPU."""
    found = verify(model, target, batches=BATCHES, backends=("eager", backend), device=("cpu", DEVICE))
    return facts(found)


def engine(model: Model, dtype: str, package: str, stem: Path) -> Row:
    """Build an engine here and judge it, plain and as a CUDA graph."""
    source = stem.with_name(f"{stem.name}-{dtype}-{package}.onnx")
    export_onnx(model, source, dtype=None if dtype == "float32" else dtype, for_tensorrt=True)
    made = build_engine(source, source.with_suffix(".engine"), options=BuildOptions(batch=PROFILE, package=package))
    row = facts(verify(model, made.path, batches=BATCHES))
    with open_runtime(made.path, device=DEVICE, cuda_graph=True) as runtime:
        inputs = graph.capture(model).with_batch(PROFILE[1])
        plain = runtime.run(inputs)
        replay = runtime.prepare(inputs)
        replay()
        runtime.synchronize()
        replayed = getattr(runtime, "_outputs", plain)
        row["cuda_graph_equal"] = all(torch.equal(plain[key], replayed[key]) for key in plain)
        row["layers"] = len(runtime.layers())
        row["ok"] = row["ok"] and row["cuda_graph_equal"]
    return row


def facts(found: Any) -> Row:
    """What a row says about a verification."""
    return {
        "ok": found.ok,
        "max_abs": found.max_abs,
        "rel_l2": found.rel_l2,
        "allowed": found.tolerance.atol,
        "would_pass_at": found.would_pass_at,
        "reference": found.reference,
    }


def attempt(name: str, dtype: str, backend: str, check: Callable[[], Row]) -> Row:
    """One row: a result, a package that is absent, or a failure with its code."""
    start = time.perf_counter()
    row: Row = {"model": name, "dtype": dtype, "backend": backend}
    try:
        row.update(check())
    except MissingPackage as error:
        row.update(ok=None, why=error.what)
    except UsageError as error:
        # A provider this ONNX Runtime was not built with is absent, not wrong.
        row.update(ok=None if error.code == "CB-RUN-06" else False, why=f"{error.what} [{error.code}] {error.why}")
    except CBSurgeonError as error:
        row.update(ok=False, why=f"{error.what} [{error.code}] {error.why}")
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def show(row: Row) -> str:
    word = {True: "same", False: "DIFFERENT", None: "absent"}[row["ok"]]
    tail = row.get("why") or f"max |Δ| {row['max_abs']:.1e} of {row['allowed']:.1e} allowed"
    return f"{row['model']:<8} {row['dtype']:<9} {row['backend']:<22} {word:<10} {tail}"


def environment() -> Row:
    """What was measured on."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cbsurgeon": cbsurgeon.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="keep the exported files here")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no NVIDIA GPU on this machine; nothing was checked", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.models:
            for row in rows(name, options.dtypes, folder):
                found.append(row)
                print(show(row), flush=True)
    if options.json:
        document = {"schema": "cbsurgeon.gpu/1", "environment": environment(), "rows": found}
        options.json.write_text(json.dumps(document, indent=2))
    ran = [row for row in found if row["ok"] is not None]
    return 0 if ran and all(row["ok"] for row in ran) else 1


if __name__ == "__main__":
    sys.exit(main())
