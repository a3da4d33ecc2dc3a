"""``cbsurgeon --help`` is fast: no heavy package is imported before a verb runs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

from cbsurgeon.cli.group import VERBS

LIMIT = 0.3  # seconds; the promise, on a machine with nothing else to do
RUNS = 10

# A busy machine delays every process. What it adds to starting Python and importing click (which any command line of
# this kind must) is no fault of ours; anything above that plus the promise is.
QUIET_START = 0.08  # seconds for the same on a quiet machine


def median_seconds(*arguments: str) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def test_help_is_quick() -> None:
    floor = median_seconds("-c", "import click")
    took = median_seconds("-m", "cbsurgeon", "--help")
    allowed = LIMIT + max(0.0, floor - QUIET_START)
    assert took < allowed, f"--help took {took:.3f} s, limit {allowed:.3f} s; python importing click took {floor:.3f} s"


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from cbsurgeon.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'rich', 'onnx', 'matplotlib', 'jinja2'} & set(sys.modules);"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("Usage: cbsurgeon", "cbsurgeon "))
