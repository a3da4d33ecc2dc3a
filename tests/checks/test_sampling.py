"""Taking samples on a simulated clock: warm-up, number of groups, interruption, and the inputs that are timed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cbsurgeon.checks import environment
from cbsurgeon.checks.latency import comparison, sampling
from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.sampling import MIN_GROUPS, Pace, Timer, calls_per_sample, groups_within, sample, warm_up
from cbsurgeon.deploy.artifact import Port
from tests.checks.arms import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(sampling, "time", made)
    return made


def timer(clock: Clock, rounds: Iterable[float]) -> Timer:
    """A timer that takes three calls of each of these numbers of seconds, and the last one from then on."""
    times = [seconds for seconds in rounds for _ in range(3)]

    def take(calls: int) -> float:
        clock.calls += 1
        seconds = times.pop(0) if len(times) > 1 else times[0]
        clock.now += calls * seconds
        return seconds

    return take


def test_warm_up_ends_when_every_model_is_steady(clock: Clock) -> None:
    """A is steady from the second round on; B differs by 2 % between its third and its fourth, then by 0.5 %."""
    found = warm_up([timer(clock, [1.0]), timer(clock, [4.0, 2.0, 1.04, 1.02, 1.015])], 100.0)
    assert found == [1.0, 1.015]
    assert clock.calls == 5 * 2 * 3


def test_warm_up_of_a_faster_second_round_goes_on(clock: Clock) -> None:
    """Half the time is a change as well as twice the time."""
    assert warm_up([timer(clock, [1.0, 0.5, 0.5])], 100.0) == [0.5]
    assert clock.calls == 3 * 3


def test_warm_up_ends_with_its_time(clock: Clock) -> None:
    """Rounds of 3 s, 6 s and 12 s: after the third, 21 s have passed."""
    assert warm_up([timer(clock, [1.0, 2.0, 4.0, 8.0, 16.0])], 20.0) == [4.0]
    assert clock.now == 21.0


def test_groups_that_fit_into_a_time() -> None:
    """A sample of at least 20 ms is two calls of 10 ms; a group is two samples of each of three models: 0.12 s."""
    assert calls_per_sample([0.01, 0.01, 0.01], 0.02) == 2
    for seconds, groups in ((1.25, 10), (0.13, 1), (0.1, 0), (0.0, 0), (-5.0, 0)):
        assert groups_within([0.01, 0.01, 0.01], 0.02, seconds) == groups


def test_a_stopped_process_returns_its_groups(clock: Clock) -> None:
    timers = [timer(clock, [0.01]) for _ in range(3)]
    answers = iter([False] * 4 + [True] * 6)
    found = sample(timers, Pace(0.02, 10), [0.01] * 3, stopped=lambda: next(answers))
    assert len(found.a) == len(found.b) == len(found.control) == 4
    assert found.a[0] == (0.01, 0.01)
    assert clock.calls == 4 * 6


def test_no_group_begins_after_the_deadline(clock: Clock) -> None:
    """A group is 0.12 s. The eighth begins at 0.84 s, before the deadline; the fewest groups are taken in any case."""
    timers = [timer(clock, [0.01]) for _ in range(3)]
    assert len(sample(timers, Pace(0.02, 100, deadline=0.9), [0.01] * 3).a) == 8
    clock.now = 10.0
    assert len(sample(timers, Pace(0.02, 100, deadline=0.9), [0.01] * 3).a) == MIN_GROUPS


def test_a_system_without_load_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg")
    assert environment.load() == (0.0, 0.0, 0.0)


def test_inputs_of_a_batch_repeat_the_examples() -> None:
    """Three samples of two examples, along the axis of open size: the second here; the first if no size is open."""
    ids = torch.tensor([[1, 2], [3, 4], [5, 6]])
    ports = (
        Port("ids", "int64", (3, "batch")),
        Port("fixed", "int64", (3, 2)),
        Port("flags", "bool", ("batch", 2)),
        Port("numbers", "int32", ("batch", 2)),
        Port("x", "float32", ("batch", 4)),
    )
    factory = RuntimeFactory(SimpleNamespace(), 3, (("ids", ids), ("fixed", ids)))  # type: ignore[arg-type]
    found = factory.inputs(SimpleNamespace(inputs=ports))  # type: ignore[arg-type]
    assert found["ids"].tolist() == [[1, 2, 1], [3, 4, 3], [5, 6, 5]]
    assert found["fixed"].tolist() == ids.tolist()
    assert found["flags"].tolist() == [[True, True]] * 3
    assert found["numbers"].tolist() == [[0, 0]] * 3 and found["numbers"].dtype == torch.int32
    assert found["x"].shape == (3, 4) and bool(found["x"].any())


class Interrupting(io.StringIO):
    """The output of a process, while which Ctrl-C is pressed twice."""

    def __init__(self, stop: Path) -> None:
        super().__init__()
        self.stop, self.pressed = stop, 0

    def __iter__(self) -> Any:
        self.pressed += 1
        if self.pressed <= 2:
            assert self.stop.exists() == (self.pressed == 2)
            raise KeyboardInterrupt
        return iter(['{"progress": "said after it"}\n'])


def test_the_second_ctrl_c_ends_the_measuring_process(tmp_path: Path) -> None:
    stop, ended, said = tmp_path / "stop", [], list[str]()
    output = Interrupting(stop)
    child = SimpleNamespace(stdout=output, wait=lambda: None, terminate=lambda: ended.append(output.pressed))
    assert comparison._listen(child, stop, said.append) is True  # type: ignore[arg-type]
    assert ended == [2] and said == []


def test_progress_of_the_measuring_process_is_passed_on(tmp_path: Path) -> None:
    said: list[str] = []
    output = io.StringIO('a library prints this\n{"progress": "1 of 2"}\n[1]\n{"other": 1}\n{"progress": "2 of 2"}\n')
    child = SimpleNamespace(stdout=output, wait=lambda: None)
    assert comparison._listen(child, tmp_path / "stop", said.append) is False  # type: ignore[arg-type]
    assert said == ["1 of 2", "2 of 2"]
    assert not (tmp_path / "stop").exists()
