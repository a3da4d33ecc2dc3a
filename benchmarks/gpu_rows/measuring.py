"""Measuring one group of rows; each row is printed as a line of JSON when it is complete."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_rows.plan import MODELS, TORCH, Group
from benchmarks.gpu_rows.subject import PROFILE, Subject
from cbsurgeon import deploy
from cbsurgeon.checks import bench, verify
from cbsurgeon.deploy.tensorrt.package import PACKAGES
from cbsurgeon.errors import CBSurgeonError, MissingPackage, UsageError

BATCHES = (1, 2, 7)
CLAIM = 0.02
"""One process cannot prove a smaller difference end to end, because the choice of kernels differs between processes."""
ABSENT = ("CB-RUN-06", "CB-RUN-03")
"""Error codes for a missing provider of ONNX Runtime and for a missing GPU; they count as absent, not as failures."""
KEPT = ("ratio", "ci95", "upper95", "verdict", "sentence", "pairs", "control", "median_seconds", "notes")
OWN = ("share", "own_time", "own_missing", "graph", "pairs_agree")

Row = dict[str, Any]


def measure(group: Group, device: str, budget: float) -> Iterator[Row]:
    """Yield the rows of a group.

    Args:
        group: the group.
        device: a device of PyTorch.
        budget: seconds of measuring for each row of latency.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
        if group.part == "command":
            yield _attempt(group, lambda: command(group, Path(folder), device, budget))
            return
        subject = Subject(group.model, Path(folder))
        if group.part == "parity":
            yield _attempt(group, lambda: parity(subject, group, device))
            return
        for variant in group.variants:
            row = _attempt(group, lambda variant=variant: latency(subject, group, variant, device, budget))
            yield {**row, "variant": variant}
            if row["ok"] is not True:
                return  # a package that the first variant lacks is missing for the others, too
            torch._dynamo.reset()  # type: ignore[no-untyped-call]


def parity(subject: Subject, group: Group, device: str) -> Row:
    """Compare one back end on the device with the eager model on the CPU, and an engine's replay with its run."""
    model = subject.typed("folded", group.dtype)
    if group.backend in PACKAGES:
        path = subject.engine("folded", group.dtype, group.backend)
        row = _facts(verify(subject.edited("folded"), path, batches=BATCHES))
        return {**row, **_replayed(subject, path, device)}
    if group.backend in TORCH:
        target: Any = model if group.backend != "folded" else subject.typed_program("folded", group.dtype)
        backends = ("eager", "program" if group.backend == "folded" else group.backend)
        return _facts(verify(model, target, batches=BATCHES, backends=backends, device=("cpu", device)))
    path = subject.onnx("folded", group.dtype)
    found = verify(
        subject.edited("folded"), path, batches=BATCHES, backends=("eager", group.backend), device=("cpu", device)
    )
    return _facts(found)


def _facts(found: Any) -> Row:
    return {
        "ok": found.ok,
        "max_abs": found.max_abs,
        "rel_l2": found.rel_l2,
        "allowed": found.tolerance.atol,
        "would_pass_at": found.would_pass_at,
        "reference": found.reference,
    }


def _replayed(subject: Subject, path: Path, device: str) -> Row:
    """Whether the outputs of an engine's CUDA graph are bit-equal to those of a plain run."""
    with deploy.open_runtime(path, device=device, cuda_graph=True) as runtime:
        inputs = subject.program("folded").with_batch(PROFILE[1])
        plain = runtime.run(inputs)
        replay = runtime.prepare(inputs)
        replay()
        runtime.synchronize()
        outputs = getattr(runtime, "_outputs", {})
        equal = set(outputs) == set(plain) and all(torch.equal(value, outputs[key]) for key, value in plain.items())
        layers = len(json.loads(runtime.layers()).get("Layers", ()))  # type: ignore[attr-defined]
    return {"cuda_graph_equal": equal, "layers": layers} if equal else {"cuda_graph_equal": False, "ok": False}


def latency(subject: Subject, group: Group, variant: str, device: str, budget: float) -> Row:
    """Compare one form with the unedited model, in turns."""
    backend = group.backend
    if backend in PACKAGES:
        sides: list[Any] = [subject.engine(name, group.dtype, backend) for name in ("base", variant)]
        backend = "tensorrt"
    elif backend not in TORCH:
        sides = [subject.onnx(name, group.dtype) for name in ("base", variant)]
    elif variant == "folded":  # folding is done on programs
        sides = [subject.typed_program(name, group.dtype) for name in ("base", variant)]
    else:
        sides = [subject.typed(name, group.dtype) for name in ("base", variant)]
    how = {"backend": backend, "batch": group.batch, "budget": budget, "claim": CLAIM, "processes": 1}
    document = bench(*sides, device=device, **how).to_dict()
    return {"ok": True, "clock": document["environment"]["clock"], **{key: document[key] for key in KEPT + OWN}}


def command(group: Group, folder: Path, device: str, budget: float) -> Row:
    """Run the public commands: ``insert``, then ``bench A B``."""
    reference, edited = MODELS[group.model], folder / "edited.safetensors"
    program = [sys.executable, "-W", "ignore", "-m", "cbsurgeon"]
    insert = ["insert", reference, "--layers", "upper", "--pos", "end", "-o", str(edited), "--json"]
    subprocess.run([*program, *insert], check=True, capture_output=True)
    timing = ["--device", device, "--on", group.backend, "--batch", str(group.batch), "--budget", f"{budget}s"]
    done = subprocess.run(
        [*program, "bench", reference, str(edited), *timing, "--json"], check=False, capture_output=True, text=True
    )
    document = json.loads(done.stdout)
    if "error" in document:
        return {"ok": False, "why": json.dumps(document["error"])[:300]}
    return {"ok": True, "exit_code": done.returncode, **{key: document[key] for key in KEPT + OWN}}


def _attempt(group: Group, check: Callable[[], Row]) -> Row:
    """Return one row: a result, a missing package, or a failure with its message."""
    row: Row = {**group.row(), "clocks": [_clocks()]}
    start = time.perf_counter()
    try:
        row.update({"ok": True, **check()})
    except MissingPackage as error:
        row.update(ok=None, why=error.what)
    except CBSurgeonError as error:
        absent = isinstance(error, UsageError) and error.code in ABSENT
        row.update(ok=None if absent else False, why=f"{error.what} [{error.code}] {error.why}")
    except Exception as error:
        # A driver, a compiler or a runtime may raise anything; the other rows must still be measured.
        row.update(ok=False, why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    row["clocks"].append(_clocks())
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _clocks() -> str | None:
    """Clock rate of the multiprocessors and the reasons for throttling, from nvidia-smi; ``None`` without it."""
    fields = "clocks.sm,clocks_event_reasons.active"
    try:
        words = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
