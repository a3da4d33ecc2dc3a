"""``cbsurgeon inspect``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cbsurgeon.cli.common import cache
from cbsurgeon.cli.common.options import options, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.options import Loading
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

NOTHING_MATCHED = 1


@click.command("inspect", cls=Verb)
@reference_argument()
@click.option("--why", is_flag=True, help="Also list rejected candidates with the reason, nearest misses first.")
@click.option("--no-cache", is_flag=True, help=f"Read the graph again and cache nothing (also {cache.SWITCH}=1).")
@options(Loading, "loading")
@terminal_options
def command(terminal: Terminal, reference: str, loading: Loading, why: bool, no_cache: bool) -> int:
    """Show the MLP blocks of a model, found by reading its graph.

    For an .onnx file or an engine, show the operators that were inserted before the export. Results for files and
    registered models are cached in $XDG_CACHE_HOME/cbsurgeon while file, options and libraries are unchanged.

    \b
    Examples:
      cbsurgeon inspect timm:deit_small_patch16_224
      cbsurgeon inspect torchvision:swin_t --why
      cbsurgeon inspect model.onnx --json
    """
    exported = Path(reference).suffix.lower() in (".onnx", *ENGINE_SUFFIXES)
    environment = dict(os.environ)
    key = None if no_cache or exported else cache.key_of(reference, loading, environment)
    kept = None if key is None else cache.read(key)
    if kept is not None:
        terminal.loaded |= kept["loaded"]
        if terminal.verbose:
            terminal.say("found in the cache; --no-cache reads the graph again")
        return _show(terminal, kept["document"], why)
    from cbsurgeon import verbs

    if exported:
        terminal.show(verbs.read_inserted(reference))
        return 0
    with terminal.working() as progress:
        progress("loading the model")
        model = verbs.load(reference, replace(loading, mapped=True))
        progress("reading its graph")
        found = verbs.inspect(model)
    document = found.to_dict()
    if key is not None and key == cache.key_of(reference, loading, environment):  # the file has not changed meanwhile
        cache.write(key, document, terminal.loaded)
    return _show(terminal, document, why)


def _show(terminal: Terminal, document: dict[str, Any], why: bool) -> int:
    terminal.show(document if terminal.json else {**document, "show_rejected": why})
    if not document["blocks"]:
        terminal.warn("no MLP block was found" + ("" if why else "; `--why` lists the near misses"))
    return 0 if document["blocks"] else NOTHING_MATCHED
