"""``cbsurgeon verify``."""

from __future__ import annotations

from dataclasses import replace

import click

from cbsurgeon.cli.common.options import options, reference_argument, retyped, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.options import Loading, VerifyOptions


@click.command("verify", cls=Verb)
@reference_argument("a", "A")
@reference_argument("b", "B")
@options(VerifyOptions, "how")
@options(Loading, "loading")
@terminal_options
@click.pass_context
def command(
    context: click.Context,
    terminal: Terminal,
    a: str,
    b: str,
    loading: Loading,
    how: VerifyOptions,
) -> None:
    """Run A and B on the same inputs, and fail (exit 1) if B differs from A by more than rounding error.

    A and B are models (REF) or exported files (.onnx, .engine, .pt2).

    \b
    Examples:
      cbsurgeon verify deit_small_patch16_224-cb.safetensors deit.onnx
      cbsurgeon verify model.safetensors model.onnx --batches 1,16 --atol 1e-4
      cbsurgeon verify model.safetensors model.onnx --bisect --json > bad.json
    """
    from cbsurgeon import verbs

    with terminal.working() as progress:
        progress("loading the models")
        first, second = (verbs.open_side(reference, loading) for reference in (a, b))
        how = replace(how, inputs=loading.inputs, trust=loading.trust, max_memory=loading.max_memory)
        verdict = verbs.verify(first, second, how, progress=progress)
    terminal.show(verdict.to_dict())
    verdict.raise_if_failed(retyped(context, Loading))
