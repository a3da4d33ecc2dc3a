"""Finding the first block at which two sides part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from cbsurgeon.checks.parity import difference as compare
from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.located import Bisection, BlockGap
from cbsurgeon.checks.parity.reference import Named
from cbsurgeon.checks.parity.row import Side
from cbsurgeon.checks.parity.stream import Key, OnnxStream, ProgramStream, Stream, program_points, stream_after
from cbsurgeon.deploy.folding.folds import fold
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.runtimes import RuntimeSpec, Target, stage
from cbsurgeon.deploy.typed import floating_type
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.graph import Block, Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import ENGINE_SUFFIXES, Progress

Pair = tuple[str, str]

# Contractions in one block of an attention network, for the estimate where nothing can be measured.
_CONTRACTIONS_PER_POINT = 3


def end_nodes(blocks: Iterable[Block]) -> tuple[Pair, ...]:
    """(node name, block path) of the end of every block, in graph order, once per call of the block."""
    pairs = [
        (use.value, block.path or f"block {block.index}")
        for block in blocks
        if "end" in block.sites
        for use in block.sites["end"].uses
    ]
    return tuple(pairs)


def bisect(
    a: Target,
    b: Target,
    *,
    blocks: Sequence[Pair] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    batch: int = policy.NOISE_BATCH,
    backends: tuple[str | None, str | None] = (None, None),
    trust: bool = False,
    progress: Progress | None = None,
) -> Bisection:
    """Compare the residual stream after every block, in graph order.

    A model is read through its captured program, which capture itself holds against the eager model. A block's own
    value is compared where it has joined the stream: folding, and a missing operator, change what lies inside it.

    Args:
        a, b: a model, a program or an ``.onnx`` file; ``b`` is judged against ``a``.
        blocks: (node name in ``a``'s program, block path) of each block's end, such as :func:`end_nodes` gives;
            every point of the residual stream when absent.
        inputs: tensors by input name; generated when absent.
        batch: batch size of generated inputs.
        backends: ``folded`` or ``onnxruntime`` to read a model in that form.
        trust: the user vouches for files that can run code.
        progress: told each step.

    Raises:
        UsageError: no side is a model (CB-BISECT-01), a side that cannot be read inside (CB-BISECT-02), or none of
            the blocks joins a residual stream (CB-BISECT-03).
        CheckFailed: the two sides have different residual streams (CB-BISECT-04).
    """
    tell = progress or (lambda message: None)
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
        tell("reading both sides")
        first, second = (
            _stream(target, backend, trust, Path(folder), f"side{index}")
            for index, (target, backend) in enumerate(zip((a, b), backends, strict=True))
        )
        program = next((side.program for side in (first, second) if isinstance(side, ProgramStream)), None)
        points = _points(program, first, blocks)
        keys = [key for key, _, _ in points]
        _require_both(keys, second)
        if inputs is None:
            inputs = _generated(program, batch)
        tell(f"comparing {len(keys)} blocks")
        left, right = first.read(inputs, keys), second.read(inputs, keys)
        sides = (_side(a, first), _side(b, second))
        allowed = _allowed(program, inputs, keys, (sides[0].dtype, sides[1].dtype))
        gaps = tuple(_gap(name, path, left[key], right[key], allowed[key]) for key, name, path in points)
    bad = next((index for index, gap in enumerate(gaps) if not gap.ok), None)
    return Bisection(gaps, sides, bad)


def _require_both(keys: Sequence[Key], second: Stream) -> None:
    """Refuse sides of different models."""
    lacking = [key for key in keys if key not in second.points]
    if lacking:
        raise CheckFailed(
            "the two sides have different residual streams",
            code="CB-BISECT-04",
            where=lacking[0].path or f"sum {lacking[0].place} of the model",
            why=f"{len(lacking)} of {len(keys)} points of one are missing in the other",
            do="compare a model with its own export",
        )


def _generated(program: Program | None, batch: int) -> dict[str, Tensor]:
    """Inputs of a program, where there is one."""
    if program is None:
        raise UsageError(
            "there is nothing to make inputs from",
            code="CB-BISECT-01",
            why="neither side is a model",
            do="give inputs, or compare with the model",
        )
    return program.with_batch(batch, seed=batch)


def _stream(target: Target, backend: str | None, trust: bool, folder: Path, name: str) -> Stream:
    if backend == "onnxruntime" and isinstance(target, (Model, Program)):
        target = stage(RuntimeSpec(target, backend), folder, name=name).target
    if isinstance(target, (str, Path)):
        suffix = Path(target).suffix.lower()
        if suffix == ".onnx":
            return OnnxStream(target)
        if suffix in ENGINE_SUFFIXES:
            raise UsageError(
                "the inner values of an engine cannot be read",
                code="CB-BISECT-02",
                where=str(target),
                why="they are fused away when it is built",
                do="bisect the ONNX file it was built from",
            )
        from cbsurgeon.models import load

        target = load(str(target), trust=trust)
    program = capture(target) if isinstance(target, Model) else target
    return ProgramStream(fold(program)[0] if backend == "folded" else program)


def _points(program: Program | None, first: Stream, blocks: Sequence[Pair] | None) -> list[tuple[Key, str, str]]:
    """Key, node name and block path of everything to compare, in graph order."""
    if blocks is None:
        return [(key, name, key.path or name) for key, name in first.points.items()]
    keys = {} if program is None else {name: key for key, name in program_points(program).items()}
    found = []
    for name, path in blocks:
        point = stream_after(program, name) if program is not None else None
        if point is not None:
            found.append((keys[point], point, path))
    if not found:
        raise UsageError(
            "none of the blocks joins a residual stream",
            code="CB-BISECT-03",
            where=", ".join(path for _, path in blocks[:3]) or "no blocks were given",
            do="leave the blocks out to compare every point of the stream",
        )
    return found


def _side(target: Target, stream: Stream) -> Side:
    if isinstance(stream, OnnxStream):
        metadata = onnx_file.read_metadata(stream.path) or {}
        return Side(str(stream.path), "onnxruntime", "cpu", str(metadata.get("dtype") or "float32"))
    name = target.provenance.reference if isinstance(target, Model) else "program"
    return Side(name, "program", "cpu", floating_type(stream.program))


def _allowed(program: Program | None, inputs: Named, keys: Sequence[Key], dtypes: tuple[str, str]) -> dict[Key, float]:
    """Relative L2 distance that rounding explains at each point: measured as in verify, else estimated by depth."""
    coarser = max(dtypes, key=policy.eps)
    if program is not None:
        own = floating_type(program)
        try:
            exact = ProgramStream(program, "float64").read(inputs, keys)
            noise = {
                dtype: ProgramStream(program, dtype if dtype != own else None).read(inputs, keys)
                for dtype in dict.fromkeys(dtypes)
            }
        except (RuntimeError, NotImplementedError):
            return _estimated(keys, coarser)
        return {
            key: policy.SAFETY * sum(policy.floor_of(noise[dtype][key], exact[key], dtype).rel_l2 for dtype in dtypes)
            for key in keys
        }
    return _estimated(keys, coarser)


def _estimated(keys: Sequence[Key], dtype: str) -> dict[Key, float]:
    return {
        key: policy.estimated((dtype, dtype), _CONTRACTIONS_PER_POINT * (place + 1), 1.0, "").rel_l2 or 0.0
        for place, key in enumerate(keys)
    }


def _gap(name: str, path: str, a: Tensor, b: Tensor, allowed: float) -> BlockGap:
    if a.shape != b.shape:
        raise CheckFailed(
            "the two sides have different residual streams",
            code="CB-BISECT-04",
            where=path,
            why=f"{list(a.shape)} against {list(b.shape)}",
            do="compare a model with its own export",
        )
    gap = compare.difference(b, a)
    relative = compare.relative_l2(gap, a)
    return BlockGap(
        block=path,
        node=name,
        max_abs=compare.largest(gap),
        rel_l2=relative,
        cosine=compare.cosine(a, b),
        allowed=allowed,
        would_pass_at=compare.passing_atol(gap, a, 0.0),
        ok=relative <= allowed,
        varies=_varies(a, allowed),
    )


def _varies(value: Tensor, allowed: float) -> bool:
    """Whether the samples of a batch differ by more than rounding."""
    first = value.narrow(0, 0, 1).expand_as(value)
    return compare.relative_l2(compare.difference(value, first), value) > allowed
