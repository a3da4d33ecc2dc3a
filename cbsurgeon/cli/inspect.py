"""``cbsurgeon inspect``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from cbsurgeon.cli.common.options import options, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.options import Loading
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

NOTHING_MATCHED = 1


@click.command("inspect")
@reference_argument()
@click.option("--why", is_flag=True, help="Also list what was rejected, nearest misses first, with the reason.")
@options(Loading, "loading")
@terminal_options
def command(terminal: Terminal, reference: str, loading: Loading, why: bool) -> int:
    """Show the MLP blocks of a model, found by reading its graph.

    Of an .onnx file or an engine it shows what was inserted before the export.

    \b
    Examples:
      cbsurgeon inspect timm:deit_small_patch16_224
      cbsurgeon inspect torchvision:swin_t --why
      cbsurgeon inspect model.onnx --json
    """
    from cbsurgeon import verbs

    if Path(reference).suffix.lower() in (".onnx", *ENGINE_SUFFIXES):
        terminal.show(verbs.read_inserted(reference))
        return 0
    with terminal.working() as progress:
        progress("load the model")
        model = verbs.load(reference, replace(loading, mapped=True))
        progress("read its graph")
        found = verbs.inspect(model)
    document = found.to_dict()
    if terminal.json:
        terminal.show(document)
    else:
        terminal.show({**document, "show_rejected": why})
    if not found:
        terminal.warn("no MLP block was found" + ("" if why else "; `--why` lists the near misses"))
    return 0 if found else NOTHING_MATCHED
