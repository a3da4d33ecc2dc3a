"""``cbsurgeon bench``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from cbsurgeon.cli.common.options import options, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.options import BenchOptions, BenchPoints, Loading


@click.command("bench")
@reference_argument("a", "A")
@reference_argument("b", "B")
@options(BenchPoints, "points")
@options(BenchOptions, "how")
@options(Loading, "loading")
@terminal_options
def command(
    terminal: Terminal,
    a: str,
    b: str,
    points: BenchPoints,
    how: BenchOptions,
    loading: Loading,
) -> None:
    """Whether B is slower than A: by the operators they do not share, and end to end.

    The back end's profiler times what B executes beyond A; that decides. Interleaved pairs of whole runs, with A
    against itself as control, confirm or contradict it. The verdict is negligible, slower, faster or inconclusive.

    Several batches and sizes share the budget equally; the answer is the worst one's, and all are listed. Peak memory
    is measured in fresh processes (from a budget of 40 s a point). On a CUDA device, work is recorded once and
    replayed, and timed by the device.

    Exit 0: B is within --claim, or the answer is INCONCLUSIVE (then it says why).
    Exit 1: B is slower than claimed.

    \b
    Examples:
      cbsurgeon bench timm:deit_small_patch16_224 deit_small_patch16_224-cb.safetensors
      cbsurgeon bench timm:deit_small_patch16_224 edited.safetensors --on onnxruntime --claim 2%
      cbsurgeon bench a.onnx b.onnx --batch 1,8,64 --budget 5m
    """
    if points.sizes:
        _require_models((a, b), loading)
    from cbsurgeon import checks, verbs

    with terminal.working() as progress:

        def sides(size: int | None) -> Any:
            progress("load")
            given = loading if size is None else replace(loading, input=f"3x{size}x{size}")
            return tuple(verbs.open_side(reference, given) for reference in (a, b))

        found = checks.sweep(sides, points, replace(how, trust=loading.trust), progress=progress)
    terminal.show(found.to_dict())
    result = found.worst
    if result.verdict == "slower":
        raise CheckFailed(
            f"B is slower than claimed: {result.sentence}",
            code="CB-BENCH-01",
            where=f"{a} -> {b}, {result.environment['backend']}, batch {result.environment['batch']}",
            why=f"ratio {result.ratio:.4f}, 95 % interval {result.ci95[0]:.4f} to {result.ci95[1]:.4f}, "
            f"claim {how.claim:.2%}",
            do="claim less (--claim), or export with folding, which removes CB's multiplications",
        )


def _require_models(references: tuple[str, str], loading: Loading) -> None:
    """Refuse ``--size`` where a side cannot be built anew.

    Raises:
        UsageError: a side is an exported file, or its inputs are given (CB-CLI-07).
    """
    exported = [
        reference
        for reference in references
        if reference.lower().endswith((".onnx", ".engine", ".plan", ".trt", ".pt2"))
    ]
    if exported or loading.input or loading.inputs:
        raise UsageError(
            "--size builds models for each size",
            code="CB-CLI-07",
            where=f"--size with {exported[0] if exported else '--input' if loading.input else '--inputs'}",
            why="an exported file has its size built in" if exported else "they say the size of the images too",
            do="give models, and leave out --input and --inputs",
        )
