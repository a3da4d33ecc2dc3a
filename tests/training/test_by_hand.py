"""Twenty steps of training equal those of the same network with the operator written by hand, for every operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.operators import names
from tests.training import by_hand

ROUNDING = 2e-5
"""The same arithmetic in another order: float32 roundings that twenty steps of momentum carry on, on values of order
one."""

HALF = 2e-2
"""As above in bfloat16, whose unit in the last place is 2^-8: gradients of order 0.1, times the rate, over 20 steps."""


def close(edited: dict[str, Any], written: dict[str, Tensor], op: str, tolerance: float) -> None:
    found = by_hand.renamed(edited, op)
    assert set(found) == set(written)
    for key, value in written.items():
        difference = float((found[key] - value).abs().max())
        assert difference <= tolerance, (key, difference)


def _ways() -> list[Any]:
    """Every operator in float32, two of them in every way; the rest when slow."""
    return [
        pytest.param(op, way, marks=() if way == "float32" or op in ("cb_s", "uniform_head") else pytest.mark.slow)
        for op in names()
        for way in ("float32", "bfloat16", "checkpointing", "compile")
    ]


@pytest.mark.thin(4)
@pytest.mark.parametrize(("op", "way"), _ways())
def test_one_process(op: str, way: str) -> None:
    edited, written = by_hand.pair(op)
    before = {key: value.clone() for key, value in written.state_dict().items()}
    ran: nn.Module = edited
    if way == "checkpointing":
        edited.checkpointing = True
    if way == "compile":
        torch._dynamo.reset()
        ran = torch.compile(edited, backend="aot_eager")
    losses = by_hand.train(ran, autocast=way == "bfloat16")
    expected = by_hand.train(written, autocast=way == "bfloat16")
    tolerance = HALF if way == "bfloat16" else ROUNDING
    assert max(abs(one - other) for one, other in zip(losses, expected, strict=True)) <= tolerance
    close(dict(edited.state_dict()), written.state_dict(), op, tolerance)
    moved = max(float((value - before[key]).abs().max()) for key, value in written.state_dict().items())
    assert moved > 5 * HALF, "training changed the weights"
    written.load_state_dict(by_hand.renamed(edited.state_dict(), op), strict=True)
    x = by_hand.batches()[0][0]
    torch.testing.assert_close(edited.eval()(x), written.eval()(x), rtol=0, atol=ROUNDING)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """DDP and FSDP2 on halves of each batch, against the network by hand on the whole."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    torch.multiprocessing.spawn(by_hand.ranks, (str(tmp_path), names()), nprocs=by_hand.WORLD)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for op in names():
        written = by_hand.pair(op)[1]
        by_hand.train(written)
        for way in ("ddp", "fsdp"):
            close(found[op][way], written.state_dict(), op, ROUNDING)
