"""``cbsurgeon export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cbsurgeon.cli.options import (
    force_option,
    model_options,
    output_option,
    reference_argument,
    terminal_options,
    whole_numbers,
)
from cbsurgeon.cli.terminal import Terminal
from cbsurgeon.errors import UsageError


@click.command("export")
@reference_argument()
@output_option(required=True, metavar="OUT", help="The suffix says what: .onnx, .engine or .plan, .pt2.")
@click.option("--opset", type=int, default=20, show_default=True, metavar="N", help="ONNX operator set: 20 or 23.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16"]),
    default=None,
    help="Cast the weights before exporting.  [default: the model's own]",
)
@click.option(
    "--batch",
    default="1,8,64",
    show_default=True,
    metavar="N|MIN,OPT,MAX",
    help="One size fixes the batch; three are an engine's optimization profile, and leave an ONNX file's batch open.",
)
@click.option("--fold/--no-fold", default=True, show_default=True, help="Fold CB's halves into the weights before it.")
@click.option(
    "--verify/--no-verify",
    "check",
    default=True,
    show_default=True,
    help="Run the ONNX file against the model at batches 1, 2 and 7; a file that differs is kept as *.unverified.onnx.",
)
@force_option
@model_options
@terminal_options
def command(
    terminal: Terminal,
    reference: str,
    how: dict[str, Any],
    output: Path,
    opset: int,
    dtype: str | None,
    batch: str,
    fold: bool,
    check: bool,
    force: bool,
) -> None:
    """Write a model as ONNX, as a TensorRT engine, or as a .pt2 program, for any batch or for one.

    \b
    Examples:
      cbsurgeon export deit_small_patch16_224-cb.safetensors -o deit.onnx
      cbsurgeon export deit_small_patch16_224-cb.safetensors -o deit.engine --batch 1,8,64
      cbsurgeon export timm:swin_tiny_patch4_window7_224 -o swin-fp16.onnx --dtype float16 --batch 4
    """
    sizes = _batch(batch)
    from cbsurgeon import verbs
    from cbsurgeon.models.files import atomic
    from cbsurgeon.verbs.proving import why_unchecked

    atomic.check(output, force=force, inputs=[reference])
    with terminal.working() as progress:
        progress("load the model")
        model = verbs.load(reference, **how)
        made, verdict = verbs.export_checked(
            model,
            output,
            check=check,
            opset=opset,
            dtype=dtype,
            fold=fold,
            batch=sizes,
            force=force,
            progress=progress,
        )
    terminal.show({**made.to_dict(), "verify": verdict.to_dict() if verdict is not None else None})
    if verdict is None:
        terminal.warn(f"not compared with the model: {why_unchecked(output, check)}")
    else:
        verdict.raise_if_failed()


def _batch(text: str) -> int | tuple[int, int, int]:
    numbers = whole_numbers(text, "--batch")
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) != 3 or list(numbers) != sorted(numbers):
        raise UsageError(
            "--batch takes one size, or three with the smallest first",
            code="CB-CLI-06",
            where=f"--batch {text}",
            do="--batch 8, or --batch 1,8,64",
        )
    return numbers[0], numbers[1], numbers[2]
