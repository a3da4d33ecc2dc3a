"""Own time of synthetic traces: the difference of the graphs, the share, and its confidence interval."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.settling import settle
from cbsurgeon.checks.latency.share import onnx_profile
from cbsurgeon.checks.latency.share.difference import differ, in_groups, only_inserted
from cbsurgeon.checks.latency.share.estimate import FEWEST_RUNS, estimate
from cbsurgeon.checks.latency.share.result import GraphDifference, Interval, Operators, OwnTime, Share, SiteTime
from cbsurgeon.checks.latency.share.trace import Node, Run, Trace, trace_of
from cbsurgeon.report import render_text
from tests.checks.traces import model, traced

MEAN = (("ReduceMean", 9.0), ("AddMean", 4.0))
SIZE = 0.3
"""A planted overhead is found with its size within 30 %."""


def true_overhead(a: tuple[list[Node], list[float]], b: tuple[list[Node], list[float]]) -> float:
    return sum(b[1]) / sum(a[1]) - 1


def test_the_same_graph_has_no_difference() -> None:
    nodes = model(MEAN)[0]
    assert not differ(nodes, nodes)
    rng = np.random.default_rng(0)
    found = estimate(traced(model(MEAN), rng), traced(model(MEAN), rng))
    assert found.overhead == Interval(0.0, (0.0, 0.0), 0.0, 0.0)
    assert found.share.value == 0.0 and not found.graph and found.graph.only_inserted


def test_inserted_operators_are_named() -> None:
    """Of four equal blocks, the two with an operator are the ones named."""
    a, b = model()[0], model(MEAN)[0]
    positions = differ(a, b)
    assert [b[place].name for place in positions.added] == ["ReduceMean_2", "AddMean_2", "ReduceMean_3", "AddMean_3"]
    assert not positions.removed and not positions.changed
    assert only_inserted(a, b, positions)
    back = differ(b, a)
    assert [b[place].name for place in back.removed] == [b[place].name for place in positions.added]


def test_groups_of_equal_operators_belong_to_the_sites_in_order() -> None:
    a, b = model()[0], [replace(node, site="") for node in model(MEAN)[0]]
    added = differ(a, b).added
    named = in_groups(b, added, ["blocks.2.mlp", "blocks.3.mlp"])
    assert [named[place].site for place in added] == ["blocks.2.mlp"] * 2 + ["blocks.3.mlp"] * 2
    assert not any(named[place].site for place in range(len(b)) if place not in added)
    assert in_groups(b, added, ["one", "two", "three"]) == tuple(b)
    assert not any(node.site for node in in_groups(b, added[:3], ["one", "two"]))  # unlike groups


def test_a_different_order_is_not_a_difference() -> None:
    nodes = model()[0]
    assert not differ(nodes, [*nodes[5:], *nodes[:5]])


def test_a_lost_fusion_is_more_than_inserted_operators() -> None:
    a, b = model()[0], model(MEAN, lost=True)[0]
    positions = differ(a, b)
    assert [a[place].op for place in positions.removed] == ["Gelu"]
    assert {b[place].op for place in positions.added} == {"ReduceMean", "AddMean", "Erf", "Mul"}
    assert not only_inserted(a, b, positions)


def test_an_operator_on_another_shape_has_changed() -> None:
    """Folding moves a bias from all tokens to their mean: the addition is neither lost nor inserted."""
    bias = Node("Add", "float[197,384] float[384]", "float[197,384]", "bias")
    moved = Node("Add", "float[197,384] float[1,384]", "float[197,384]", "bias")
    mean = Node("MatMul", "float[1,197] float[197,384]", "float[1,384]", "mean", "blocks.0.mlp.context_broadcast")
    tiny = Node("Add", "float[1,384] float[384]", "float[1,384]", "tiny", "blocks.0.mlp.context_broadcast")
    positions = differ([bias], [mean, tiny, moved])
    assert positions.added == (0, 1) and positions.changed == ((0, 2),) and not positions.removed
    assert only_inserted([bias], [mean, tiny, moved], positions)
    assert not only_inserted([bias], [replace(mean, site=""), tiny, moved], positions)  # a node of nobody's


@pytest.mark.parametrize("load", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(
    ("extra", "lost"),
    [(MEAN, False), ((("Copy", 45.0),), False), ((), True)],
    ids=["mean", "copy", "broken fusion"],
)
def test_planted_overheads_are_found(extra: tuple[tuple[str, float], ...], lost: bool, load: float) -> None:
    a, b = model(), model(extra, lost=lost)
    rng = np.random.default_rng(7)
    found = estimate(traced(a, rng, load=load), traced(b, rng, load=load))
    assert found.overhead.value == pytest.approx(true_overhead(a, b), rel=SIZE)
    assert found.overhead.lower95 > 0
    assert found.graph.only_inserted != lost
    inserted = 2 * sum(cost for _, cost in extra)
    if not lost:
        assert found.share.value == pytest.approx(inserted / sum(b[1]), rel=SIZE)
        assert [site.site for site in found.sites] == ["blocks.2.mlp", "blocks.3.mlp"]
        assert found.sites[0].microseconds == pytest.approx(inserted / 2, rel=SIZE)


def test_intervals_cover_the_truth() -> None:
    """Noise that is in proportion to an operator's time leaves the ratios as they are: the truth is known."""
    a, b = model(), model(MEAN)
    truth, rng = true_overhead(a, b), np.random.default_rng(3)
    inside = upper = 0
    runs = 120
    for _ in range(runs):
        found = estimate(traced(a, rng, 30, noise=0.1, load=0.02), traced(b, rng, 30, noise=0.1, load=0.02)).overhead
        inside += found.ci95[0] <= truth <= found.ci95[1]
        upper += truth <= found.upper95
    assert inside >= 0.90 * runs  # three standard errors below 95 % at 120 runs
    assert upper >= 0.90 * runs


