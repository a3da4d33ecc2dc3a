"""A trial of one mutant: its tests in a fork of this process, with the mutated module in the place of its file."""

from __future__ import annotations

import gc
import hashlib
import importlib.abc
import importlib.machinery
import os
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from mutation.covering import ROOT, Ran

OTHERS = ("-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not gpu")


PATIENCE = 8
"""A trial is ended after its limit of processor time, or after this many times the limit of wall time."""

STRONG = (
    *(f"tests/graph/test_hostile.py::test_{name}" for name in ("blocks", "positions", "end_axes", "rejections")),
    *("tests/surgery/test_table.py::test_row", "tests/graph/test_axes.py::test_end_axes"),
)
"""Test functions with many networks as parameters; several parameters of each are tried early."""


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Gives one module another source."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """Return the spec of that module; ``None`` for others."""
        if name != self.name:
            return None
        package = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        spec = importlib.machinery.ModuleSpec(name, self, origin=str(self.path), is_package=package is not None)
        spec.submodule_search_locations = package
        spec.has_location = True
        return spec

    def get_filename(self, fullname: str) -> str:
        """The file, for tracebacks."""
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        """The other source."""
        return self.text.encode()

    def path_stats(self, path: str) -> Any:
        """Refuse to give a modification time, so that no compiled file is read or written."""
        raise OSError


class Watch:
    """A plugin that writes the names of failed tests to a file descriptor."""

    def __init__(self, stream: int) -> None:
        self.stream, self.failed = stream, False

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write a failed test."""
        if report.failed:
            self.failed = True
            os.write(self.stream, f"{report.nodeid}\n".encode())

    def pytest_collectreport(self, report: Any) -> None:
        """Write a file that cannot be imported."""
        if report.failed:
            os.write(self.stream, f"{report.nodeid}\n".encode())


def reimported(tests: list[str], limit: float, changed: Mutated | None) -> tuple[str, list[str]]:
    """Run tests in a fork of a process that has not imported cbsurgeon.

    Args:
        tests: names of tests.
        limit: seconds of processor time after which the fork is ended.
        changed: the mutated module; ``None`` runs all tests without a mutant.

    Returns:
        ``killed``, ``survived``, ``timeout`` or ``broken`` (no test ran), and the tests that failed. A mutant that
        cannot be imported, or that ends the process, is killed.
    """

    def body(written: int) -> int:
        if changed is not None:
            sys.meta_path.insert(0, changed)
        words = ["-x"] if changed is not None else []
        return int(pytest.main([*words, *OTHERS, *tests], plugins=[Watch(written)]))

    return _forked(body, limit)


class Loaded:
    """Runs tests in forks of a process that has imported everything and collected all tests.

    The mutated functions get other code in the fork. This saves the imports, but does not show a mutant in what runs on
    import: its survivors are tried by :func:`reimported` again.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._items = {item.nodeid: item for item in session.items}
        self._functions: dict[str, list[FunctionType]] = defaultdict(list)
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType) and thing.__code__.co_filename.startswith(str(ROOT / "cbsurgeon")):
                self._functions[thing.__code__.co_filename].append(thing)
        gc.collect()
        gc.freeze()

    def failing(self, tests: Iterable[str]) -> set[str]:
        """Return those of some tests that fail in a fork without a mutant, as some that start processes do."""
        items = [self._items[test] for test in sorted(set(tests)) if test in self._items]

        def body(written: int) -> int:
            for item in items:
                item.config.pluginmanager.register(Watch(written), item.nodeid)
                item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
                item.config.pluginmanager.unregister(name=item.nodeid)
            return 0

        outcome, failed = _forked(body, 900) if items else ("survived", [])
        if outcome != "survived":
            raise RuntimeError(f"the tests without a mutant ended with {outcome}")
        return set(failed)

    def trial(self, tests: list[str], limit: float, path: Path, text: str) -> tuple[str, list[str]] | None:
        """Run tests with a mutant, see :func:`reimported`; ``None`` if no function that exists changes."""
        before, after = (_codes(compile(source, str(path), "exec")) for source in (path.read_text(), text))
        pairs = {old: new for old, new in zip(before[1:], after[1:], strict=False) if old != new}
        changed = [function for function in self._functions[str(path)] if function.__code__ in pairs]
        items = [self._items[test] for test in tests if test in self._items]
        if len(before) != len(after) or not changed or not items:
            return None

        def body(written: int) -> int:
            for function in changed:
                function.__code__ = pairs[function.__code__]
            watch = Watch(written)
            items[0].config.pluginmanager.register(watch)
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                if watch.failed:
                    return 1
            return 0

        return _forked(body, limit)


def _codes(code: CodeType) -> list[CodeType]:
    inner = [one for const in code.co_consts if isinstance(const, CodeType) for one in _codes(const)]
    return [code, *inner]


def _forked(body: Callable[[int], int], limit: float) -> tuple[str, list[str]]:
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        try:
            code = body(written)
        except BaseException:
            code = 1
        os._exit(code)
    os.close(written)
    code_found, deadline = None, time.monotonic() + PATIENCE * limit
    while time.monotonic() < deadline and _processor_seconds(child) < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code_found = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.02)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(read) as stream:
        failed = stream.read().splitlines()
    if code_found == 4 and not failed:
        return "broken", []  # pytest does not know a test: the record is of other tests.
    return {None: "timeout", 0: "survived", 5: "broken"}.get(code_found, "killed"), failed


def _processor_seconds(process: int) -> float:
    """Return the processor time of a process and its finished children; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(fields[place]) for place in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


def picked(
    tests: Iterable[str], known: dict[str, Ran], kills: Counter[str], file: str, count: int, budget: float
) -> list[str]:
    """Return tests in the order of their trial.

    One parameter of each test function in turn. First come functions in files with names like the mutated file's, then
    those with many networks, and those that noticed most mutants so far. At most ``count`` tests are chosen, which took
    at most ``budget`` seconds together.
    """
    functions: dict[str, list[str]] = defaultdict(list)
    for test in sorted(set(tests), key=lambda test: (known[test].seconds, test)):
        functions[test.partition("[")[0]].append(test)
    words = [word[:5] for word in re.split(r"[/_.]", file)[2:] if len(word) > 3]

    def likely(name: str) -> tuple[int, float]:
        own = name.partition("::")[0]
        return sum(word in own for word in words), max(known[test].part(file) for test in functions[name])

    first = sorted(functions, key=likely, reverse=True)[: count // 4]
    rest = sorted(
        (name for name in functions if name not in first),
        key=lambda name: (-kills[name], known[functions[name][0]].seconds),
    )
    order = [*first, *(name for name in STRONG if name in functions for _ in range(4)), *rest]
    for several in functions.values():
        several[1:] = sorted(several[1:], key=_any_order)  # after the fastest one
    chosen: list[str] = []
    left = budget
    while len(chosen) < count and any(functions.values()):
        for name in order:
            if functions[name] and len(chosen) < count:
                test = functions[name].pop(0)
                if known[test].seconds <= left or not chosen:
                    left -= known[test].seconds
                    chosen.append(test)
    return chosen


def _any_order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
