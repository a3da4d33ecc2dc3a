"""``cbsurgeon ship``."""

from __future__ import annotations

from pathlib import Path

import click

from cbsurgeon.cli.common.options import (
    force_option,
    options,
    output_option,
    reference_argument,
    retyped,
    terminal_options,
)
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.options import Choice, DataOptions, Loading, ShipOptions


@click.command("ship", cls=Verb)
@reference_argument()
@options(Choice, "choice")
@output_option(
    required=True, metavar="DIR", replaced=True, help="Folder for the results; written completely or not at all."
)
@options(ShipOptions, "how")
@options(DataOptions, "reading")
@force_option
@options(Loading, "loading")
@terminal_options
@click.pass_context
def command(
    context: click.Context,
    terminal: Terminal,
    reference: str,
    loading: Loading,
    choice: Choice,
    how: ShipOptions,
    reading: DataOptions,
    output: Path,
    force: bool,
) -> None:
    """Insert, export, verify, audit, run a short bench and write a report in one step, into one folder.

    A model without operators gets cb in the upper half of its blocks, or what --op, --layers and --pos say; this
    changes what it computes. If none of these is given, a checkpoint trained with operators is shipped as it is. To
    deploy a model unchanged, or in a 16-bit type, use `cbsurgeon export`. Preprocessing given with flags is stored in
    all files.

    DIR contains model.safetensors, recipe.json, model.onnx, model.engine (if a TensorRT builder is installed),
    report.html and report.json.

    Exit 1: the ONNX file differs from the model (it is called model.unverified.onnx), or the evaluation failed. The
    latency verdict does not change the exit code; `cbsurgeon bench A B` exits 1 if B is slower than claimed.

    \b
    Examples:
      cbsurgeon ship timm:deit_small_patch16_224 --layers upper -o shipped
      cbsurgeon ship model.safetensors -o shipped --data val/ --limit 5000
      cbsurgeon ship model.pt --arch timm:mixer_s16_224 --op cb_s -o shipped
    """
    from cbsurgeon import verbs
    from cbsurgeon.operators.registry import operator_class
    from cbsurgeon.verbs.folder import check_folder

    check_folder(output, force=force)
    operator_class(choice.op)  # an unknown name is reported before the model is loaded
    with terminal.working() as progress:
        progress("loading the model")
        model = verbs.load(reference, loading)
        given = choice if retyped(context, Choice) else None
        shipment = verbs.ship(
            model, output, given, how, reading, force=force, command=terminal.command, progress=progress
        )
    terminal.show(shipment.document)
    for warning in shipment.warnings:
        terminal.warn(warning)
    shipment.raise_if_failed()