def test_models_that_share_little_are_compared_as_wholes() -> None:
    """Nothing of A is left in B: there is no operator to measure the others by."""
    a = model()
    b = [Node(f"Other{place}") for place in range(len(a[0]))], [2 * cost for cost in a[1]]
    rng = np.random.default_rng(0)
    found = estimate(traced(a, rng), traced(b, rng))
    assert found.overhead.value == pytest.approx(1.0, rel=0.02) and found.share.value == 1.0
    assert found.unchanged.value == 0.0 and not found.graph.only_inserted


def test_few_runs_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="are needed"):
        estimate(traced(model(), rng, FEWEST_RUNS - 1), traced(model(), rng, FEWEST_RUNS))


def test_runs_that_executed_other_operators_are_left_out() -> None:
    usual, other = (Node("A"), Node("B")), (Node("A"), Node("Retry"), Node("B"))
    runs = [Run(usual, (1.0, 2.0), 4.0)] * 9 + [Run(other, (1.0, 5.0, 2.0), 9.0)]
    found = trace_of(runs)
    assert isinstance(found, Trace)
    assert (found.runs, found.dropped) == (9, 1)
    assert found.times[0].tolist() == [1.0, 2.0] and found.spans[0] == 4.0
    mixed = trace_of([Run(usual, (1.0, 2.0), 4.0), Run(other, (1.0, 5.0, 2.0), 9.0)])
    assert mixed == "only 1 of 2 runs executed the same operators in the same order"
    assert trace_of([]) == "the profiler recorded no operators"


def _event(name: str, start: int, length: int, op: str | None = None) -> dict[str, Any]:
    event: dict[str, Any] = {"cat": "Node" if op else "Session", "name": name, "ts": start, "dur": length}
    if op:
        shapes = [{"float": [1, 4]}]
        event["args"] = {"op_name": op, "input_type_shape": shapes, "output_type_shape": shapes}
    return event


