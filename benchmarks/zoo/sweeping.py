"""Shared by the sweeps over the zoo: options, worker processes, and a JSON document that is kept at an interruption."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.pool import sweep

Result = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """One measurement of many models.

    Attributes:
        script: the file that is run, also as its own worker.
        schema: of the JSON document.
        results: default path of the document.
        entries: the models, in order.
        measure: one model → its result.
        lost: completes the result of a model whose worker ended or took too long.
        good: returns whether a result is as expected.
        summary: sums over all results.
        table: all results as text.
        packages: packages whose versions are in the document.
    """

    script: Path
    schema: str
    results: Path
    entries: Callable[[], Iterable[Entry]]
    measure: Callable[[Entry], Result]
    lost: Callable[[Entry, Result], Result]
    good: Callable[[Mapping[str, Any]], bool]
    summary: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    table: Callable[[Mapping[str, Any]], str]
    packages: tuple[str, ...] = ("torch", "timm", "torchvision", "transformers")

    def run(self, options: argparse.Namespace) -> int:
        """Measure the chosen models; return 1 if one of the results shown is not as expected."""
        if options.worker:
            return self._work()
        every = {entry.name: entry for entry in self.entries()}
        known: dict[str, Any] = json.loads(options.output.read_text())["models"] if options.output.exists() else {}
        chosen = [
            name
            for name, entry in every.items()
            if re.search(options.only, f"{entry.group} {name}") and not (options.missing and name in known)
        ]
        options.output.parent.mkdir(parents=True, exist_ok=True)

        def report(name: str, result: Result) -> None:
            known[name] = self.lost(every[name], result) if "group" not in result else result
            self._save(options.output, {name: known[name] for name in every if name in known})
            print(f"{'ok ' if self.good(known[name]) else 'BAD'} {name}", file=sys.stderr, flush=True)

        sweep(self.script, chosen, workers=options.workers, timeout=options.timeout, report=report)
        shown = {name: known[name] for name in every if name in known and (not options.only or name in chosen)}
        print(self.table(shown))
        return 0 if all(self.good(result) for result in shown.values()) else 1

    def _work(self) -> int:
        """Measure the models named on the standard input; nothing else may reach the standard output."""
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        torch.set_num_threads(1)
        every = {entry.name: entry for entry in self.entries()}
        for line in sys.stdin:
            answers.write(json.dumps(self.measure(every[line.strip()])) + "\n")
            answers.flush()
        return 0

    def _save(self, path: Path, models: Mapping[str, Any]) -> None:
        document = {
            "schema": self.schema,
            "packages": installed(self.packages),
            "summary": self.summary(models),
            "models": models,
        }
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def parser(description: str, output: Path, timeout: float = 600.0) -> argparse.ArgumentParser:
    """Return a parser with the options of every sweep."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--only", metavar="PATTERN", default="", help="regular expression on group and name")
    made.add_argument("--missing", action="store_true", help="leave out models that have a result")
    made.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    made.add_argument("--timeout", type=float, default=timeout, help=f"seconds per model (default: {timeout:.0f})")
    made.add_argument("-o", "--output", type=Path, default=output, help="path of the results")
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return made


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of packages; ``absent`` for those that are not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


@contextmanager
def attempt(entry: Entry, **fields: Any) -> Iterator[Result]:
    """Context manager that yields the result of one model, to be filled. An error in the block is added to the result,
    and so are time and memory.

    Args:
        entry: the model.
        fields: initial contents of the result; if ``seconds`` is a mapping, the total time is added to it.
    """
    result: Result = {"group": entry.group, "family": entry.family, **fields}
    began = time.perf_counter()
    try:
        yield result
    except Exception as error:  # the sweep reports every failure and continues
        result.update(failure(error))
    total = round(time.perf_counter() - began, 2)
    result["seconds"] = {**result["seconds"], "total": total} if "seconds" in result else total
    gc.collect()
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def failure(error: BaseException) -> dict[str, str]:
    """An error as a result's fields: its first line, and the rest."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return {
        "error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:300],
        "why": " ".join(lines[1:])[:600],
    }
