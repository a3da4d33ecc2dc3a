"""``verify``: checking whether two models compute the same outputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cbsurgeon.checks import memory
from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.bisection import bisect as bisect_sides
from cbsurgeon.checks.parity.bisection import end_nodes
from cbsurgeon.checks.parity.inputs.feed import Source
from cbsurgeon.checks.parity.inputs.images import image_feeds
from cbsurgeon.checks.parity.inputs.onnx_tables import onnx_tables
from cbsurgeon.checks.parity.inputs.plan import feeds
from cbsurgeon.checks.parity.inputs.sizes import sizes_compared
from cbsurgeon.checks.parity.inputs.tables import common, cut, tables
from cbsurgeon.checks.parity.inputs.vocabulary import coverage
from cbsurgeon.checks.parity.inserted.effect import Operators
from cbsurgeon.checks.parity.judging import Judge
from cbsurgeon.checks.parity.reference import Reference
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
BLIND = "the outputs are the same for all samples, so they cannot show a difference between the models"
COARSE = "the outputs are whole numbers or saturated values, which show large differences only"

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
    """Run two models on the same inputs and compare their outputs' difference with rounding noise.

    Args:
        a, b: a model, a program, or a file (``.onnx``, ``.engine``, ``.pt2``); ``b`` is judged against ``a``.
        how: batches, inputs and tolerances; or the fields as keywords. Besides ordinary inputs, very large and very
            small ones are generated. If a model's batch is fixed, only that batch size is run. ``device`` may be a
            pair, for A and B.
        backends: back ends for A and B (:data:`cbsurgeon.vocabulary.BACKENDS`); ``None`` runs each as it is.
        program: the captured program of ``a``, if the caller has it already.
        blocks: (node name, block path) of the blocks to bisect (see :func:`bisect`); by default the MLP blocks of
            ``a``, or every residual add if it has none.
        progress: called with a message at each step.

    Returns:
        The result. A difference does not raise an error (see :meth:`Verification.raise_if_failed`).

    Raises:
        UsageError: a batch needs more memory than there is (CB-RUN-14).
        CheckFailed: the models differ in the number or shape of their outputs (CB-VERIFY-02, CB-VERIFY-03), or in
            their fixed batch sizes (CB-VERIFY-05).
        CBSurgeonError: a model cannot be opened or run.
    """
    how = resolve(VerifyOptions, how, keywords, "verify")
    start, trust, device = time.perf_counter(), how.trust, how.device
    tell = progress or (lambda message: None)
    targets = (program if program is not None and backends[0] == "program" else a, b)
    devices = (device, device) if isinstance(device, str) else device
    specs = [RuntimeSpec(*each, trust=trust) for each in zip(targets, backends, devices, strict=True)]
    tell("opening both models")
    with open_spec(specs[0]) as first, open_spec(specs[1]) as second:
        if program is None:
            program = _program_of(a, first) or _program_of(b, second)
        known = _tables(program, (a, first), (b, second))
        left_out = cut(program) if program is not None else frozenset[str]()
        source = Source(program, first.inputs, _integers(a) or _integers(b), known, left_out)
        reference, given = Reference(program), policy.given(how.atol, how.rtol)
        judge = Judge(first, second, source, reference, _operators(reference, b), given, _depth(program, b))
        only = one_batch(first, second)
        zero = max(policy.eps(first.dtype), policy.eps(second.dtype)) <= policy.eps("float32")
        sizes = tuple(how.batches) if only is None else (only,)
        if set(devices) == {"cpu"}:
            _require_memory((a, b) if program is None else (program,), sizes, how.max_memory)
        plan = list(feeds(source, sizes, how.inputs, zero=zero))
        if how.data is not None:
            tell("reading images")
            plan += image_feeds(how.data, (a, b), second if second.only_batch is not None else first)
        found = judge.verdict(plan, tell)
        compared = [feed for feed in plan if feed.label not in judge.refused]
        sized = sizes_compared((first.inputs, second.inputs), compared, source.batch_axes)
        found = dataclasses.replace(found, notes=(*found.notes, *coverage(source, compared), *sized))
        if how.data is not None:
            found = dataclasses.replace(found, images=judge.agreement.to_dict(str(how.data)))
        if only is not None:
            note = f"compared only at batch {only}, to which the model is fixed"
            found = dataclasses.replace(found, notes=(*found.notes, note))
    inside = (program if isinstance(a, Model) and program is not None else a, b)
    if (judge.blind or judge.coarse) and given is None:
        shown = next((feed for feed in plan if feed.batch >= policy.NOISE_BATCH), plan[0])
        few = shown.tensors if only is not None else shown.first(policy.NOISE_BATCH, source.batch_axes)
        found = _compare_streams(found, inside, backends, trust, few, BLIND if judge.blind else COARSE)
    if how.bisect and not found.ok:
        failed = judge.fed.get(found.worst)  # None if the worst row is a block, not an output
        tensors = failed.tensors if failed is not None else None
        ends = blocks or _ends(a)
        found = found.with_bisection(
            bisect_sides(*inside, blocks=ends, inputs=tensors, backends=backends, trust=trust, progress=progress)
        )
    return dataclasses.replace(found, seconds=round(time.perf_counter() - start, 3))


def _require_memory(targets: Sequence[Target], batches: Sequence[int], limit: int | None) -> None:
    """Refuse batches whose inputs, all held at once, and largest run need more memory than there is (CB-RUN-14)."""
    largest = max(batches, default=0)
    if largest > 0:
        others = 2 * sorted(batches)[:2][-1]  # inputs of large and of small magnitude
        sets = (sum(batches) + others) / largest
        memory.require(targets, largest, sets=sets, limit=limit, where=f"batch size {largest}")


def _ends(a: Target) -> tuple[tuple[str, str], ...] | None:
    """Return the ends of a model's MLP blocks; ``None`` (compare all residual adds) if there are none."""
    return (end_nodes(inspect(a, check=False)) or None) if isinstance(a, Model) else None