def test_a_profile_of_onnx_runtime_is_read() -> None:
    """Events in the order ONNX Runtime writes them: a run after its operators, a loop after what is inside it."""
    events = [
        _event("session_initialization", 0, 5),
        _event("mean_kernel_time", 10, 3, "ReduceMean"),
        _event("inside_kernel_time", 21, 2, "Mul"),
        _event("inside_kernel_time", 24, 2, "Mul"),
        _event("loop_kernel_time", 20, 9, "Loop"),
        _event("model_run", 9, 25),
        _event("mean_fence_before", 40, 0, "ReduceMean"),
        _event("mean_kernel_time", 41, 4, "ReduceMean"),
        _event("loop_kernel_time", 50, 8, "Loop"),
        _event("model_run", 40, 20),
        {"name": "a mark without a length", "ts": 1},
    ]
    runs = list(onnx_profile.runs_of(events, {"mean": "blocks.0.mlp.context_broadcast"}))
    assert [run.times for run in runs] == [(3.0, 9.0), (4.0, 8.0)]
    assert [run.span for run in runs] == [25.0, 20.0]
    assert [node.op for node in runs[0].nodes] == ["ReduceMean", "Loop"]
    assert runs[0].nodes[0].site == "blocks.0.mlp.context_broadcast" and runs[0].nodes[1].site == ""
    assert runs[0].nodes[0].outputs == "float[1,4]"


def own(low: float, high: float, *, different: bool = True) -> OwnTime:
    middle = (low + high) / 2
    graph = GraphDifference(added=(Operators("Mean", "", "", 6, 40.0),)) if different else GraphDifference()
    interval = Interval(middle, (low, high), low, high)
    return OwnTime(
        Share(0.004, (0.003, 0.005), 40), interval, interval, graph, (), (9e3, 9.1e3), (0.011, 0.011), 5.0, "a profiler"
    )


def pairs(
    low: float, high: float, *, verdict: str = "inconclusive", processes: int = 1, control: Any = (0.99, 1.01)
) -> Benchmark:
    return Benchmark(
        a="a",
        b="b",
        ratio=(low + high) / 2,
        ci95=(low, high),
        lower95=low,
        upper95=high,
        verdict=verdict,  # type: ignore[arg-type]
        sentence=f"{verdict} by the pairs",
        claim=0.01,
        pairs=60,
        processes=processes,
        pairs_needed=500,
        control_ratio=sum(control) / 2,
        control_ci95=control,
        median_seconds=(0.01, 0.01),
    )


NOISY = (0.93, 1.09)


@pytest.mark.parametrize(
    ("own_bounds", "measured", "verdict", "agree"),
    [
        ((0.002, 0.005), pairs(*NOISY), "negligible", True),
        ((0.015, 0.025), pairs(*NOISY), "slower", True),
        ((-0.04, -0.03), pairs(*NOISY), "faster", True),
        ((0.008, 0.012), pairs(*NOISY), "inconclusive", True),
        ((0.008, 0.012), pairs(1.03, 1.05, verdict="slower"), "slower", False),  # the pairs' own word
        ((-0.003, 0.002), pairs(1.015, 1.05), "negligible", True),  # one process contradicts from 2 % on
        ((-0.003, 0.002), pairs(1.03, 1.05, verdict="slower"), "inconclusive", False),
        ((-0.003, 0.002), pairs(1.03, 1.05, verdict="slower", processes=5), "slower", False),
        ((-0.003, 0.002), pairs(1.03, 1.05, control=(1.02, 1.04)), "negligible", True),  # A does so against itself
        ((-0.003, 0.002), pairs(0.90, 0.95, verdict="faster"), "negligible", False),  # faster is not slower
        ((0.05, 0.06), pairs(0.97, 1.00), "inconclusive", False),
        ((-0.06, -0.05), pairs(1.00, 1.02), "inconclusive", False),
        ((3.67, 3.73), pairs(4.21, 5.23), "slower", True),
        ((3.67, 3.73), pairs(3.21, 4.23, control=(0.89, 1.10)), "slower", False),  # both slower, by another size
        ((-0.66, -0.65), pairs(0.45, 0.60), "faster", False),
        ((0.15, 0.16), pairs(0.99, 1.03), "inconclusive", False),
    ],
)
def test_own_time_and_pairs_decide_together(
    own_bounds: tuple[float, float], measured: Benchmark, verdict: str, agree: bool
) -> None:
    found = settle(measured, own(*own_bounds))
    assert (found.verdict, found.pairs_agree) == (verdict, agree)
    assert bool(found) == (verdict in ("negligible", "faster"))
    assert "1 %" in found.sentence or found.sentence.startswith(measured.sentence)
    assert found.share is not None and found.graph is not None
    document = json.loads(json.dumps(found.to_dict()))
    assert document["share"] == {"value": 0.004, "ci95": [0.003, 0.005], "runs": 40}
    assert document["graph"]["only_inserted"] is True and document["own_time"]["profiler_overhead"] == pytest.approx(
        0.1
    )


