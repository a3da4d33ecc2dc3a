"""Measuring latency: the rotation, the budget, interruption, several processes, and the result."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter

import pytest
import torch
from torch import nn

from cbsurgeon.checks.environment import environment, reset_peak, resident_bytes
from cbsurgeon.checks.latency import comparison as latency_compare
from cbsurgeon.checks.latency import sampling as latency_sampling
from cbsurgeon.checks.latency.benchmark import bench
from cbsurgeon.checks.latency.comparison import compare, compare_processes
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.sampling import MIN_GROUPS, ROTATION, Process, calls_per_sample
from cbsurgeon.checks.latency.verdict import conclude
from cbsurgeon.errors import CBSurgeonError, CheckFailed
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model, Provenance
from tests.checks.arms import Broken, Clock, Product, Slow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (latency_sampling, latency_compare):
        monkeypatch.setattr(module, "time", made)
    return made


def test_rotation_is_fair() -> None:
    """Every order is symmetric, and over the three orders every model is at every position equally often."""
    assert all(order == order[::-1] for order in ROTATION)
    for place in range(6):
        assert Counter(order[place] for order in ROTATION) == {0: 1, 1: 1, 2: 1}


def test_every_model_gets_the_same_number_of_calls() -> None:
    assert calls_per_sample([0.004, 0.005, 0.004], 0.020) == 5
    assert calls_per_sample([0.1, 0.1, 0.1], 0.020) == 1


def test_equal_models(clock: Clock) -> None:
    result = compare(clock.arm(0.01), clock.arm(0.01), pairs=12, claim=0.02)
    assert result.verdict == "negligible" and result
    assert result.ratio == pytest.approx(1.0) and result.control_ratio == pytest.approx(1.0)
    assert result.pairs == 12 and result.processes == 1 and not result.partial
    assert result.median_seconds == pytest.approx((0.01, 0.01))


def test_a_slower_candidate(clock: Clock) -> None:
    result = compare(clock.arm(0.0100), clock.arm(0.0103), pairs=12, claim=0.02)
    assert result.verdict == "slower" and not result
    assert result.ratio == pytest.approx(1.03)
    assert result.sentence.startswith("slower by 3.00 %")


def test_a_faster_candidate(clock: Clock) -> None:
    result = compare(clock.arm(0.010), clock.arm(0.009), pairs=12, claim=0.02)
    assert result
    assert result.verdict == "faster"
    assert result.sentence == "faster by 10.00 %, at least 10.00 % with 95 % confidence (claim: 2 %)"


def test_one_process_does_not_prove_one_per_cent(clock: Clock) -> None:
    """Even on a perfect clock: what one process cannot see is not proven by it."""
    result = compare(clock.arm(0.01), clock.arm(0.01), pairs=40, claim=0.01)
    assert result.verdict == "inconclusive"
    assert result.sentence.startswith("INCONCLUSIVE")
    assert any("one process" in note for note in result.notes)


def test_budget_decides_the_number_of_groups(clock: Clock) -> None:
    """A group is six samples of two calls of 10 ms: 0.12 s."""
    result = compare(clock.arm(0.01), clock.arm(0.01), budget=12.0, claim=0.02)
    assert 90 <= result.pairs <= 100
    assert clock.now <= 12.0 + 0.12
    assert not result.partial


def test_samples_become_shorter_when_the_machine_becomes_slower(clock: Clock) -> None:
    """Twenty calls of 1 ms make a sample; at 25 ms a call, six groups of such samples would take 18 s."""
    arms = [clock.arm(0.001, later=0.025, after=18) for _ in range(2)]
    result = compare(*arms, budget=2.0, claim=0.02)
    assert result.pairs >= MIN_GROUPS and clock.now <= 2.0 + 6 * 20 * 0.025, "only the first group came unexpected"


def test_progress_is_reported(clock: Clock) -> None:
    said: list[str] = []
    compare(clock.arm(0.01), clock.arm(0.01), pairs=20, progress=said.append)
    assert said[-1] == "20 of 20 groups"
    assert len(said) == 10


def test_interrupted_with_enough_gives_a_partial_result(clock: Clock) -> None:
    warm, group = 18, 12  # two rounds of three calls of three arms; six samples of two calls
    arms = [clock.arm(0.01, interrupt_after=warm + 8 * group) for _ in range(2)]
    result = compare(*arms, pairs=100, claim=0.02)
    assert result.partial
    assert result.pairs == 8
    assert "partial" in str(result)


def test_interrupted_too_early_stays_interrupted(clock: Clock) -> None:
    arms = [clock.arm(0.01, interrupt_after=18 + 2 * 12) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        compare(*arms, pairs=100)


def _samples(factor: float, groups: int = 24, control: float = 1.0) -> Process:
    wobble = [1 + 0.001 * (index % 5 - 2) for index in range(groups)]
    return Process(
        a=tuple((0.01, 0.01) for _ in wobble),
        b=tuple((0.01 * factor * part, 0.01 * factor * part) for part in wobble),
        control=tuple((0.01 * control * part, 0.01 * control * part) for part in wobble),
    )


def test_processes_count_as_units() -> None:
    """Five processes that disagree by 2 % prove less than their many groups would suggest."""
    agreeing = conclude([_samples(1.0)] * 5, claim=0.01, environment={})
    disagreeing = conclude([_samples(f) for f in (0.98, 0.99, 1.0, 1.01, 1.02)], claim=0.01, environment={})
    assert agreeing.verdict == "negligible"
    assert disagreeing.verdict == "inconclusive"
    assert disagreeing.pairs_needed is not None and disagreeing.pairs_needed > disagreeing.pairs
    assert f"about {disagreeing.pairs_needed} pairs would settle it" in disagreeing.sentence


def test_a_noise_difference_of_the_baseline_from_itself_is_noted() -> None:
    result = conclude([_samples(1.0, control=1.05)] * 5, claim=0.01, environment={})
    assert result.verdict == "inconclusive"
    assert any("A differs from itself by +5.00 %" in note for note in result.notes)


def test_document_is_plain_json() -> None:
    result = conclude([_samples(1.002)] * 5, claim=0.01, environment=environment())
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["schema"] == "cbsurgeon.bench/1"
    assert {"ratio", "ci95", "verdict", "sentence", "pairs", "environment", "share", "graph"} <= set(document)
    assert document["ci95"][0] <= document["ratio"] <= document["ci95"][1]
    assert len(document["samples"]) == 5 and len(document["samples"][0]["b"]) == 24
    assert document["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.wide
def test_fresh_processes_measure() -> None:
    """Twice the work takes about twice the time, in two new interpreters."""
    said: list[str] = []
    result = compare_processes(
        Product(20), Product(40), processes=2, groups=6, min_sample_ms=2, claim=0.1, progress=said.append
    )
    assert isinstance(result, Benchmark)
    assert result.processes == 2 and result.pairs == 12
    # This asks whether the right things were timed, on a machine others may be using: the more they use it, the wider
    # the interval.
    low, high = result.ci95
    assert low < 2.7 and high > 1.5
    assert result.environment["threads"]["torch"] >= 1
    assert any(line.startswith("process 2 of 2") for line in said)
    if resident_bytes() is not None and reset_peak():
        assert all(value is not None and value >= 0 for value in result.peak_memory)


def test_a_failing_process_is_an_error_with_its_last_output() -> None:
    with pytest.raises(CheckFailed, match="CB-BENCH-02") as caught:
        compare_processes(Product(1), Broken(), processes=2, groups=2)
    assert "this arm cannot be built" in caught.value.why


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent as a POSIX signal")
def test_ctrl_c_gives_the_result_so_far() -> None:
    """The running process is stopped, and its samples so far give a result marked as partial."""
    seen = threading.Event()

    def press(message: str) -> None:
        if "groups" in message and not seen.is_set():
            seen.set()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    result = compare_processes(Slow(), Slow(), processes=2, groups=100, min_sample_ms=10, claim=0.5, progress=press)
    assert result.partial
    assert result.processes == 1
    assert MIN_GROUPS <= result.pairs < 100


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def _tiny() -> Model:
    return Model(Tiny().eval(), (torch.randn(2, 8),), Provenance("tiny"))


def test_bench_of_two_models_in_this_process() -> None:
    result = bench(_tiny(), _tiny(), budget=1.0, batch=4, claim=5.0)
    assert result.processes == 1
    assert (result.a, result.b) == ("tiny", "tiny")
    assert result.environment["backend"] == "eager"
    assert result.environment["batch"] == 4


@pytest.mark.wide
def test_bench_in_fresh_processes() -> None:
    result = bench(_tiny(), _tiny(), budget=10.0, processes=2, claim=5.0)
    assert result.processes == 2


@pytest.mark.slow
def test_bench_sends_programs_to_other_processes_as_files() -> None:
    """A model that exists as a program only cannot be pickled; it is sent as a file of our own."""
    program = Model(None, provenance=Provenance("program"), program=capture(_tiny()).exported)
    result = bench(program, program, backend="program", budget=10.0, processes=2, batch=3, claim=5.0)
    assert result.processes == 2
    assert not any("cannot be pickled" in note for note in result.notes)


def test_bench_notes_when_a_model_cannot_be_pickled() -> None:
    """A class defined inside a function does not pickle."""

    class Local(Tiny):
        pass

    model = Model(Local().eval(), (torch.randn(2, 8),), Provenance("local"))
    result = bench(model, model, budget=1.0, processes=2, claim=5.0)
    assert result.processes == 1
    assert any("cannot be pickled for another" in note for note in result.notes)


def test_bench_refuses_an_unknown_backend() -> None:
    with pytest.raises(CBSurgeonError, match="CB-RUN-09"):
        bench(_tiny(), _tiny(), backend="abacus", budget=1.0)