def _compare_streams(
    found: Verification,
    sides: tuple[Target, Target],
    backends: tuple[str | None, str | None],
    trust: bool,
    inputs: Mapping[str, Tensor],
    why: str,
) -> Verification:
    """Compare residual streams as well, if the outputs show no difference, or only large ones.

    If the streams cannot be compared, outputs that are equal for all samples are a failure, because nothing was shown.
    Outputs that show large differences stay the result, with a note.
    """

    def without(reason: str) -> Verification:
        if why == BLIND:
            return dataclasses.replace(found, failures=(*found.failures, reason))
        return dataclasses.replace(found, notes=(*found.notes, reason))

    try:
        gaps = bisect_sides(*sides, inputs=inputs, backends=backends, trust=trust).gaps
    except (UsageError, CheckFailed) as error:
        return without(f"{why}; the residual stream cannot be compared: {error.what}")
    if not gaps:
        return without(f"{why}; there is no residual stream that could be compared")
    if not any(gap.varies for gap in gaps):
        return without(
            f"{why}; the residual stream is the same for all samples, too: give your own inputs with --inputs"
        )
    gap = next((gap for gap in gaps if not gap.ok), [gap for gap in gaps if gap.varies][-1])
    # The block is judged by its relative L2 error; this converts that limit to an absolute one.
    absolute = gap.max_abs * gap.allowed / gap.rel_l2 if gap.rel_l2 else 0.0
    limit = Tolerance(absolute, 0.0, gap.allowed, "measured", f"at a block: {why}")
    row = Row("generated", policy.NOISE_BATCH, f"{gap.block} ({gap.node})", gap.max_abs, gap.rel_l2, gap.cosine, None,
              None, gap.would_pass_at, limit, gap.ok, "" if gap.ok else "the residual stream differs here")  # fmt: skip
    return dataclasses.replace(found, rows=(*found.rows, row), notes=(*found.notes, f"{why}: a block is compared"))


def one_batch(a: Runtime, b: Runtime) -> int | None:
    """Return the only batch size that both runtimes accept; ``None`` if both are dynamic.

    Raises:
        CheckFailed: they are fixed to different sizes (CB-VERIFY-05).
    """
    sizes = [size for size in (a.only_batch, b.only_batch) if size is not None]
    if len(set(sizes)) > 1:
        raise CheckFailed(
            "the two models are fixed to different batch sizes",
            code="CB-VERIFY-05",
            where=f"{a.name} and {b.name}",
            why=f"their batch sizes are {sizes[0]} and {sizes[1]}",
            do="compare each with the model it was made from",
        )
    return sizes[0] if sizes else None


def _program_of(target: Target, runtime: Runtime) -> Program | None:
    """Return a model's captured program; ``None`` for a file without one."""
    if isinstance(target, Program):
        return target
    held: Any = getattr(runtime, "program", None)
    if isinstance(held, Program) and runtime.backend != "folded":
        return held
    return capture(target) if isinstance(target, Model) else None


def _operators(reference: Reference, b: Target) -> Operators:
    """Return the inserted operators of the first model's program, or else of the second's."""
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


def _tables(program: Program | None, *sides: tuple[Target, Runtime]) -> dict[str, range]:
    """Return the integer inputs that index a table, under the names that generated inputs have."""
    if program is not None:
        return tables(program)
    names, found = [port.name for port in sides[0][1].inputs], dict[str, range]()
    for target, runtime in sides:
        if not isinstance(target, (str, Path)) or Path(target).suffix.lower() != ".onnx":
            continue
        own = [port.name for port in runtime.inputs]
        aliases = dict(zip(own, names, strict=True)) if set(own) != set(names) and len(own) == len(names) else {}
        for name, valid in onnx_tables(Path(target)).items():
            found[aliases.get(name, name)] = common(found.get(aliases.get(name, name)), valid)
    return {name: valid for name, valid in found.items() if valid and name in names}


def _depth(program: Program | None, target: Target) -> int:
    """Return the number of matrix products and convolutions in the model; 1 if unknown."""
    if program is not None:
        nodes = (str(node.target) for node in program.exported.graph.nodes if node.op == "call_function")
        return sum(any(word in name for word in _CONTRACTIONS) for name in nodes)
    if isinstance(target, (str, Path)) and Path(target).suffix.lower() == ".onnx":
        return sum(node.op_type in _ONNX_CONTRACTIONS for node in onnx_file.load(Path(target)).graph.node)
    return 1


__all__ = ["verify"]
