"""``cbsurgeon report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cbsurgeon.cli.common.options import force_option, output_option, terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb


@click.command("report", cls=Verb)
@click.argument("files", metavar="FILE.json...", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option(
    required=False, metavar="OUT.html", help="Write one self-contained HTML file.  [default: tables on stdout]"
)
@force_option
@terminal_options
def command(terminal: Terminal, files: tuple[Path, ...], output: Path | None, force: bool) -> None:
    """Combine the --json output of other verbs, as tables or in one HTML file.

    \b
    Examples:
      cbsurgeon report shipped/report.json
      cbsurgeon report inspect.json audit.json bench.json -o report.html
    """
    from cbsurgeon import report

    documents = [report.read_document(path) for path in files]
    if output is None:
        with report.shown(", ".join(map(str, files))):
            terminal.show(report.combine(documents))
        return
    _write(terminal, documents, files, output, force)


def _write(
    terminal: Terminal, documents: list[dict[str, Any]], files: tuple[Path, ...], output: Path, force: bool
) -> None:
    from cbsurgeon import report, verbs
    from cbsurgeon.models.files import atomic

    atomic.check(output, force=force)
    with terminal.working() as progress, report.shown(", ".join(map(str, files))):
        progress("drawing")
        verbs.write_page(documents, output, force=force)
    kinds = [document["schema"] for document in documents]
    terminal.show({"schema": "cbsurgeon.report/1", "path": str(output), "documents": kinds}, lambda: str(output))
