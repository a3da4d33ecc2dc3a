"""What a measuring process does, in this process and on a simulated clock, and what is sent to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cbsurgeon.checks.latency import child, sampling
from cbsurgeon.checks.latency.benchmark import _portable
from cbsurgeon.checks.latency.child import answered
from cbsurgeon.checks.latency.comparison import Answer, Task
from cbsurgeon.checks.latency.sampling import ROTATION, Timed
from cbsurgeon.deploy.runtimes import RuntimeSpec, open_spec
from cbsurgeon.errors import CheckFailed
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.checks.arms import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.now = 1000.0
    for module in (child, sampling):
        monkeypatch.setattr(module, "time", made)
    return made


class Bench:
    """Factories that write down what they build and close: A takes 10 ms, B 20 ms."""

    def __init__(self, clock: Clock, *, modes: tuple[str, str] = ("", "")) -> None:
        self.built, self.closed, self.said = "", "", list[str]()
        self.clock, self.modes = clock, modes

    def make(self, name: str) -> Timed:
        self.built += name
        seconds, mode = (0.01, self.modes[0]) if name == "A" else (0.02, self.modes[1])
        return Timed(self.clock.arm(seconds), close=lambda: self.close(name), clock="a clock", mode=mode)

    def close(self, name: str) -> None:
        self.closed += name

    def run(self, index: int = 0, groups: int | None = 6, seconds: float | None = None) -> Answer:
        deadline = None if seconds is None else self.clock.now + seconds
        task = Task(lambda: self.make("A"), lambda: self.make("B"), index, 0.02, groups, deadline)
        return answered(task, self.said.append, lambda: False)


@pytest.mark.parametrize(("index", "built", "first"), [(0, "ABA", 0), (1, "BAA", 1), (2, "AAB", 0), (3, "ABA", 0)])
def test_every_model_is_built_first_in_turn(clock: Clock, index: int, built: str, first: int) -> None:
    bench = Bench(clock)
    found = bench.run(index)
    assert bench.built == built and sorted(bench.closed) == ["A", "A", "B"]
    assert found.samples.peak_memory[1 - first] is None, "only the memory of the model built first is known"
    assert [rows[0] for rows in (found.samples.a, found.samples.b, found.samples.control)] == [
        pytest.approx((seconds, seconds)) for seconds in (0.01, 0.02, 0.01)
    ]


def test_the_seconds_are_those_of_the_samples(clock: Clock) -> None:
    """A sample is two calls; a group is two samples of 10, 20 and 10 ms a call: 0.16 s."""
    found = Bench(clock).run()
    assert len(found.samples.a) == 6
    assert found.seconds == pytest.approx(6 * 0.16)
    assert found.environment["clock"] == "a clock"


def test_the_groups_that_fit_before_the_deadline(clock: Clock) -> None:
    """Building takes three calls, 0.04 s, and the warm-up two rounds of three calls of each, 0.24 s; 25 groups fit."""
    found = Bench(clock).run(groups=None, seconds=0.28 + 25.5 * 0.16)
    assert len(found.samples.a) == 25


def test_a_late_process_takes_the_fewest_groups(clock: Clock) -> None:
    found = Bench(clock).run(groups=None, seconds=0.0)
    assert len(found.samples.a) == len(ROTATION)


def test_models_in_different_modes_are_not_timed(clock: Clock) -> None:
    bench = Bench(clock, modes=("eager", "eager, recorded as a CUDA graph"))
    with pytest.raises(CheckFailed, match="CB-BENCH-05"):
        bench.run()
    assert bench.said == ["building"]


def test_programs_are_sent_as_files_of_our_own(tmp_path: Path) -> None:
    """They cannot be pickled; what was just written here may be opened. Modules are sent as they are."""
    layer = Model(nn.Linear(4, 3).eval(), (torch.randn(2, 4),))
    program = Model(None, program=capture(layer).exported)
    sent = _portable(RuntimeSpec(program, "program"), tmp_path / "a.pt2")
    assert (sent.target, sent.trust) == (tmp_path / "a.pt2", True)
    x = torch.randn(5, 4)
    with open_spec(sent) as runtime:
        (found,) = runtime.run({runtime.inputs[0].name: x}).values()
    assert layer.module is not None
    assert torch.allclose(found, layer.module(x))
    kept = RuntimeSpec(layer, "eager")
    assert _portable(kept, tmp_path / "b.pt2") is kept and not kept.trust