def test_pairs_of_a_disturbed_machine_do_not_confirm_anything() -> None:
    """B is slower by operator times and faster end to end, but A differs as much from its copy."""
    found = settle(pairs(0.70, 0.88, control=(0.75, 0.83)), own(0.0127, 0.0139))
    assert found.verdict == "slower"
    assert "agree" not in found.sentence and "A differs from itself by -21.00 %" in found.sentence
    close = settle(pairs(1.00, 1.03, control=(1.02, 1.04)), own(0.0127, 0.0139))
    assert "end-to-end times agree" in close.sentence


def test_an_interval_wider_than_what_is_claimed_confirms_nothing() -> None:
    """The claim is 1 %; with one process, pairs are trusted to 2 %. An interval of 30 % fits any claim."""
    wide, narrow = (settle(pairs(*bounds), own(0.003, 0.004)) for bounds in ((0.77, 1.14), (0.99, 1.02)))
    assert wide.verdict == narrow.verdict == "negligible"
    assert "do not contradict this, but vary too much to confirm it" in wide.sentence and "agree" not in wide.sentence
    assert "end-to-end times agree" in narrow.sentence
    large = settle(pairs(4.21, 5.23), own(3.67, 3.73))
    assert "end-to-end times agree" in large.sentence, "an interval of 100 % confirms a slow-down of 370 %"


def test_notes_about_the_pairs_do_not_apply_to_own_time() -> None:
    found = settle(replace(pairs(*NOISY), notes=("one process proves little",)), own(0.002, 0.005))
    assert found.notes == ("end to end: one process proves little",)


def test_equal_graphs_are_negligible() -> None:
    found = settle(pairs(*NOISY), own(0.0, 0.0, different=False))
    assert found.sentence.startswith("negligible: both execute the same operators")
    assert "the inserted ones included" not in found.sentence
    edited = replace(own(0.0, 0.0, different=False), sites=(SiteTime("blocks.6", 30.0),))
    assert "both execute the same operators, the inserted ones included" in settle(pairs(*NOISY), edited).sentence
    document = found.to_dict()
    assert document["graph"]["added"] == [] and document["graph"]["only_inserted"] is True
    assert "both execute the same operators" in " ".join(render_text(document).split())


def test_without_own_time_the_pairs_decide() -> None:
    found = settle(pairs(*NOISY), "no profiler here")
    assert found.verdict == "inconclusive" and found.sentence == "inconclusive by the pairs"
    assert found.to_dict()["own_missing"] == "no profiler here" and found.share is None


def test_bounds_are_students_for_fourteen_degrees_of_freedom() -> None:
    """Sixty runs make fifteen blocks. Tabled quantiles: 2.145 for two sides, 1.761 for one."""
    rng = np.random.default_rng(0)
    found = estimate(traced(model(), rng, 60), traced(model(MEAN), rng, 60)).overhead
    value, one = found.value, found.upper95 - found.value
    two = one * 2.145 / 1.761
    assert one > 0 and found.lower95 == pytest.approx(value - one)
    assert found.ci95 == pytest.approx((value - two, value + two), rel=1e-3)


def test_a_changed_operator_is_listed_with_both_times() -> None:
    """An addition on 384 instead of 197 x 384 numbers, and nothing else."""
    same = Node("MatMul", "float[197,384]", "float[197,384]", "fc")
    before = Node("Add", "float[197,384] float[384]", "float[197,384]", "bias")
    after = Node("Add", "float[197,384] float[1,384]", "float[197,384]", "bias")
    a, b = (trace_of([Run((same, add), (90.0, time), 100.0)] * 8) for add, time in ((before, 10.0), (after, 4.0)))
    assert isinstance(a, Trace) and isinstance(b, Trace)
    found = estimate(a, b)
    ((old, new),) = found.graph.changed
    assert (old.inputs, old.microseconds, new.inputs, new.microseconds) == (before.inputs, 10.0, after.inputs, 4.0)
    assert not found.graph.added and not found.graph.removed
    assert found.overhead.value == pytest.approx(94 / 100 - 1)
