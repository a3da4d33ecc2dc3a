"""Timing programs in turns, in this process or in new ones."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"ViT-S": "timm:deit_small_patch16_224", "Swin-T": "timm:swin_tiny_patch4_window7_224"}
OPSET = 20


@dataclass(frozen=True)
class Times:
    """Several measurements of one duration, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return median, quartiles and all values."""
        low, _, high = statistics.quantiles(self.seconds, n=4) if len(self.seconds) > 1 else self.seconds * 3
        every = [round(value, 4) for value in self.seconds]
        return {"median": round(self.median, 4), "quartiles": [round(low, 4), round(high, 4)], "all": every}


def interleaved(arms: dict[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Time the programs in turns, in order and in reverse order, after one run of each that is not counted."""
    names = list(arms)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for arm in arms.values():
        arm()
    for _ in range(repeats):
        for name in (*names, *reversed(names)):
            start = time.perf_counter()
            arms[name]()
            taken[name].append(time.perf_counter() - start)
    return {name: Times(tuple(values)) for name, values in taken.items()}


def ratio(times: dict[str, Times], above: str, below: str) -> float:
    """Return the median of the ratios of neighbouring runs, which a slow drift of the machine does not change."""
    pairs = zip(times[above].seconds, times[below].seconds, strict=True)
    return round(statistics.median(one / other for one, other in pairs), 4)


def rows_of(part: str, what: str, times: dict[str, Times], base: str) -> list[dict[str, Any]]:
    """Return one row per program, with its ratio to the base."""
    return [
        {"part": part, "what": what, "arm": name, **spent.to_dict(), "ratio": ratio(times, name, base), "to": base}
        for name, spent in times.items()
    ]


def absent(part: str, what: str, arm: str, package: str) -> dict[str, Any]:
    """Return the row of a tool that is not installed."""
    return {"part": part, "what": what, "arm": arm, "absent": f"{package} is not installed"}


def fresh(words: Sequence[str]) -> str:
    """Run this Python in a new process; return its output."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=_surroundings())
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def _surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
