"""Every flag that a message, an explanation or a help text names exists, on the verb it is named for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cbsurgeon
from cbsurgeon import options
from cbsurgeon.cli.group import VERBS, cli
from cbsurgeon.options import flags_of
from tests.errors.test_codes import docstrings_of

PACKAGE = Path(cbsurgeon.__file__).parent
README = PACKAGE.parent / "README.md"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"cbsurgeon ([a-z]+)((?: +[^`;,()\n]+)*)")
OTHER_PROGRAMS = ("pip install", "hf download", "git ", "docker run", "python train.py", "validate.py")
TIMM = {"--model", "--model-kwargs"}
"""Flags of timm's scripts, which the integration speaks of."""
STYLE_SHEET = re.compile(r"var\(--|--[a-z]+:")
STYLES = ("report/plots.py", "report/page.py")
"""Files whose texts name variables of a style sheet, which also begin with two dashes."""


def flags_of_verbs() -> dict[str, set[str]]:
    context = click.Context(cli)
    found = {}
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        names = [name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)]
        found[verb] = {name for name in names if name.startswith("--")}
    return found


def known_flags() -> set[str]:
    """Of all verbs, and of options classes that a verb will take."""
    kinds = [getattr(options, name) for name in options.__all__ if isinstance(getattr(options, name), type)]
    fields = [flag for kind in kinds if hasattr(kind, "__dataclass_fields__") for flag in _flags(kind)]
    return set().union(*flags_of_verbs().values(), fields, {"--version"}, TIMM)


def _flags(kind: type) -> list[str]:
    try:
        return [name for flag in flags_of(kind).values() for name in (flag.name, flag.off) if name]
    except KeyError:  # no class of options, such as Flag itself
        return []


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The strings of a file that are not docstrings; in f-strings, ``{}`` replaces each value."""
    tree = ast.parse(file.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    skipped = docstrings_of(tree) | inside
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def wrong_flags(text: str, everywhere: set[str], by_verb: dict[str, set[str]]) -> list[str]:
    if STYLE_SHEET.search(text) or any(program in text for program in OTHER_PROGRAMS):
        return []
    wrong = [flag for flag in FLAG.findall(text) if flag not in everywhere]
    for verb, rest in COMMAND.findall(text):
        if verb in by_verb:
            wrong += [f"{verb} {flag}" for flag in FLAG.findall(rest) if flag not in by_verb[verb]]
    return wrong


@pytest.mark.parametrize(
    "file",
    [one for one in sorted(PACKAGE.rglob("*.py")) if not str(one).endswith(STYLES)],
    ids=lambda file: str(file.relative_to(PACKAGE)),
)
def test_flags_in_the_texts_of_a_file_exist(file: Path) -> None:
    everywhere, by_verb = known_flags(), flags_of_verbs()
    wrong = [(line, found) for line, text in texts(file) if (found := wrong_flags(text, everywhere, by_verb))]
    assert wrong == []


def test_flags_in_the_readme_exist() -> None:
    wrong = [wrong_flags(line, known_flags(), flags_of_verbs()) for line in README.read_text().splitlines()]
    assert [found for found in wrong if found] == []


def test_a_flag_that_does_not_exist_is_seen() -> None:
    known, by_verb = {"--json", "--why"}, {"inspect": {"--json", "--why"}, "audit": {"--json"}}
    assert wrong_flags("more --workspace helps", known, by_verb) == ["--workspace"]
    assert wrong_flags("cbsurgeon audit A --why", known, by_verb) == ["audit --why"]
    assert wrong_flags("cbsurgeon inspect A --why; --json", known, by_verb) == []
