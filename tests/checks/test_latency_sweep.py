"""Sweeps: the budget is shared, the worst point decides, and an interrupted sweep keeps its finished points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cbsurgeon.checks.latency import sweeping as latency_sweep
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.sampling import Process
from cbsurgeon.checks.latency.sweeping import Sweep, place, sweep
from cbsurgeon.checks.latency.verdict import conclude
from cbsurgeon.options import BenchOptions, BenchPoints
from cbsurgeon.vocabulary import Progress


def result(factor: float, batch: int = 1) -> Benchmark:
    wobble = [1 + 0.001 * (index % 5 - 2) for index in range(24)]
    row = Process(
        a=tuple((0.01, 0.01) for _ in wobble),
        b=tuple((0.01 * factor * part, 0.01 * factor * part) for part in wobble),
        control=tuple((0.01 * part, 0.01 * part) for part in wobble),
    )
    return conclude([row] * 5, claim=0.01, environment={"batch": batch})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Records the arguments of each benchmark; larger batches are slower here."""
    asked: list[dict[str, Any]] = []

    def bench(a: Any, b: Any, how: BenchOptions, *, progress: Progress | None) -> Benchmark:
        asked.append({"sides": (a, b), "batch": how.batch, "budget": how.budget, "claim": how.claim})
        if progress is not None:
            progress("building")
        return result(1 + 0.01 * (how.batch - 1), how.batch)

    monkeypatch.setattr(latency_sweep, "bench", bench)
    return asked


def sides(size: int | None) -> tuple[str, str]:
    return f"a{size}", f"b{size}"


def test_every_batch_at_every_size_shares_the_budget(measured: list[dict[str, Any]]) -> None:
    said: list[str] = []
    found = sweep(sides, BenchPoints((1, 4), (224, 288)), BenchOptions(budget=100.0, claim=0.01), progress=said.append)
    assert [(one["sides"], one["batch"], one["budget"], one["claim"]) for one in measured] == [
        (("a224", "b224"), 1, 25.0, 0.01),
        (("a224", "b224"), 4, 25.0, 0.01),
        (("a288", "b288"), 1, 25.0, 0.01),
        (("a288", "b288"), 4, 25.0, 0.01),
    ]
    assert [place(point) for point in found.points][-1] == "batch 4, 288 x 288"
    assert said[-1] == "batch 4, 288 x 288: building"
    assert str(found).count("pairs") == 4


def test_the_worst_point_decides(measured: list[dict[str, Any]]) -> None:
    found = sweep(sides, BenchPoints((1, 4, 2)))
    assert found.worst.environment["batch"] == 4 and not found
    document = found.to_dict()
    assert {"ratio", "ci95", "verdict", "pairs", "environment"} <= set(document)
    assert document["ratio"] == found.worst.ratio and document["verdict"] == "slower"
    assert [point["environment"]["batch"] for point in document["sweep"]] == [1, 4, 2]
    assert Sweep((result(1.0), result(1.001))).worst.ratio == pytest.approx(1.001)
    assert Sweep((result(1.0),))


def test_one_point_is_a_plain_benchmark(measured: list[dict[str, Any]]) -> None:
    said: list[str] = []
    found = sweep(sides, BenchPoints((2,)), progress=said.append)
    assert found.to_dict() == result(1.01, 2).to_dict()
    assert said == ["building"]
    assert measured[0]["budget"] == 20.0


def interrupting(at: int) -> Callable[..., Benchmark]:
    count = 0

    def bench(a: Any, b: Any, how: BenchOptions, **_: Any) -> Benchmark:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return result(1.0, how.batch)

    return bench


def test_ctrl_c_keeps_the_points_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_sweep, "bench", interrupting(3))
    found = sweep(sides, BenchPoints((1, 2, 4, 8)))
    assert [point.environment["batch"] for point in found.points] == [1, 2]
    assert [point.partial for point in found.points] == [False, True]
    monkeypatch.setattr(latency_sweep, "bench", interrupting(1))
    with pytest.raises(KeyboardInterrupt):
        sweep(sides, BenchPoints((1, 2)))


def test_a_point_cut_short_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_sweep, "bench", lambda a, b, how, **_: replace(result(1.0, how.batch), partial=True))
    assert len(sweep(sides, BenchPoints((1, 2))).points) == 1
