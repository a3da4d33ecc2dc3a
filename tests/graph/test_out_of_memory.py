"""Memory that runs out in a probe is an error, never the answer that the model does not take the probe's values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import cbsurgeon as cbs
from cbsurgeon import Model
from cbsurgeon.cli.common.failure import explain
from cbsurgeon.errors import CBSurgeonError, out_of_memory
from cbsurgeon.graph.capture.execution import Execution
from tests.attention.small import vit

WORDS = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 1152004608 bytes"
SPREAD = 9
"""Operators of each model at which memory runs out, evenly spaced over all that its inspection runs."""


class Padded(nn.Module):
    """Attention with a padding mask, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(mask[:, None, :] == 0, -1e9)
        x = x + scores.softmax(-1) @ v
        return x + self.down(nn.functional.gelu(self.up(x)))  # type: ignore[no-any-return]


class Ordered(nn.Module):
    """A recurrence over tokens, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.up, self.down = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gru(x)[0]
        return x + self.down(torch.relu(self.up(x)))  # type: ignore[no-any-return]


MODELS = {
    "padded": lambda: (Padded().eval(), (torch.randn(2, 6, 8), torch.ones(2, 6))),
    "ordered": lambda: (Ordered().eval(), (torch.randn(2, 6, 8),)),
    "vit": vit,
}


def outcome(model: Model) -> str:
    try:
        cbs.insert(model, op="cb", layers="all")
    except CBSurgeonError as error:
        return error.code
    except MemoryError as error:
        return explain(error).code
    return "inserted"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count the operators that probes run; at number ``at``, memory runs out."""
    state, own = {"count": 0, "at": 0}, Execution._run

    def run(self: Execution, node: fx.Node) -> Any:
        state["count"] += 1
        if state["count"] == state["at"]:
            raise RuntimeError(WORDS)
        return own(self, node)

    monkeypatch.setattr(Execution, "_run", run)
    yield state


@pytest.mark.parametrize("name", MODELS)
def test_no_proof_rests_on_an_allocation_that_failed(name: str, counting: dict[str, int]) -> None:
    model = Model(*MODELS[name]())
    right = outcome(model)
    total = counting["count"]
    assert total > SPREAD
    for at in itertools.islice(range(1, total + 1, max(1, total // SPREAD)), SPREAD):
        counting.update(count=0, at=at)
        assert outcome(model) == "CB-CLI-05", f"operator {at} of {total}; otherwise the result is {right}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(WORDS), True),
        (RuntimeError("numel: integer multiplication overflow"), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError(WORDS), False),
    ],
    ids=["cpu", "size", "python", "gpu", "another error", "another class"],
)
def test_memory_that_ran_out_is_recognised(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_an_allocation_that_really_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(raised.value)
