"""The class of every verb's command: its help lists the options in groups."""

from __future__ import annotations

import click

from cbsurgeon.options import Choice, DataOptions, Loading, flags_of

OWN = "Options"
TERMINAL = "What is printed"

_KINDS = {Choice: "Operator and blocks", DataOptions: "Dataset and preprocessing", Loading: "How the model is loaded"}
_HEADINGS = {
    flag.name: heading for kind, heading in _KINDS.items() for flag in flags_of(kind).values()
} | dict.fromkeys(("--json", "--quiet", "--verbose", "--debug", "--help"), TERMINAL)


class Verb(click.Command):
    """A command whose help has a heading for each group of options, in the order of their first members."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; those of this verb alone under "Options"."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                names = (_HEADINGS[name] for name in parameter.opts if name in _HEADINGS)
                groups.setdefault(next(names, OWN), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)
