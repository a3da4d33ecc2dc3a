"""Does a test fail when the code is wrong? Sampled mutants of checks/, surgery/ and graph/, by cosmic-ray's operators.

    pip install cosmic-ray pytest-cov
    python benchmarks/mutants.py --cover                       once: record the tests that run each line
    python benchmarks/mutants.py --count 300 --minutes 60      sample, run, add to results/mutants.json
    python benchmarks/mutants.py --pairs cbsurgeon/surgery/selection.py=tests/surgery/test_selection.py
                                                               without --cover: mutants of a file, its own tests

A mutant is tested with the tests that run its line, the fastest first and at most ``--tests`` of them, until one fails.
``--cover`` takes as long as the test suite. Each mutant runs in a fork of one process that has imported torch already.
Mutants that change annotations only are left out; mutants on a line that no test runs count as survivors. The sample is
drawn evenly over the lines, with a seed; a second run continues with the mutants that have no result yet.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
PACKAGES = ("checks", "surgery", "graph")
DATA = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cbsurgeon-mutants"
HEAVY = ("torch", "torch.export", "numpy", "pytest", "hypothesis", "timm", "torchvision", "onnx", "onnxruntime", "rich")
SLOWEST = 20.0
"""Longest duration in seconds of a test that is used; longer tests are left out."""


@dataclass(frozen=True)
class Mutant:
    """One change of one line."""

    file: str
    line: int
    operator: str
    occurrence: int

    @property
    def key(self) -> str:
        """The key of the mutant in the results."""
        return f"{self.file}:{self.line} {self.operator.removeprefix('core/')} {self.occurrence}"


def cover(paths: Sequence[str]) -> None:
    """Run the tests once; record the lines that each of them runs, and its duration."""
    DATA.mkdir(parents=True, exist_ok=True)
    settings = DATA / "settings"
    source = ",".join(f"cbsurgeon/{name}" for name in PACKAGES)
    settings.write_text(f"[run]\nsource = {source}\ndata_file = {DATA / 'data'}\nparallel = true\n")
    for path in paths:
        words = ["-n", "0", "-q", "--cov", f"--cov-config={settings}", "--cov-context=test", "--cov-report=", path]
        with (DATA / f"{path.replace('/', '-')}.log").open("w") as log:
            subprocess.run([sys.executable, "-m", "pytest", *words, "--durations=0"], cwd=ROOT, stdout=log)


def covering() -> tuple[dict[tuple[str, int], list[str]], dict[str, float]]:
    """Return the tests of each line, and the seconds of each test."""
    from coverage import CoverageData

    seconds: dict[str, float] = {}
    for log in DATA.glob("*.log"):
        for took, name in re.findall(r"^([\d.]+)s call +(\S.*)$", log.read_text(), re.MULTILINE):
            seconds[name.strip()] = float(took)
    tests: dict[tuple[str, int], list[str]] = {}
    for file in DATA.glob("data.*"):
        data = CoverageData(str(file))
        data.read()
        for path in data.measured_files():
            name = path[path.rindex("cbsurgeon/") :]
            for line, contexts in data.contexts_by_lineno(path).items():
                found = [each.partition("|")[0] for each in contexts if each]
                tests.setdefault((name, line), []).extend(found)
    return tests, seconds


def mutants(files: Sequence[str] = ()) -> list[Mutant]:
    """Yield every mutant of the given files (or of all) that changes more than an annotation."""
    import cosmic_ray.ast
    import cosmic_ray.plugins

    found: list[Mutant] = []
    names = [name for name in cosmic_ray.plugins.operator_names() if "Variable" not in name]  # these need arguments
    operators = {name: cosmic_ray.plugins.get_operator(name)() for name in names}
    for package in PACKAGES:
        for path in sorted((ROOT / "cbsurgeon" / package).rglob("*.py")):
            if files and str(path.relative_to(ROOT)) not in files:
                continue
            tree = cosmic_ray.ast.get_ast(path.read_text())
            hidden = _annotations(path.read_text())
            counts: Counter[str] = Counter()
            for node in cosmic_ray.ast.ast_nodes(tree):
                for name, operator in operators.items():
                    for (line, column), _ in operator.mutation_positions(node):
                        number = counts[name]
                        counts[name] += 1
                        if not any(begin <= (line, column) < end for begin, end in hidden):
                            found.append(Mutant(str(path.relative_to(ROOT)), line, name, number))
    return found


def _annotations(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the positions of annotations. They are not evaluated, so a mutant there has no effect."""
    spans = []
    for node in ast.walk(ast.parse(text)):
        for field in ("annotation", "returns"):
            part = getattr(node, field, None)
            if isinstance(part, ast.expr):
                end = (part.end_lineno or part.lineno, part.end_col_offset or part.col_offset)
                spans.append(((part.lineno, part.col_offset), end))
    return spans


