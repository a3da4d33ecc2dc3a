"""``cbsurgeon bench``."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import click

from cbsurgeon.cli.common.options import options, reference_argument, terminal_options, whole_numbers
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.options import Loading
from cbsurgeon.vocabulary import BACKENDS

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@click.command("bench")
@reference_argument("a", "A")
@reference_argument("b", "B")
@click.option("--on", "--backend", "backend", metavar="NAME", help=f"{', '.join(BACKENDS)}.  [default: what runs both]")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu or cuda.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads within one operator.  [default: the backend's own]"
)
@click.option(
    "--processes", type=click.IntRange(min=1), help="Fresh processes to measure in.  [default: by the budget]"
)
@click.option(
    "--batch", default="1", show_default=True, metavar="LIST", help="Samples per call; several (1,8,64) are a sweep."
)
@click.option(
    "--size", metavar="LIST", help="Height and width of the images, such as 224,288: models are built anew for each."
)
@click.option(
    "--budget", default="20s", show_default=True, metavar="TIME", help="Time to spend measuring, such as 20s or 5m."
)
@click.option(
    "--claim", default="1%", show_default=True, metavar="PERCENT", help="The slow-down to prove B stays within."
)
@options(Loading, "loading")
@terminal_options
def command(
    terminal: Terminal,
    a: str,
    b: str,
    loading: Loading,
    batch: str,
    size: str | None,
    budget: str,
    claim: str,
    **measuring: Any,
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
    seconds, share, batches = _seconds(budget), _share(claim), whole_numbers(batch, "--batch")
    sizes = _sizes(size, (a, b), loading)
    from cbsurgeon import verbs
    from cbsurgeon.verbs.proving import sweep

    with terminal.working() as progress:

        def sides(size: int | None) -> Any:
            progress("load")
            given = loading if size is None else replace(loading, input=f"3x{size}x{size}")
            return tuple(verbs.open_side(reference, given) for reference in (a, b))

        found = sweep(
            sides,
            batches=batches,
            sizes=sizes,
            budget=seconds,
            claim=share,
            trust=loading.trust,
            progress=progress,
            **measuring,
        )
    terminal.show(found.to_dict())
    result = found.worst
    if result.verdict == "slower":
        raise CheckFailed(
            f"B is slower than claimed: {result.sentence}",
            code="CB-BENCH-01",
            where=f"{a} -> {b}, {result.environment['backend']}, batch {result.environment['batch']}",
            why=f"ratio {result.ratio:.4f}, 95 % interval {result.ci95[0]:.4f} to {result.ci95[1]:.4f}, claim {claim}",
            do="claim less (--claim), or export with folding, which removes CB's multiplications",
        )


def _sizes(text: str | None, references: tuple[str, str], loading: Loading) -> tuple[int | None, ...]:
    if text is None:
        return (None,)
    exported = [
        reference
        for reference in references
        if reference.lower().endswith((".onnx", ".engine", ".plan", ".trt", ".pt2"))
    ]
    if exported or loading.input or loading.inputs:
        raise UsageError(
            "--size builds models for each size",
            code="CB-CLI-07",
            where=f"--size {text} with {exported[0] if exported else '--input' if loading.input else '--inputs'}",
            why="an exported file has its size built in" if exported else "they say the size of the images too",
            do="give models, and leave out --input and --inputs",
        )
    return whole_numbers(text, "--size")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if match is None or match[2] not in UNITS or float(match[1]) <= 0:
        raise UsageError("--budget takes a time", code="CB-CLI-06", where=f"--budget {text}", do="--budget 60s, or 5m")
    return float(match[1]) * UNITS[match[2]]


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(
            "--claim takes a percentage above zero", code="CB-CLI-06", where=f"--claim {text}", do="--claim 1%"
        )
    return float(match[1]) / 100
