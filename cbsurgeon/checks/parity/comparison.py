"""Whether two models compute the same outputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.bisection import bisect as bisect_sides
from cbsurgeon.checks.parity.bisection import end_nodes
from cbsurgeon.checks.parity.images import image_feeds
from cbsurgeon.checks.parity.inputs import Source, coverage, feeds
from cbsurgeon.checks.parity.judging import Judge
from cbsurgeon.checks.parity.reference import Operators, Reference
from cbsurgeon.checks.parity.result import Verification
from cbsurgeon.checks.parity.row import Row, Tolerance
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.runtimes import Runtime, RuntimeSpec, Target, open_spec
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.graph import Program, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.operators.base import Operator
from cbsurgeon.options import VerifyOptions, documented, resolve
from cbsurgeon.vocabulary import Progress

_CONTRACTIONS = ("linear", "matmul", "bmm", "mm", "addmm", "conv", "attention")
_ONNX_CONTRACTIONS = {"MatMul", "Gemm", "Conv", "Attention", "Einsum"}


@documented(VerifyOptions)
def verify(
    a: Target,
    b: Target,
    how: VerifyOptions | None = None,
    /,
    *,
    backends: tuple[str | None, str | None] = (None, None),
    program: Program | None = None,
    blocks: Sequence[tuple[str, str]] | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Verification:
    """Run two sides on the same inputs and judge the difference against rounding noise.

    Args:
        a, b: a model, a program, or a file (``.onnx``, ``.engine``, ``.pt2``); ``b`` is judged against ``a``.
        how: batches, inputs and tolerances; or the fields as keywords. One set of the generated inputs is large in
            magnitude. Where a side's batch is fixed, that one is run instead. ``device`` may be one for each side.
        backends: how to run each side (:data:`cbsurgeon.vocabulary.BACKENDS`); ``None`` runs it as it is.
        program: the captured program of ``a``, if the caller has it already.
        blocks: (node name, block path) of the blocks to bisect (see :func:`bisect`); the
            MLP blocks of ``a`` when absent, every point of its residual stream where it has none.
        progress: told each step.

    Returns:
        The result; it never raises because of a difference (see :meth:`Verification.raise_if_failed`).

    Raises:
        CheckFailed: the sides differ in the number or the shape of their outputs (CB-VERIFY-02, CB-VERIFY-03), or in
            the one batch size they take (CB-VERIFY-05).
        CBSurgeonError: a side cannot be opened or run.
    """
    how = resolve(VerifyOptions, how, keywords, "verify")
    start, trust, device = time.perf_counter(), how.trust, how.device
    tell = progress or (lambda message: None)
    targets = (program if program is not None and backends[0] == "program" else a, b)
    devices = (device, device) if isinstance(device, str) else device
    specs = [RuntimeSpec(*each, trust=trust) for each in zip(targets, backends, devices, strict=True)]
    tell("opening both sides")
    with open_spec(specs[0]) as first, open_spec(specs[1]) as second:
        if program is None:
            program = _program_of(a, first) or _program_of(b, second)
        source = Source(program, first.inputs, _integers(a) or _integers(b))
        reference, given = Reference(program), policy.given(how.atol, how.rtol)
        judge = Judge(first, second, source, reference, _operators(reference, b), given, _depth(program, b))
        only = one_batch(first, second)
        plan = list(feeds(source, how.batches if only is None else (only,), how.inputs))
        if how.data is not None:
            tell("read images")
            plan += image_feeds(how.data, (a, b), second if second.only_batch is not None else first)
        judge.notes += coverage(program, plan)
        found = judge.verdict(plan, tell)
        if how.data is not None:
            found = dataclasses.replace(found, images=judge.agreement.to_dict(str(how.data)))
        if only is not None:
            note = f"compared at batch {only} alone, at which it is fixed"
            found = dataclasses.replace(found, notes=(*found.notes, note))
    inside = (program if isinstance(a, Model) and program is not None else a, b)
    if judge.blind and given is None:
        found = _look_inside(found, *inside, backends, trust)
    if how.bisect and not found.ok:
        failed = judge.fed.get(found.worst)  # none where the worst row is a block rather than an output
        tensors = failed.tensors if failed is not None else None
        ends = blocks or _ends(a)
        found = found.with_bisection(
            bisect_sides(*inside, blocks=ends, inputs=tensors, backends=backends, trust=trust, progress=progress)
        )
    return dataclasses.replace(found, seconds=round(time.perf_counter() - start, 3))


def _ends(a: Target) -> tuple[tuple[str, str], ...] | None:
    """Ends of a model's MLP blocks; ``None``, every point of the stream, where it has none or is no model."""
    return (end_nodes(inspect(a, check=False)) or None) if isinstance(a, Model) else None


