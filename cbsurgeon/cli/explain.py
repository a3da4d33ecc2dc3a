"""``cbsurgeon explain``."""

from __future__ import annotations

import itertools

import click

from cbsurgeon.cli.common.options import terminal_options
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.common.verb import Verb
from cbsurgeon.errors.table import AREAS, SCHEMA, explain, explanations


@click.command("explain", cls=Verb)
@click.argument("code", metavar="[CODE|AREA]", required=False)
@terminal_options
def command(terminal: Terminal, code: str | None) -> None:
    """Explain an error code: what it means, usual causes, what to do.

    With an area such as LEAK, list its codes; without an argument, list all codes.

    \b
    Examples:
      cbsurgeon explain CB-LEAK-01
      cbsurgeon explain CB-LEAK-01 --json
      cbsurgeon explain LEAK
    """
    area = (code or "").upper()
    if code is not None and area not in AREAS:
        found = explain(code)
        terminal.show(found.to_dict(), lambda: found.text(terminal.wide))
        return
    listed = [(one.area, one.code, one.title) for one in explanations().values()]
    if area:
        listed = [row for row in listed if row[1].split("-")[1] == area]
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
