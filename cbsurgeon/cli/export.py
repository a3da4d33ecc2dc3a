"""``cbsurgeon export``."""

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
from cbsurgeon.options import CheckOptions, ExportOptions, Loading


@click.command("export", cls=Verb)
@reference_argument()
@output_option(required=True, metavar="OUT", help="Output; the suffix is the format: .onnx, .engine or .plan, .pt2.")
@options(ExportOptions, "how")
@options(CheckOptions, "checking")
@force_option
@options(Loading, "loading")
@terminal_options
@click.pass_context
def command(
    context: click.Context,
    terminal: Terminal,
    reference: str,
    loading: Loading,
    how: ExportOptions,
    output: Path,
    checking: CheckOptions,
    force: bool,
) -> None:
    """Export a model to ONNX, a TensorRT engine or a .pt2 program, with a dynamic or a fixed batch.

    REF may also be an .onnx file, to build an engine from.

    \b
    Examples:
      cbsurgeon export deit_small_patch16_224-cb.safetensors -o deit.onnx
      cbsurgeon export deit.onnx -o deit.engine --batch 1,8,64
      cbsurgeon export swin.safetensors -o fp16.onnx --dtype float16 --batch 4 \\
          --data imagenet/val
    """
    from cbsurgeon import verbs
    from cbsurgeon.models.files import atomic
    from cbsurgeon.verbs.exporting import why_unchecked

    atomic.check(output, force=force)
    with terminal.working() as progress:
        progress("loading the model")
        model = verbs.open_side(reference, loading)
        made, verdict = verbs.export_checked(model, output, how, checking=checking, force=force, progress=progress)
    terminal.show({**made.to_dict(), "verify": verdict.to_dict() if verdict is not None else None})
    if verdict is None:
        terminal.warn(f"not compared with the model: {why_unchecked(output, checking.verify)}")
    else:
        verdict.raise_if_failed(retyped(context, Loading))
