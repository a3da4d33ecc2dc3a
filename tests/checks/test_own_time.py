"""Measuring own time with a profiler that returns known traces, and running two models in turns."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cbsurgeon.checks.latency.share import measuring, turns
from cbsurgeon.checks.latency.share.estimate import FEWEST_RUNS
from cbsurgeon.checks.latency.share.result import OwnTime
from cbsurgeon.checks.latency.share.turns import Profiled
from tests.checks.test_share import MEAN, SIZE, true_overhead
from tests.checks.traces import model, traced


@pytest.mark.parametrize(
    ("seconds", "most", "runs"),
    [(30.0, 100, 16), (28.0, 100, 16), (27.9, 100, 14), (10.0, 100, 12), (9.0, 100, 10), (30.0, 4, 4), (30.0, 5, 6)],
)
def test_turns_end_with_their_time(monkeypatch: pytest.MonkeyPatch, seconds: float, most: int, runs: int) -> None:
    """A round of A B B A takes 4 s. A round that begins in time is finished; up to twelve runs have twice the time."""
    now, ran = [100.0], []

    def call(name: str) -> None:
        now[0] += 1.0
        ran.append(name)

    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert turns.take_turns([lambda: call("A"), lambda: call("B")], seconds, most) == runs
    assert "".join(ran) == "ABBA" * (runs // 2)


class Factory:
    """What a measurement of own time needs of a factory: the back end, the device and the inserted sites."""

    device = "cpu"

    def __init__(self, sites: tuple[str, ...] = ()) -> None:
        self.spec, self.sites = SimpleNamespace(chosen="eager"), sites


def _measured(monkeypatch: pytest.MonkeyPatch, traces: tuple[Any, ...], sites: tuple[str, ...] = ()) -> OwnTime | str:
    """Own time by a profiler that returns these traces of A, B and the second A, and took 1e6 seconds to open them."""
    asked: list[tuple[Any, ...]] = []

    def profile(factories: Any, seconds: float) -> Profiled:
        asked.append((*factories, seconds))
        return Profiled(traces, "a profiler", 1e6)  # type: ignore[arg-type]

    monkeypatch.setitem(measuring.PROFILES, ("eager", "cpu"), profile)
    a, b = Factory(), Factory(sites)
    found = measuring.own_time(a, b, seconds=7.0)  # type: ignore[arg-type]
    assert asked == [(a, b, a, 7.0)]
    return found


def test_own_time_is_that_of_the_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of equal inserted operators get the sites that only B has; the time of opening does not count."""
    rng = np.random.default_rng(0)
    a, b, again = traced(model(), rng), traced(model(MEAN), rng), traced(model(), rng)
    b = replace(b, nodes=tuple(replace(node, site="") for node in b.nodes))
    found = _measured(monkeypatch, (a, b, again), ("blocks.2.mlp", "blocks.3.mlp"))
    assert isinstance(found, OwnTime)
    assert found.overhead.value == pytest.approx(true_overhead(model(), model(MEAN)), rel=SIZE)
    assert [site.site for site in found.sites] == ["blocks.2.mlp", "blocks.3.mlp"]
    assert found.method == "a profiler" and found.notes == ()
    assert -1e6 <= found.seconds < 60 - 1e6
    noted = _measured(monkeypatch, (replace(a, dropped=2), replace(b, dropped=1), replace(again, dropped=9)))
    assert isinstance(noted, OwnTime)
    assert noted.notes == ("3 runs executed different operators and were left out",)


def test_own_time_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b, few = traced(model(), rng), traced(model(MEAN), rng), traced(model(), rng, FEWEST_RUNS - 1)
    assert _measured(monkeypatch, (a, "no operators", a)) == "B: no operators"
    assert _measured(monkeypatch, (a, b, b)) == "the baseline executes different operators when it is opened again"
    told = _measured(monkeypatch, (few, b, a))
    assert told == f"only {FEWEST_RUNS - 1} runs fit into 7 s; {FEWEST_RUNS} are needed"
    enough = traced(model(), rng, FEWEST_RUNS)
    assert isinstance(_measured(monkeypatch, (enough, b, a)), OwnTime)
