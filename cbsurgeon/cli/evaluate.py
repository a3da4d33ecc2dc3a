"""``cbsurgeon evaluate``."""

from __future__ import annotations

from dataclasses import replace

import click

from cbsurgeon.cli.common.options import options, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.options import DATA_HELP, DataOptions, EvaluateOptions, Loading


@click.command("evaluate", cls=Verb)
@reference_argument("a", "A")
@reference_argument("b", "[B]", required=False)
@click.option("--data", required=True, metavar="DATA", help=DATA_HELP)
@options(EvaluateOptions, "how")
@options(DataOptions, "reading")
@options(Loading, "loading")
@terminal_options
def command(
    terminal: Terminal,
    a: str,
    b: str | None,
    data: str,
    how: EvaluateOptions,
    reading: DataOptions,
    loading: Loading,
) -> None:
    """Measure the accuracy of A on a dataset; with B, also the paired difference, and detect faults of B.

    A and B are models (REF) or exported files (.onnx, .engine, .pt2). Both get the same images in the same order, each
    with its own preprocessing.

    Exit 0: B is as good as claimed, or the verdict is INCONCLUSIVE (the number of images needed is printed).

    Exit 1: B is worse than claimed (without --claim: worse than A with 95 % confidence), or has a fault: different
    preprocessing, outputs that depend on the batch, exchanged classes, outputs that are not finite.

    \b
    Examples:
      cbsurgeon evaluate model.safetensors --data imagenet/val
      cbsurgeon evaluate model.safetensors model.onnx --data val/ --claim 0.1%
      cbsurgeon evaluate foreign.onnx --data val/ --size 224 --crop 0.9 \\
          --interpolation bicubic --mean 0.5 --std 0.5
    """
    from cbsurgeon import verbs

    with terminal.working() as progress:
        progress("loading the models")
        how = replace(how, trust=loading.trust, max_memory=loading.max_memory)
        found = verbs.evaluate(a, b, how, reading, data=data, loading=loading, progress=progress)
    if not found.first:
        return  # with torchrun, only the first process prints the result
    terminal.show(found.to_dict())
    found.raise_if_failed()
