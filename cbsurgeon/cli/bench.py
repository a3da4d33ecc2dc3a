"""``cbsurgeon bench``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from cbsurgeon.cli.common.options import options, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.options import BenchOptions, BenchPoints, Loading

if TYPE_CHECKING:
    from cbsurgeon.checks.latency.result import Benchmark


@click.command("bench", cls=Verb)
@reference_argument("a", "A")
@reference_argument("b", "B")
@options(BenchPoints, "points")
@options(BenchOptions, "how")
@options(Loading, "loading")
@terminal_options
@click.pass_context
def command(
    context: click.Context,
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

    Exit 1: B is slower than --claim allows.

    \b
    Examples:
      cbsurgeon bench timm:deit_small_patch16_224 deit-cb.safetensors
      cbsurgeon bench a.safetensors b.safetensors --on onnxruntime --claim 2%
      cbsurgeon bench a.onnx b.onnx --batch 1,8,64 --budget 5m
    """
    if points.sizes:
        _require_models((a, b), loading)
    from cbsurgeon import checks, verbs
    from cbsurgeon.verbs.measuring import can_fold

    foldable: list[bool] = []
    with terminal.working() as progress:

        def sides(size: int | None) -> Any:
            progress("loading the models")
            given = loading if size is None else replace(loading, input=f"3x{size}x{size}")
            opened = tuple(verbs.open_side(reference, given) for reference in (a, b))
            foldable.append(how.on in (None, "eager") and can_fold(opened[1]))
            return opened

        found = checks.sweep(
            sides, points, replace(how, trust=loading.trust, max_memory=loading.max_memory), progress=progress
        )
    terminal.show(found.to_dict())
    result = found.worst
    if result.verdict == "slower":
        stated = context.get_parameter_source("claim") is click.core.ParameterSource.COMMANDLINE
        raise CheckFailed(
            f"B is slower than the claim of {100 * how.claim:g} %{'' if stated else ' (the default)'} allows",
            code="CB-BENCH-01",
            where=f"{a} -> {b}, {result.environment['backend']}, batch {result.environment['batch']}",
            why=_reason(result),
            do="raise --claim, "
            + (
                "or measure the exported file (--on onnxruntime), in which CB is folded into the weights"
                if all(foldable)
                else "or insert at fewer blocks (--layers)"
            ),
        )


def _reason(result: Benchmark) -> str:
    """Return the numbers that decided: those of own time if its interval is above the claim, else end to end."""
    if result.own is not None and result.own.overhead.lower95 > result.claim:
        value, (low, high), kind = result.own.overhead.value, result.own.overhead.ci95, "by operator times"
    else:
        value, (low, high), kind = result.ratio - 1, tuple(bound - 1 for bound in result.ci95), "end to end"
    return f"slower by {100 * value:.2f} % {kind}, 95 % interval {100 * low:.2f} to {100 * high:.2f} %"


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
