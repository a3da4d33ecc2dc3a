"""Whether two sides compute the same thing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.checks.parity import difference as compare
from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.bisection import bisect as bisect_sides
from cbsurgeon.checks.parity.bisection import end_nodes
from cbsurgeon.checks.parity.inputs import Arrays, Feed, Source, feeds
from cbsurgeon.checks.parity.result import Row, Side, Tolerance, Verification
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.runtimes import Runtime, RuntimeSpec, Target
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.graph import Program, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

BATCHES = (1, 2, 7)

Progress = Callable[[str], None]

_CONTRACTIONS = ("linear", "matmul", "bmm", "mm", "addmm", "conv", "attention")
_ONNX_CONTRACTIONS = {"MatMul", "Gemm", "Conv", "Attention", "Einsum"}


def verify(
    a: Target,
    b: Target,
    *,
    batches: Sequence[int] = BATCHES,
    inputs: Arrays | str | Path | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    backends: tuple[str | None, str | None] = (None, None),
    device: str | tuple[str, str] = "cpu",
    trust: bool = False,
    program: Program | None = None,
    bisect: bool = False,
    blocks: Sequence[tuple[str, str]] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Run two sides on the same inputs and judge the difference against rounding noise.

    Args:
        a, b: a model, a program, or a file (``.onnx``, ``.engine``, ``.pt2``); ``b`` is judged against ``a``.
        batches: batch sizes to run; where a side's batch is fixed, that one is run instead.
        inputs: arrays by input name, or an ``.npz`` file of them; generated when absent, one set large in magnitude.
        atol, rtol: a tolerance of the user's own; when absent it follows from measured rounding noise
            (:mod:`cbsurgeon.checks.parity.tolerance`).
        backends: how to run each side (:data:`cbsurgeon.deploy.BACKENDS`); ``None`` runs it as it is.
        device: where to run, one for both sides or one for each; an engine runs on the GPU in any case.
        trust: the user vouches for files that can run code.
        program: the captured program of ``a``, if the caller has it already.
        bisect: where a row fails, find the first block at which the sides part.
        blocks: (node name, block path) of the blocks to look at (see :func:`bisect`); the
            MLP blocks of ``a`` when absent, every point of its residual stream where it has none.
        progress: told each step.

    Returns:
        The result; it never raises because of a difference (see :meth:`Verification.raise_if_failed`).

    Raises:
        CheckFailed: the sides differ in the number or the shape of their outputs (CB-VERIFY-02, CB-VERIFY-03), or in
            the one batch size they take (CB-VERIFY-05).
        CBSurgeonError: a side cannot be opened or run.
    """
    start = time.perf_counter()
    tell = progress or (lambda message: None)
    targets = (program if program is not None and backends[0] == "program" else a, b)
    devices = (device, device) if isinstance(device, str) else device
    specs = [RuntimeSpec(*each, trust=trust) for each in zip(targets, backends, devices, strict=True)]
    tell("opening both sides")
    with specs[0].open() as first, specs[1].open() as second:
        if program is None:
            program = _program_of(a, first) or _program_of(b, second)
        source = Source(program, first.inputs, _integers(a) or _integers(b))
        judge = _Judge(first, second, source, policy.Reference(program), policy.given(atol, rtol), _depth(program, b))
        only = one_batch(first, second)
        plan = list(feeds(source, batches if only is None else (only,), inputs))
        found = judge.verdict(plan, tell)
        if only is not None:
            note = f"compared at batch {only} alone, at which it is fixed"
            found = dataclasses.replace(found, notes=(*found.notes, note))
    inside = (program if isinstance(a, Model) and program is not None else a, b)
    if found.rows and all(judge.blind):
        found = _look_inside(found, *inside, backends, trust)
    if bisect and not found.ok:
        failed = next(feed for feed in plan if (feed.label, feed.batch) == (found.worst.inputs, found.worst.batch))
        ends = blocks or _ends(a)
        found = found.with_bisection(
            bisect_sides(*inside, blocks=ends, inputs=failed.tensors, backends=backends, trust=trust, progress=progress)
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
    """Outputs that are one constant (a head that starts at zero) say nothing: compare the last block's result."""
    try:
        gap = bisect_sides(a, b, backends=backends, trust=trust).gaps[-1]
    except UsageError as error:
        note = f"every output is one constant, so this proves little; looking inside failed: {error.what}"
        return dataclasses.replace(found, notes=(*found.notes, note))
    # The block is judged by its relative L2 error; the absolute limit is that judgement in the unit of max |Δ|.
    absolute = gap.max_abs * gap.allowed / gap.rel_l2 if gap.rel_l2 else 0.0
    limit = Tolerance(absolute, 0.0, gap.allowed, "measured", "at the last block; every output is one constant")
    row = Row("generated", policy.NOISE_BATCH, f"{gap.block} ({gap.node})", gap.max_abs, gap.rel_l2, gap.cosine, None,
              None, gap.would_pass_at, limit, gap.ok)  # fmt: skip
    return dataclasses.replace(found, rows=(*found.rows, row))


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


def side(runtime: Runtime) -> Side:
    """A runtime as the result names it."""
    return Side(runtime.name, runtime.backend, runtime.device.type, runtime.dtype)


class _Judge:
    """Compares two runtimes, one set of inputs at a time."""

    def __init__(
        self,
        a: Runtime,
        b: Runtime,
        source: Source,
        reference: policy.Reference,
        given: Tolerance | None,
        depth: int,
    ) -> None:
        self.a, self.b, self.source, self.reference = a, b, source, reference
        self.given, self.depth = given, depth
        self._floors: dict[str, dict[str, policy.Floor]] = {}
        self.blind: list[bool] = []

    def verdict(self, plan: Sequence[Feed], tell: Progress) -> Verification:
        """Every row, and who was compared."""
        rows: list[Row] = []
        for feed in plan:
            tell(f"comparing {feed.label} inputs, batch {feed.batch}")
            rows += self.rows(feed, plan)
        notes = (*self.a.notes, *self.b.notes)
        return Verification(side(self.a), side(self.b), tuple(rows), str(self.reference), notes=notes)

    def rows(self, feed: Feed, plan: Sequence[Feed]) -> list[Row]:
        tensors = renamed(feed.tensors, self.a)
        left = self.a.run(tensors)
        right = self.b.run(renamed(feed.tensors, self.b))
        right = match_outputs(left, right, self.a.name, self.b.name)
        floors = self._noise(feed.label, plan)
        return [self._row(feed, name, left[name], right[name], floors.get(name)) for name in left]

    def _noise(self, label: str, plan: Sequence[Feed]) -> dict[str, policy.Floor]:
        """Noise on a few samples of one kind of inputs; it belongs to samples, not to how many are stacked."""
        if self.given is not None:
            return {}
        if label not in self._floors:
            alike = sorted((feed for feed in plan if feed.label == label), key=lambda feed: feed.batch)
            chosen = next((feed for feed in alike if feed.batch >= policy.NOISE_BATCH), alike[-1])
            few = chosen.first(policy.NOISE_BATCH, self.source.batch_axes)
            self._floors[label] = self.reference.floors(few, (self.a.dtype, self.b.dtype))
        return self._floors[label]

    def _row(self, feed: Feed, name: str, a: Tensor, b: Tensor, floor: policy.Floor | None) -> Row:
        gap = compare.difference(b, a)
        self.blind.append(bool((a == a.flatten()[0]).all()) if a.numel() > 1 else False)
        tolerance = self._tolerance(feed, a, floor)
        needed = compare.passing_atol(gap, a, tolerance.rtol)
        relative = compare.relative_l2(gap, a)
        within = needed <= tolerance.atol and (tolerance.rel_l2 is None or relative <= tolerance.rel_l2)
        return Row(
            inputs=feed.label,
            batch=feed.batch,
            output=name,
            max_abs=compare.largest(gap),
            rel_l2=relative,
            cosine=compare.cosine(a, b),
            top1=compare.top1(a, b),
            noise=floor.max_abs if floor else None,
            would_pass_at=needed,
            tolerance=tolerance,
            ok=within,
        )

    def _tolerance(self, feed: Feed, a: Tensor, floor: policy.Floor | None) -> Tolerance:
        if not a.is_floating_point():
            return Tolerance(0.0, 0.0, None, "given", "integers are compared exactly")
        if self.given is not None:
            return self.given
        dtypes = (self.a.dtype, self.b.dtype)
        coarser = max(dtypes, key=policy.eps)
        if floor is not None:
            return policy.measured(floor, coarser, feed.label, compare.root_mean_square(a))
        scale = compare.largest(torch.nan_to_num(a.detach().cpu().double(), posinf=0.0, neginf=0.0).abs())
        return policy.estimated(dtypes, self.depth, scale, self.reference.reason)


def renamed(tensors: Mapping[str, Tensor], runtime: Runtime) -> dict[str, Tensor]:
    """Inputs under a runtime's own names: as they are where they agree, in order where they are as many."""
    names = [port.name for port in runtime.inputs]
    if set(names) == set(tensors) or len(names) != len(tensors):
        return dict(tensors)
    return dict(zip(names, tensors.values(), strict=True))


def match_outputs(left: Mapping[str, Tensor], right: Mapping[str, Tensor], a: str, b: str) -> dict[str, Tensor]:
    """The second side's outputs under the first side's names.

    Raises:
        CheckFailed: other numbers of outputs (CB-VERIFY-02), or another shape (CB-VERIFY-03).
    """
    if len(left) != len(right):
        raise CheckFailed(
            "the two sides have different outputs",
            code="CB-VERIFY-02",
            where=f"{a} and {b}",
            why=f"{', '.join(left)} against {', '.join(right)}",
            do="compare a model with its own export",
        )
    matched = dict(right) if set(left) == set(right) else dict(zip(left, right.values(), strict=True))
    for name, tensor in left.items():
        if tensor.shape != matched[name].shape:
            raise CheckFailed(
                "an output has another shape",
                code="CB-VERIFY-03",
                where=f"output {name}",
                why=f"{list(tensor.shape)} in {a}, {list(matched[name].shape)} in {b}",
                do="compare a model with its own export",
            )
    return matched


def _program_of(target: Target, runtime: Runtime) -> Program | None:
    """The captured program behind a side, or ``None`` for a file that is not one."""
    if isinstance(target, Program):
        return target
    held: Any = getattr(runtime, "program", None)
    if isinstance(held, Program) and runtime.backend != "folded":
        return held
    return capture(target) if isinstance(target, Model) else None


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


__all__ = ["BATCHES", "Verification", "match_outputs", "renamed", "side", "verify"]
