"""One model of the sweep: CB inserted, exported to ONNX, compared in ONNX Runtime, built into an engine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.insertion import parts
from benchmarks.zoo.sweeping import attempt
from cbsurgeon.checks import verify
from cbsurgeon.deploy import build_engine, export_onnx
from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.graph import Inspection, Program, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_module, insert_program, plan

BATCHES = (1, 2)
STEPS = ("insert", "onnx", "parity", "engine")


def measure(entry: Entry) -> dict[str, Any]:
    """Run all steps for one entry; ``steps`` names each step that passed, ``error`` has the first failure."""
    with attempt(entry, steps={}, remarks=[]) as result:
        _deploy(entry, result)
    return result


def _deploy(entry: Entry, result: dict[str, Any]) -> None:
    model, found = _readable(entry, result["remarks"])
    result["blocks"] = sum(block.default for block in found.blocks)
    if not result["blocks"]:
        result["remarks"].append("no block to insert in")
        return
    steps = result["steps"]
    edited, program = _step(steps, "insert", lambda: _edited(model, found, result))
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
        onnx = Path(folder) / "model.onnx"
        made = _step(steps, "onnx", lambda: export_onnx(edited, onnx, program=program))
        result["folded"] = sum(bool(site) for site in made.sites)
        result |= _step(steps, "parity", lambda: _parity(edited, program, onnx))
        if result["parity"]["ok"]:
            built = _step(steps, "engine", lambda: build_engine(onnx, Path(folder) / "model.engine"))
            result["engine_bytes"] = built.bytes
        else:
            result |= {"error": "parity outside the tolerance", "why": ""}


def _step(steps: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    answer = work()
    steps[name] = round(time.perf_counter() - began, 2)
    return answer


def _readable(entry: Entry, remarks: list[str]) -> tuple[Model, Inspection]:
    """Return the model, or its captured part with the most blocks, and its inspection; without a padding mask, if the
    model also runs without one."""
    candidates = [(model, inspect(model)) for model, _ in parts(entry)]
    model, found = max(candidates, key=lambda each: len(each[1]))
    if len(candidates) > 1 or "program" in model.provenance.reference:
        remarks.append(f"not captured whole; the part {model.provenance.reference}")
    if found.masks:
        given = {name: value for name, value in model.example_kwargs.items() if name not in found.masks}
        bare = replace(model, example_kwargs=given, program=None)
        try:
            unmasked = inspect(bare)
        except CBSurgeonError:
            unmasked = found
        if unmasked.masks:
            remarks.append("it makes or needs a mask that may mark padding: inserted all the same")
            return model, replace(found, masks=())
        remarks.append("without its padding mask")
        return bare, unmasked
    return model, found


def _edited(model: Model, found: Inspection, result: dict[str, Any]) -> tuple[Model, Program]:
    options: dict[str, Any] = {}
    if found.causal:
        options["causal"] = True
        result["remarks"].append("the causal form")
    recipe = plan(found, op="cb", layers="upper", pos="end", allow_partial=True, **options)
    result["sites"] = len(recipe.active)
    if all(site.hooks for site in recipe.active):
        edited = insert_module(replace(model, program=None), recipe)
    else:
        edited = insert_program(model, recipe)
        result["remarks"].append("through the program: no module has the tensor of some site")
    return edited, capture(edited)


def _parity(edited: Model, program: Program, onnx: Path) -> dict[str, Any]:
    verdict = verify(edited, onnx, batches=BATCHES, program=program)
    worst = verdict.worst
    return {
        "parity": {
            "ok": verdict.ok,
            "max_abs": verdict.max_abs,
            "rel_l2": verdict.rel_l2,
            "atol": worst.tolerance.atol,
            "worst": f"{worst.output} ({worst.inputs}, batch {worst.batch})",
            "would_pass_at": verdict.would_pass_at,
            "reference": verdict.reference,
        }
    }
