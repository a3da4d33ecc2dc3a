"""The command line: parse, call the API, render, exit. One file per verb."""

from cbsurgeon.cli.entry import main

__all__ = ["main"]
