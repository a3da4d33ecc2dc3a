"""``cbsurgeon explain``."""

from __future__ import annotations

import itertools

import click

from cbsurgeon.cli.common.options import terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.errors.table import SCHEMA, explain, explanations


@click.command("explain", cls=Verb)
@click.argument("code", metavar="[CODE]", required=False)
@terminal_options
def command(terminal: Terminal, code: str | None) -> None:
    """Explain an error code: what it means, usual causes, what to do. Without CODE, list all codes.

    \b
    Examples:
      cbsurgeon explain CB-LEAK-01
      cbsurgeon explain CB-LEAK-01 --json
      cbsurgeon explain
    """
    if code is not None:
        found = explain(code)
        terminal.show(found.to_dict(), lambda: found.text(terminal.wide))
        return
    listed = [(one.area, one.code, one.title) for one in explanations().values()]
    document = {
        "schema": SCHEMA,
        "codes": [{"area": area, "code": code, "title": title} for area, code, title in listed],
    }
    groups = itertools.groupby(listed, key=lambda row: row[0])
    terminal.show(
        document,
        lambda: "\n\n".join(
            "\n".join([area, *(f"  {code:<14}  {title}" for _, code, title in rows)]) for area, rows in groups
        ),
    )
