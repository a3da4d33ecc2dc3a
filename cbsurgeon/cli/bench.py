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
    """Measure whether B is slower than A: by the times of operators that only one of them executes, and end to end.

    The back end's profiler times the operators that only B executes; this decides the verdict: negligible, slower,
    faster or inconclusive. Interleaved pairs of whole runs confirm or contradict it; A is also timed against itself,
    which shows the noise of the machine.

    Several batches and sizes share the budget equally; all are listed, and the worst one decides. Peak memory is
    measured in new processes (if the budget is at least 40 s per point). On a CUDA device, work is recorded as a CUDA
    graph, replayed, and timed by the device.

    Exit 0: B is within --claim, or the verdict is INCONCLUSIVE (the reason is printed).

    Exit 1: B is slower than claimed.

    \b
    Examples:
      cbsurgeon bench timm:deit_small_patch16_224 deit-cb.safetensors
      cbsurgeon bench a.safetensors b.safetensors --on onnxruntime --claim 2%
      cbsurgeon bench a.onnx b.onnx --batch 1,8,64 --budget 5m
    """
    if points.sizes:
        _require_models((a, b), loading)
    from cbsurgeon import checks, verbs

    with terminal.working() as progress:

        def sides(size: int | None) -> Any:
            progress("loading the models")
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
            do="raise --claim, or export with folding, which removes CB's multiplications",
        )


def _require_models(references: tuple[str, str], loading: Loading) -> None:
    """Check that models can be built for other sizes (``--size``).

    Raises:
        UsageError: one is an exported file, or inputs are given (CB-CLI-07).
    """
    exported = [
        reference
        for reference in references
        if reference.lower().endswith((".onnx", ".engine", ".plan", ".trt", ".pt2"))
    ]
    if exported or loading.input or loading.inputs:
        raise UsageError(
            "--size needs models that can be built for each size",
            code="CB-CLI-07",
            where=f"--size with {exported[0] if exported else '--input' if loading.input else '--inputs'}",
            why="an exported file has a fixed size" if exported else "the size of the images is given twice",
            do="give models, and leave out --input and --inputs",
        )
