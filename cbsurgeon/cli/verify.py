"""``cbsurgeon verify``."""

from __future__ import annotations

from typing import Any

import click

from cbsurgeon.cli.options import batches_option, for_side, model_options, reference_argument, terminal_options
from cbsurgeon.cli.terminal import Terminal


@click.command("verify")
@reference_argument("a", "A")
@reference_argument("b", "B")
@batches_option
@click.option(
    "--atol", type=click.FloatRange(min=0), default=None, help="Absolute tolerance.  [default: from rounding noise]"
)
@click.option(
    "--rtol", type=click.FloatRange(min=0), default=None, help="Relative tolerance.  [default: from rounding noise]"
)
@click.option("--bisect", is_flag=True, help="When they differ, find the first block at which they part.")
@click.option(
    "--device", default="cpu", show_default=True, metavar="NAME", help="cpu or cuda; an engine always runs on the GPU."
)
@model_options
@terminal_options
def command(
    terminal: Terminal,
    a: str,
    b: str,
    how: dict[str, Any],
    batches: tuple[int, ...],
    atol: float | None,
    rtol: float | None,
    bisect: bool,
    device: str,
) -> None:
    """Run A and B on the same inputs and fail (exit 1) where B differs from A by more than rounding explains.

    A and B are models (REF) or exported files (.onnx, .engine, .pt2).

    \b
    Examples:
      cbsurgeon verify deit_small_patch16_224-cb.safetensors deit.onnx
      cbsurgeon verify model.safetensors model.onnx --batches 1,16 --atol 1e-4
      cbsurgeon verify model.safetensors model.onnx --bisect --json > bad.json
    """
    from cbsurgeon import verbs

    with terminal.working() as progress:
        progress("load")
        sides = [verbs.open_side(reference, **for_side(how, reference)) for reference in (a, b)]
        verdict = verbs.verify(
            *sides,
            batches=batches,
            inputs=how["inputs"],
            atol=atol,
            rtol=rtol,
            bisect=bisect,
            device=device,
            trust=how["trust"],
            progress=progress,
        )
    terminal.show(verdict.to_dict())
    verdict.raise_if_failed()