def _look_inside(
    found: Verification,
    a: Target,
    b: Target,
    backends: tuple[str | None, str | None],
    trust: bool,
) -> Verification:
    """Compare the residual stream where the outputs are the same for all samples (a head that starts at zero)."""
    why = "the outputs do not differ between samples, so they cannot show a difference between the models"
    try:
        gaps = bisect_sides(a, b, backends=backends, trust=trust).gaps
    except (UsageError, CheckFailed) as error:
        failure = f"{why}; nor can the residual stream be compared: {error.what}"
        return dataclasses.replace(found, failures=(*found.failures, failure))
    if not any(gap.varies for gap in gaps):
        failure = f"{why}; nor does the residual stream: give inputs of your own with --inputs"
        return dataclasses.replace(found, failures=(*found.failures, failure))
    gap = next((gap for gap in gaps if not gap.ok), [gap for gap in gaps if gap.varies][-1])
    # The block is judged by its relative L2 error; the absolute limit is that judgement in the unit of max |Δ|.
    absolute = gap.max_abs * gap.allowed / gap.rel_l2 if gap.rel_l2 else 0.0
    limit = Tolerance(absolute, 0.0, gap.allowed, "measured", "at a block; the outputs do not differ between samples")
    row = Row("generated", policy.NOISE_BATCH, f"{gap.block} ({gap.node})", gap.max_abs, gap.rel_l2, gap.cosine, None,
              None, gap.would_pass_at, limit, gap.ok, "" if gap.ok else "the residual stream differs here")  # fmt: skip
    return dataclasses.replace(found, rows=(*found.rows, row), notes=(*found.notes, f"{why}: a block is compared"))


def one_batch(a: Runtime, b: Runtime) -> int | None:
    """The one batch size that two sides take, ``None`` where both are open.

    Raises:
        CheckFailed: each takes another one (CB-VERIFY-05).
    """
    sizes = [size for size in (a.only_batch, b.only_batch) if size is not None]
    if len(set(sizes)) > 1:
        raise CheckFailed(
            "the two sides take different batches",
            code="CB-VERIFY-05",
            where=f"{a.name} and {b.name}",
            why=f"the batch is fixed at {sizes[0]} and at {sizes[1]}",
            do="compare each with the model it was made from",
        )
    return sizes[0] if sizes else None


def _program_of(target: Target, runtime: Runtime) -> Program | None:
    """The captured program behind a side, or ``None`` for a file that is not one."""
    if isinstance(target, Program):
        return target
    held: Any = getattr(runtime, "program", None)
    if isinstance(held, Program) and runtime.backend != "folded":
        return held
    return capture(target) if isinstance(target, Model) else None


def _operators(reference: Reference, b: Target) -> Operators:
    """The inserted operators of the first model's program, else of the second's."""
    found = Operators(reference)
    if found.exists:
        return found
    if isinstance(b, Program):
        return Operators(Reference(b))
    if isinstance(b, Model) and b.module is not None and any(isinstance(m, Operator) for m in b.module.modules()):
        return Operators(Reference(capture(b)))
    return found


def _integers(target: Target) -> dict[str, list[int]]:
    if not isinstance(target, (str, Path)) or Path(target).suffix.lower() != ".onnx":
        return {}
    metadata = onnx_file.read_metadata(target) or {}
    return dict(metadata.get("integer_inputs") or {})


def _depth(program: Program | None, target: Target) -> int:
    """Matrix products and convolutions in the model, however it can be read."""
    if program is not None:
        nodes = (str(node.target) for node in program.exported.graph.nodes if node.op == "call_function")
        return sum(any(word in name for word in _CONTRACTIONS) for name in nodes)
    if isinstance(target, (str, Path)) and Path(target).suffix.lower() == ".onnx":
        return sum(node.op_type in _ONNX_CONTRACTIONS for node in onnx_file.load(Path(target)).graph.node)
    return 1


__all__ = ["verify"]
