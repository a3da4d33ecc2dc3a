"""``cbsurgeon report``."""

from __future__ import annotations

from pathlib import Path

import click

from cbsurgeon.cli.options import force_option, output_option, terminal_options
from cbsurgeon.cli.terminal import Terminal


@click.command("report")
@click.argument("files", metavar="FILE.json...", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option(required=False, metavar="OUT.html", help="Write one self-contained HTML file.  [default: tables on stdout]")
@force_option
@terminal_options
def command(terminal: Terminal, files: tuple[Path, ...], output: Path | None, force: bool) -> None:
    """Put what other verbs printed with --json together, as tables here or as one HTML file.

    \b
    Examples:
      cbsurgeon report shipped/report.json
      cbsurgeon report inspect.json audit.json bench.json -o report.html
    """
    from cbsurgeon import verbs

    documents = [verbs.read_document(path) for path in files]
    if output is None:
        terminal.show(verbs.combine(documents))
        return
    verbs.check_output(output, force=force, inputs=list(files))
    with terminal.working() as progress:
        progress("draw")
        verbs.write_report(documents, output, force=force)
    terminal.show(
        {"schema": "cbsurgeon.report/1", "path": str(output), "documents": [document["schema"] for document in documents]},
        lambda: str(output),
    )
