"""Which tests run which lines: a plugin of pytest that records it, and a reader of the record.

The modules of the measured packages are loaded with a call before each statement that notes its lines. Other code runs
at full speed; the tracer of coverage.py would slow it down. What a cached function or a shared fixture of the tests
runs counts for each test that uses the cached value. Each test is written to the record when it ends, so that an
interrupted run keeps what it has, and the next one continues.
"""

from __future__ import annotations

import ast
import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("checks", "surgery", "graph")
DATA = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cbsurgeon-mutants"
RECORD = DATA / "tests.jsonl"

SLOW = 2.5
"""Seconds in an earlier run, given as a JUnit file, above which a test is left out."""

ran: set[int] = set()
"""Numbers of the statements that ran."""

statements: list[list[tuple[str, int]]] = []
"""File and lines of each statement, by number."""


@dataclass(frozen=True)
class Ran:
    """One test that passed: its seconds, and the lines that it runs of each file."""

    seconds: float
    files: dict[str, list[int]]

    def part(self, file: str) -> float:
        """The part of its lines that is in a file."""
        return len(self.files.get(file, ())) / sum(len(lines) for lines in self.files.values())


def tests_that_passed() -> dict[str, Ran]:
    """Return the record of the tests that passed.

    Tests of one file with the same parameter share what they cache, so each has the seconds of the slowest of them.
    """
    records = {record["test"]: record for record in _records() if record["outcome"] == "passed"}
    slowest: dict[tuple[str, str], float] = defaultdict(float)
    for test, record in records.items():
        slowest[_shared(test)] = max(slowest[_shared(test)], record["seconds"])
    return {test: Ran(slowest[_shared(test)], record["lines"]) for test, record in records.items()}


def _shared(test: str) -> tuple[str, str]:
    return (test.partition("::")[0], test.partition("[")[2]) if "[" in test else (test, "")


def tests_of_lines(known: dict[str, Ran]) -> dict[tuple[str, int], list[str]]:
    """Return the tests that run each line (file, number)."""
    tests: dict[tuple[str, int], list[str]] = defaultdict(list)
    for test, ran_by_it in known.items():
        for file, lines in ran_by_it.files.items():
            for line in lines:
                tests[file, line].append(test)
    return tests


def _records() -> Iterator[dict[str, Any]]:
    if RECORD.exists():
        for line in RECORD.read_text().splitlines():
            yield json.loads(line)


class Noting(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the modules of the measured packages with a note before each statement."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the usual spec with this loader for a measured module; ``None`` for others."""
        if not name.startswith(tuple(f"cbsurgeon.{package}" for package in PACKAGES)):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return None
        spec.loader = self
        return spec

    def create_module(self, spec: Any) -> None:
        """Leave it to Python."""

    def exec_module(self, module: Any) -> None:
        """Run the module with the notes."""
        path = Path(module.__spec__.origin)
        name = str(path.relative_to(ROOT))
        tree = ast.parse(path.read_text())
        for node in list(ast.walk(tree)):
            for field in ("body", "orelse", "finalbody"):
                body = getattr(node, field, None)
                if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                    head = _head(node) if field == "body" else None
                    noted = [_noted(old, name, head if old is body[0] else None) for old in body]
                    setattr(node, field, [new for pair in noted for new in pair])
        ast.fix_missing_locations(tree)
        module.__dict__["__note__"] = ran.add
        before = set(ran)
        exec(compile(tree, str(path), "exec"), module.__dict__)
        ran.clear()  # The import counts for no single test: only the first one of a process would have it.
        ran.update(before)

    def get_source(self, name: str) -> str:
        """Return the source, for ``inspect``."""
        return Path(str(sys.modules[name].__file__)).read_text()


def _head(node: ast.AST) -> int | None:
    """Return the first line of an ``except`` or a ``case``: their first statement also notes that line."""
    if isinstance(node, ast.ExceptHandler):
        return node.lineno
    return node.pattern.lineno if isinstance(node, ast.match_case) else None


def _noted(statement: ast.stmt, name: str, head: int | None) -> list[ast.stmt]:
    """Return the statement after a call that notes its lines; of a compound statement, the lines of its head."""
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
    if docstring or future:
        return [statement]
    decorators = getattr(statement, "decorator_list", [])
    begin = decorators[0].lineno if decorators else statement.lineno
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    if body:
        first = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
        end = max(statement.lineno, first.lineno - 1)
    else:
        end = statement.end_lineno or statement.lineno
    statements.append([(name, line) for line in range(head or begin, end + 1)])
    call = ast.Call(ast.Name("__note__", ast.Load()), [ast.Constant(len(statements) - 1)], [])
    return [ast.copy_location(ast.Expr(call), statement), statement]


def _caching(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``functools.cache`` in a form that repeats, for functions of the tests, the notes of the first call."""

    def decorate(function: Any) -> Any:
        if not getattr(function, "__module__", "").startswith("tests"):
            return real(function)

        @real
        def noted(*given: Any, **named: Any) -> tuple[Any, set[int]]:
            before = set(ran)
            ran.clear()
            try:
                return function(*given, **named), set(ran)
            finally:
                ran.update(before)

        @functools.wraps(function)
        def replayed(*given: Any, **named: Any) -> Any:
            value, lines = noted(*given, **named)
            ran.update(lines)
            return value

        replayed.cache_clear = noted.cache_clear  # type: ignore[attr-defined]
        return replayed

    return decorate


if os.environ.get("CBSURGEON_COVER"):
    sys.meta_path.insert(0, Noting())
    functools.cache = _caching(functools.cache)  # type: ignore[assignment]

of_fixtures: dict[tuple[str, str], set[int]] = defaultdict(set)
outcomes: dict[str, str] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that the record has, and those that took long in an earlier run."""
    known, slow = {record["test"] for record in _records()}, _slow(os.environ.get("CBSURGEON_TIMES", ""))
    left = [item for item in items if item.nodeid not in known and _written(item) not in slow]
    config.hook.pytest_deselected(items=[item for item in items if item not in left])
    items[:] = left


def _slow(file: str) -> set[tuple[str, str]]:
    """Return class and name, as JUnit writes them, of the tests that took longer than :data:`SLOW` seconds."""
    cases = ElementTree.parse(file).getroot().iter("testcase") if file else ()
    return {(case.attrib["classname"], case.attrib["name"]) for case in cases if float(case.attrib["time"]) > SLOW}


def _written(item: pytest.Item) -> tuple[str, str]:
    return item.nodeid.removesuffix(f"::{item.name}").replace(".py", "").replace("::", ".").replace("/", "."), item.name


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Any:
    """Keep what a shared fixture runs."""
    before = set(ran)
    ran.clear()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            of_fixtures[fixturedef.baseid, fixturedef.argname] |= ran
        ran.update(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Keep the worst outcome of the three phases."""
    report = yield
    if report.outcome != "passed" or item.nodeid not in outcomes:
        outcomes[item.nodeid] = report.outcome
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Write what the test ran."""
    ran.clear()
    begin = time.monotonic()
    result = yield
    used = set(getattr(item, "fixturenames", ()))
    for (base, fixture), lines in of_fixtures.items():
        if fixture in used and item.nodeid.startswith(base):
            ran.update(lines)
    files: dict[str, list[int]] = defaultdict(list)
    for file, line in sorted({line for number in ran for line in statements[number]}):
        files[file].append(line)
    seconds = round(time.monotonic() - begin, 3)
    record = {"test": item.nodeid, "outcome": outcomes.pop(item.nodeid, "none"), "seconds": seconds, "lines": files}
    with RECORD.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    return result
