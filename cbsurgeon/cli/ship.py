"""``cbsurgeon ship``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cbsurgeon.cli.options import (
    choice_options,
    force_option,
    model_options,
    output_option,
    reference_argument,
    terminal_options,
)
from cbsurgeon.cli.terminal import Terminal


@click.command("ship")
@reference_argument()
@choice_options
@output_option(required=True, metavar="DIR", help="Folder for the results; it appears complete or not at all.")
@click.option("--opset", type=int, default=20, show_default=True, metavar="N", help="ONNX operator set: 20 or 23.")
@click.option(
    "--engine/--no-engine", default=True, show_default=True, help="Build a TensorRT engine if a builder is installed."
)
@click.option(
    "--bench-budget",
    default=15,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="0: no benchmark.",
)
@force_option
@model_options
@terminal_options
def command(
    terminal: Terminal,
    reference: str,
    how: dict[str, Any],
    choice: dict[str, Any],
    output: Path,
    opset: int,
    engine: bool,
    bench_budget: int,
    force: bool,
) -> None:
    """The whole job: insert, export, verify, audit, a short bench, and one report, in one folder.

    DIR gets model.safetensors, recipe.json, model.onnx, model.engine (where a TensorRT builder is installed),
    report.html and report.json. If the ONNX file is not proven equal to the model it is kept as
    model.unverified.onnx and the exit code is 1.

    \b
    Examples:
      cbsurgeon ship timm:deit_small_patch16_224 --layers upper --pos end -o shipped
      cbsurgeon ship model.pt --arch timm:mixer_s16_224 --op cb_s --layers all -o shipped --force
    """
    from cbsurgeon import verbs
    from cbsurgeon.verbs.folder import check_folder

    check_folder(output, force=force)
    with terminal.working() as progress:
        progress("load the model")
        model = verbs.load(reference, **how)
        shipment = verbs.ship(
            model,
            output,
            **choice,
            opset=opset,
            engine=engine,
            bench_budget=float(bench_budget),
            force=force,
            progress=progress,
        )
    terminal.show(shipment.document)
    for warning in shipment.warnings:
        terminal.warn(warning)
    shipment.raise_if_failed()
