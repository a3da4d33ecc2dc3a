"""``cbsurgeon analyze``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cbsurgeon.cli.common.options import force_option, options, output_option, reference_argument, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.errors import UsageError
from cbsurgeon.escapes import json_text
from cbsurgeon.options import DATA_HELP, AnalyzeOptions, DataOptions, Loading

if TYPE_CHECKING:
    from cbsurgeon.analysis import Analysis

SUFFIXES = (".json", ".html", ".png", ".svg")


@click.command("analyze", cls=Verb)
@reference_argument("a", "A")
@reference_argument("b", "[B]", required=False)
@click.option("--data", metavar="DATA", help=f"{DATA_HELP}  [default: photographs of scikit-image]")
@options(AnalyzeOptions, "how")
@options(DataOptions, "reading")
@output_option(required=False, metavar="FILE", help="Write the result (.json, .html) or the curves (.png, .svg).")
@force_option
@options(Loading, "loading")
@terminal_options
def command(
    terminal: Terminal,
    a: str,
    b: str | None,
    data: str | None,
    how: AnalyzeOptions,
    reading: DataOptions,
    loading: Loading,
    output: Path | None,
    force: bool,
) -> None:
    """Measure the attention of A on images; with B, also the paired difference to A.

    For every attention: entropy of its rows, relative distance, and nuclear norm of the softmax Jacobian; for every
    CB_S operator: its scales. With torchrun (-m cbsurgeon), several processes share the images; the result is the same.

    \b
    Examples:
      cbsurgeon analyze timm:deit_small_patch16_224 --data images/
      cbsurgeon analyze a.safetensors b.safetensors --data images/ -o page.html
      cbsurgeon analyze cb_s.safetensors --limit 64 --data images/ --json
    """
    if output is not None:
        _check(output, force)
    from cbsurgeon import verbs

    with terminal.working() as progress:
        progress("loading the models")
        how = replace(how, max_memory=loading.max_memory)
        found = verbs.analyze(a, b, how, reading, data=data, loading=loading, progress=progress)
        if output is not None and found.first:
            progress("writing")
            _write(found, terminal.stated(found.to_dict()), output, force)
    if found.first:
        terminal.show(found.to_dict())
        if output is not None:
            terminal.say(f"wrote {output}")


def _check(output: Path, force: bool) -> None:
    """Check the output path before any work.

    Raises:
        UsageError: an unsupported suffix (CB-ANALYZE-07).
        OutputFileError: it exists, or cannot be written.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(
            "the result cannot be written in this format",
            code="CB-ANALYZE-07",
            where=f"-o {output}",
            why=f"the suffixes are {', '.join(SUFFIXES)}",
            do=f"-o {output.with_suffix('.html').name}",
        )
    from cbsurgeon.models.files import atomic

    atomic.check(output, force=force)


def _write(found: Analysis, document: dict[str, Any], output: Path, force: bool) -> None:
    from cbsurgeon import verbs

    if output.suffix.lower() == ".html":
        verbs.write_report([document], output, force=force)
    elif output.suffix.lower() == ".json":
        verbs.write_text(output, json_text(document) + "\n", force=force)
    else:
        found.plot(output, force=force)
