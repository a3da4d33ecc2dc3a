"""The notes that limit a verdict, on samples with known logarithms of the ratios."""

from __future__ import annotations

import math

import pytest

from cbsurgeon.checks.latency.sampling import Process
from cbsurgeon.checks.latency.verdict import conclude


def _process(b: float, control: float, load: float = 0.0, groups: int = 40, noise: float = 1e-4) -> Process:
    """Samples with the given logarithms of both ratios, of groups that alternate by ``noise``."""
    shake = [math.exp(noise * (-1) ** place) for place in range(groups)]
    a = tuple((0.01, 0.01) for _ in shake)
    rows = [tuple((0.01 * math.exp(log) * part,) * 2 for part in shake) for log in (b, control)]
    return Process(a, rows[0], rows[1], (0.0, load))


@pytest.mark.parametrize(
    ("samples", "claim", "environment", "notes"),
    [
        ([_process(0.0, 0.0)] * 5, 0.01, {}, []),
        ([_process(0.0, math.log(1.02))] * 5, 0.01, {},
         ["A differs from itself by +2.00 %: the machine was disturbed"]),
        (
            [_process(0.0, log) for log in (-0.01, -0.005, 0.0, 0.005, 0.01)],
            0.01,
            {},
            ["the two copies of A are equal only within 0.76 %; the claim needs 0.5 %"],
        ),
        ([_process(0.0, 0.0)], 0.02, {}, []),
        ([_process(0.0, 0.0)], 0.01, {},
         ["one process cannot prove a claim below 2 %: memory layout changes times as much"]),
        ([_process(0.0, 0.0, load=6.5)] * 5, 0.01, {"affinity": [0, 1, 2, 3], "cores": 16},
         ["the load reached 6.5 on 4 cores: other programs used the machine"]),
        ([_process(0.0, 0.0, load=6.5)] * 5, 0.01, {"affinity": None, "cores": 16}, []),
        ([_process(0.0, 0.0, load=1.5)] * 5, 0.01, {}, []),
        ([_process(0.0, 0.0), _process(0.0, 0.0, load=1.6)], 0.01, {},
         ["the load reached 1.6 on 1 cores: other programs used the machine"]),
    ],
    ids=["none", "control", "coarse", "one at 2 %", "one at 1 %", "load", "16 cores", "load of 1.5", "one of two"],
)  # fmt: skip
def test_notes_limit_the_verdict(
    samples: list[Process], claim: float, environment: dict[str, object], notes: list[str]
) -> None:
    """0.76 %: Student's bound of five medians with a standard deviation of 0.79 % is 2.132 * 0.79 % / sqrt(5)."""
    assert list(conclude(samples, claim=claim, environment=environment).notes) == notes


def test_correlated_groups_are_noted() -> None:
    """A slow wave makes neighbours alike; numbers that alternate are not."""
    wave = [0.01 * math.sin(place / 8) for place in range(64)]
    a = tuple((0.01, 0.01) for _ in wave)
    b = tuple((0.01 * math.exp(log),) * 2 for log in wave)
    noted = conclude([Process(a, b, a)], claim=0.02, environment={}).notes
    assert len(noted) == 1 and noted[0].startswith("groups are correlated (0.9")
    assert conclude([Process(a, b, a)] * 2, claim=0.02, environment={}).notes == ()