def sample(every: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return mutants of randomly drawn lines, one per line, so that lines with many mutants have no larger weight."""
    dice = random.Random(seed)
    by_line: dict[tuple[str, int], list[Mutant]] = {}
    for mutant in every:
        by_line.setdefault((mutant.file, mutant.line), []).append(mutant)
    lines = sorted(by_line)
    dice.shuffle(lines)
    return [dice.choice(by_line[line]) for line in lines[:count]]


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


def passes(tests: list[str], limit: float) -> bool:
    """Return whether the tests pass without a mutant; if not, they would kill every mutant."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    try:
        return subprocess.run(words, cwd=ROOT, capture_output=True, timeout=limit).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def run(mutant: Mutant, tests: list[str], limit: float) -> str:
    """Run a mutant in a fork; return ``killed``, ``survived``, ``timeout`` or ``broken``."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    path = ROOT / mutant.file
    text = mutate_code(path.read_text(), get_operator(mutant.operator)(), mutant.occurrence)
    if text is None or text == path.read_text():
        return "broken"
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.meta_path.insert(0, Mutated(path, text))
        import pytest

        try:
            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:cov", *tests])
        except BaseException:
            code = 1
        os._exit(int(code))
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            # A mutant may fail while tests are collected (2, 4) or crash (negative): this counts as killed.
            return {0: "survived", 5: "broken"}.get(code, "killed")
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def results() -> Iterator[dict[str, Any]]:
    """Return the results of earlier runs."""
    if RESULT.exists():
        yield from json.loads(RESULT.read_text())["mutants"]


def write(found: list[dict[str, Any]], total: int) -> None:
    """Write the results and their sums."""
    counts = Counter(one["outcome"] for one in found)
    ran = sum(counts[name] for name in ("killed", "timeout", "survived", "no test"))
    noticed = counts["killed"] + counts["timeout"]
    document = {
        "schema": "cbsurgeon.mutants/1",
        "tool": "cosmic-ray operators",
        "possible_in_the_files_of_the_last_run": total,
        "ran": ran,
        "kill_rate": round(noticed / ran, 4) if ran else None,
        "outcomes": dict(counts),
        "mutants": sorted(found, key=lambda one: one["key"]),
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Record coverage, or sample and run mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cover", nargs="*", metavar="TESTS", help="default: the tests of the three packages")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--tests", type=int, default=12, help="largest number of tests per mutant")
    parser.add_argument("--limit", type=float, default=120, help="largest number of seconds per mutant")
    parser.add_argument("--pairs", nargs="*", default=[], metavar="FILE=TESTS")
    parser.add_argument("--share", default="1/1", metavar="I/N", help="of several processes, the i-th")
    given = parser.parse_args()
    if given.cover is not None:
        cover(given.cover or [f"tests/{name}" for name in PACKAGES])
        return
    pairs = dict(pair.split("=", 1) for pair in given.pairs)
    for file, own in pairs.items():
        if not passes([own], given.limit):
            raise SystemExit(f"{own} fails or takes too long without a mutant of {file}")
    tests, seconds = ({}, {}) if pairs else covering()
    every = [one for one in mutants(list(pairs)) if not pairs or one.file in pairs]
    index, processes = map(int, given.share.split("/"))
    chosen = sample(every, given.count, given.seed)[index - 1 :: processes]
    found = list(results())
    known = {one["key"] for one in found}
    os.chdir(ROOT)
    for name in HEAVY:
        __import__(name)
    end = time.monotonic() + 60 * given.minutes
    for mutant in chosen:
        if mutant.key in known:
            continue
        if time.monotonic() > end:
            break
        quick = sorted({one for one in tests.get((mutant.file, mutant.line), []) if seconds.get(one, 0) < SLOWEST})
        quick = sorted(quick, key=lambda one: seconds.get(one, 0))
        # The fastest tests, and some others spread over the rest, so that they do not all test the same part.
        picked = quick[: given.tests // 2] + quick[given.tests // 2 :: max(1, len(quick) // max(1, given.tests // 2))]
        picked = list(dict.fromkeys(picked))[: given.tests]
        picked = [pairs[mutant.file]] if pairs else picked
        outcome = run(mutant, picked, given.limit) if picked else "no test"
        record = {**asdict(mutant), "key": mutant.key, "outcome": outcome, "tests": len(picked)}
        print(json.dumps({"outcome": outcome, "key": mutant.key}), flush=True)
        found = [one for one in results() if one["key"] != mutant.key] + [record]
        write(found, len(every))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
