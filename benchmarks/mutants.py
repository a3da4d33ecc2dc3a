"""Does a test fail when the code is wrong? Sampled mutants of checks/, surgery/ and graph/, by cosmic-ray's operators.

    pip install cosmic-ray
    python benchmarks/mutants.py --cover                       once: record the tests that run each line
    python benchmarks/mutants.py --count 300 --minutes 60      sample, run, write results/mutants.json
    python benchmarks/mutants.py --again                       the survivors once more, with more tests for each

A mutant is tested with tests that run its line, at most ``--tests`` of them that took at most ``--budget`` seconds
together, until one fails. Tests that took longer than 20 s with the record are not used, nor tests marked ``wide``,
``slow`` or ``gpu``, nor what a test runs in another process. The sample is drawn evenly over the lines of the three
packages, with a seed, one mutant of a line. Results of lines that no longer exist are dropped.

Not in the sample, as they change nothing that runs: annotations (they are not evaluated), the condition of
``if TYPE_CHECKING``, and changes that are not Python (the ``*`` of a signature as ``-``). cosmic-ray has no operator
that changes texts. Not in the rate: mutants of the sample that are equivalent to the code; ``mutation/equivalent.json``
has each with its proof. A mutant on a line that no test runs is a survivor. A mutant that runs longer than four times
its tests, and 30 s more, in processor time, is counted as noticed (``timeout``).
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from mutation.covering import DATA, PACKAGES, RECORD, ROOT, Ran, tests_of_lines, tests_that_passed
from mutation.sources import Mutant, lines_that_use, mutants, runs_on_import, sample, text_of
from mutation.trial import OTHERS, Loaded, Mutated, picked, reimported

UNRELIABLE = DATA / "unreliable.json"
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
EQUIVALENT = ROOT / "benchmarks" / "mutation" / "equivalent.json"
FOLDERS = ("tests/surgery", "tests/checks", "tests/graph", "tests/wild", "tests/attention", "tests/operators")
ON_IMPORT = ("tests/test_frozen.py", "tests/test_options.py")
"""Tests of what modules define when they are imported; no single test runs these lines."""
HEAVY = (
    *(
        "torch",
        "torch.export",
        "torch._dynamo",
        "torch.onnx",
        "numpy",
        "pytest",
        "_pytest.runner",
        "hypothesis",
        "timm",
    ),
    *("torchvision", "onnx", "onnxruntime", "onnxscript", "rich", "click", "safetensors.torch", "transformers"),
)
SLOWEST = 20
"""Seconds after which a test is stopped and left out."""


def cover(paths: Sequence[str], times: str) -> None:
    """Run the tests once, one folder after the other; record the lines that each of them runs, and its duration."""
    DATA.mkdir(parents=True, exist_ok=True)
    search = os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))
    settings = {**os.environ, "PYTHONPATH": search, "CBSURGEON_COVER": "1", "CBSURGEON_TIMES": times}
    for path in paths:
        words = ["-p", "mutation.covering", "-n", "0", "-q", "-p", "no:cacheprovider", f"--timeout={SLOWEST}", path]
        with (DATA / f"{path.replace('/', '-')}.log").open("w") as log:
            subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=settings, stdout=log)
        print(path, sum(1 for _ in RECORD.open()), "tests recorded", flush=True)


def prepare() -> None:
    """Import what takes long and has no mutants, so that a fork has it."""
    os.chdir(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(DATA / "compiled")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in HEAVY:
        try:
            __import__(name)
        except ImportError as reason:
            print(f"{name}: {reason}", file=sys.stderr)
    import torch

    torch.export.export(torch.nn.Linear(1, 1), (torch.ones(1, 1),))  # loads what the first export loads
    gc.freeze()


def candidates(mutant: Mutant, tests: dict[tuple[str, int], list[str]], known: dict[str, Ran]) -> list[str]:
    """Return the tests that run the line of a mutant."""
    own: list[str] = []
    for lines in lines_that_use(mutant):
        own = [test for line in lines for test in tests.get((mutant.file, line), ())]
        if own:
            break
    return [test for test in dict.fromkeys(own) if known[test].seconds < SLOWEST]


def run(
    mutant: Mutant,
    own: list[str],
    known: dict[str, Ran],
    kills: Counter[str],
    count: int,
    budget: float,
    loaded: Loaded | None,
) -> dict[str, Any]:
    """Try a mutant; return its result."""
    chosen = picked(own, known, kills, mutant.file, count, budget)
    record = {"key": mutant.key, "line": mutant.line, "outcome": "no test", "tests": len(chosen), "of": len(own)}
    if runs_on_import(mutant):
        chosen = [*chosen, *ON_IMPORT]
    text = text_of(mutant)
    assert text is not None
    if not chosen:
        return record
    limit, path = 30 + 4 * sum(known[test].seconds for test in chosen if test in known), ROOT / mutant.file
    found = loaded.trial(chosen, limit, path, text) if loaded else reimported(chosen, limit, Mutated(path, text))
    outcome, failed = found if found is not None else ("later", [])
    return {**record, "outcome": outcome, **({"by": failed[0]} if failed else {})}


def confirm(found: dict[str, dict[str, Any]], loaded: Loaded) -> None:
    """Drop the results of tests that fail without a mutant, too, and do not use these tests again."""
    bad = loaded.failing(one["by"] for one in found.values() if "by" in one)
    UNRELIABLE.write_text(json.dumps(sorted(bad | unreliable())))
    for key in [key for key, one in found.items() if one.get("by") in bad]:
        del found[key]


def unreliable() -> set[str]:
    """Return the tests that fail in a fork without a mutant."""
    return set(json.loads(UNRELIABLE.read_text())) if UNRELIABLE.exists() else set()


def read() -> dict[str, dict[str, Any]]:
    """Return the results of earlier runs by key."""
    return {one["key"]: one for one in json.loads(RESULT.read_text())["mutants"]} if RESULT.exists() else {}


LEFT = ("survived", "no test")


def proofs() -> dict[str, str]:
    """Return the mutants that are equivalent to the code, each with its proof."""
    return dict(json.loads(EQUIVALENT.read_text())) if EQUIVALENT.exists() else {}


def write(found: dict[str, dict[str, Any]], possible: int, seed: int) -> None:
    """Write the results and their sums."""
    proven = proofs()
    equivalent = {key for key, one in found.items() if key in proven and one["outcome"] in ("survived", "no test")}
    counts = Counter("equivalent" if key in equivalent else one["outcome"] for key, one in found.items())
    counted = sum(counts[name] for name in ("killed", "timeout", "survived", "no test"))
    noticed = counts["killed"] + counts["timeout"]
    head = {
        "schema": "cbsurgeon.mutants/2",
        "tool": "cosmic-ray operators",
        "packages": PACKAGES,
        "seed": seed,
        "possible": possible,
        "ran": sum(counts.values()) - counts["broken"],
        "in_the_rate": counted,
        "kill_rate": round(noticed / counted, 4) if counted else None,
        "outcomes": dict(counts),
        "packages_outcomes": {
            package: dict(
                Counter(
                    "equivalent" if key in equivalent else one["outcome"]
                    for key, one in found.items()
                    if key.startswith(f"cbsurgeon/{package}/")
                )
            )
            for package in PACKAGES
        },
    }
    rows = ",\n  ".join(json.dumps(found[key]) for key in sorted(found))
    RESULT.write_text(json.dumps(head, indent=1).removesuffix("\n}") + f',\n "mutants": [\n  {rows}\n ]\n}}\n')


def main() -> None:
    """Record coverage, or sample and run mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cover", nargs="*", metavar="TESTS", help=f"default: {' '.join(FOLDERS)}")
    parser.add_argument("--times", default="", metavar="XML", help="of an earlier run, to leave out slow tests")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--tests", type=int, default=16, help="largest number of tests per mutant")
    parser.add_argument("--budget", type=float, default=12, help="largest number of seconds of the tests of a mutant")
    parser.add_argument("--again", nargs="?", const="", metavar="TEXT", help="survivors whose key has this text")
    parser.add_argument(
        "--among", default="", metavar="TEXT", help="use tests with one of these texts (a,b) in the name"
    )
    given = parser.parse_args()
    if given.cover is not None:
        cover(given.cover or FOLDERS, given.times)
        return
    every = mutants()
    present = {mutant.key for mutant in every}
    chosen = sorted(sample(every, given.count, given.seed), key=lambda one: PACKAGES.index(one.file.split("/")[1]))
    drawn = {mutant.key for mutant in chosen}
    found = {key: one for key, one in read().items() if key in present & drawn}
    known = {test: ran for test, ran in tests_that_passed().items() if test not in unreliable()}
    if given.among:
        known = {test: ran for test, ran in known.items() if any(text in test for text in given.among.split(","))}
    tests = tests_of_lines(known)
    prepare()
    end = time.monotonic() + 60 * given.minutes

    def work(wanted: list[Mutant], loaded: Loaded | None) -> None:
        if loaded is not None:
            confirm(found, loaded)
        for mutant in wanted:
            if time.monotonic() > end:
                break
            own = candidates(mutant, tests, known)
            if given.among and not own:
                continue
            kills = Counter(one["by"].partition("[")[0] for one in found.values() if "by" in one)
            record = run(mutant, own, known, kills, given.tests, given.budget, loaded)
            words = f"{record['outcome']:9}{record['tests']:3} of {record['of']:4}  {mutant.line}  {mutant.key}"
            print(words, file=terminal, flush=True)
            if record["outcome"] != "later":
                found[mutant.key] = record
                write(found, len(every), given.seed)
        if loaded is not None:
            confirm(found, loaded)
            write(found, len(every), given.seed)

    terminal = os.fdopen(os.dup(1), "w")
    left = [mutant for mutant in chosen if mutant.key not in found]
    if given.again is not None:
        survivors = {key for key, one in found.items() if one["outcome"] in LEFT and key not in proofs()}
        left = [one for one in chosen if one.key in survivors and given.again in one.key]
    functions = [mutant for mutant in left if not runs_on_import(mutant) and not given.among]
    if functions:
        child = os.fork()
        if child == 0:
            files = sorted({test.partition("::")[0] for test in known} - set(ON_IMPORT))
            pytest.main([*OTHERS, "-s", *files], plugins=[Instead(functools.partial(work, functions))])
            os._exit(0)
        os.waitpid(child, 0)
        found.update(read())
    done = {key for key, one in found.items() if given.again is None or one["outcome"] == "killed"}
    work([mutant for mutant in left if mutant.key not in done], None)


class Instead:
    """A plugin of pytest that does other work in place of running the tests."""

    def __init__(self, work: Callable[[Loaded], None]) -> None:
        self.work = work

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Do the work with the tests that were collected."""
        self.work(Loaded(session))
        return True


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
