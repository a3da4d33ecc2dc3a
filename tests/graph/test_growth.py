"""The time of reading is linear in the number of blocks, for all kinds of branches."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from cbsurgeon.graph import Program, inspect_program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.graph.networks_branches import ParallelBlock, ScaledResidualBlock
from tests.graph.networks_forms import Branch, Spelled
from tests.graph.parts import Block, Mlp, Stack

FEW, MANY = 6, 24

# Four times the blocks may take four times as long. The rest of the allowance is for a busy machine: quadratic growth
# would be sixteen times, and what this guards against (a walk that forks at every addition) never ends.
SLACK = 2.5


def deep(make: type[nn.Module], depth: int) -> Program:
    module = Stack(*[make() for _ in range(depth)]).eval()
    return capture(Model(module, (torch.randn(2, 5, 8),)), check=False)


def reading_time(program: Program) -> float:
    """The least of three readings, in seconds of this process."""
    times = []
    for _ in range(3):
        start = time.process_time()
        inspect_program(program)
        times.append(time.process_time() - start)
    return min(times)


class SpelledBranch(Branch):
    """An activation with sums inside, which are additions of a tensor to its ancestor."""

    def __init__(self) -> None:
        super().__init__(Mlp(act=Spelled("tanh-gelu")))


@pytest.mark.thin(4)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("make", [Block, ParallelBlock, ScaledResidualBlock, SpelledBranch])
def test_reading_is_linear_in_depth(make: type[nn.Module]) -> None:
    few, many = deep(make, FEW), deep(make, MANY)
    assert len(inspect_program(many).blocks) == MANY
    ratio = reading_time(many) / reading_time(few)
    assert ratio <= SLACK * MANY / FEW, f"{MANY / FEW:.0f} times the blocks took {ratio:.1f} times as long"
