"""``cbsurgeon audit``."""

from __future__ import annotations

from typing import Any

import click

from cbsurgeon.cli.options import for_side, model_options, reference_argument, terminal_options
from cbsurgeon.cli.terminal import Terminal


@click.command("audit")
@reference_argument("a", "A")
@reference_argument("b", "[B]", required=False)
@model_options
@terminal_options
def command(terminal: Terminal, a: str, b: str | None, how: dict[str, Any]) -> None:
    """Count parameters, FLOPs and bytes moved of A, and of B and the difference.

    The inserted operators are counted, and every operator that no rule covers is named.

    \b
    Examples:
      cbsurgeon audit timm:deit_small_patch16_224
      cbsurgeon audit timm:deit_small_patch16_224 deit_small_patch16_224-cb.safetensors
    """
    from cbsurgeon import verbs

    with terminal.working() as progress:
        progress("load")
        models = [verbs.load(reference, **for_side(how, reference)) for reference in (a, b) if reference is not None]
        progress("count")
        counted = verbs.audit(*models)
    terminal.show(counted.to_dict())
