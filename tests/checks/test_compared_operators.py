"""Whose inserted operators a comparison asks for: those of the first model, or else those of the second."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.checks import verify
from cbsurgeon.checks.parity.comparison import _operators
from cbsurgeon.checks.parity.reference import Reference
from cbsurgeon.deploy import export_onnx
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model


class Mixed(nn.Module):
    """A mean over tokens and an MLP, each with a residual add."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + x.mean(1, keepdim=True)
        return x + self.mlp(x)


def plain() -> Model:
    return Model(Mixed().eval(), (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)),))


def edited() -> Model:
    model = plain()
    return cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"))


def test_the_operators_of_either_model_are_found() -> None:
    without, with_them = capture(plain()), capture(edited())
    first = _operators(Reference(with_them), plain())
    assert first.exists and first.reference.program is with_them
    for second in (edited(), with_them):
        found = _operators(Reference(without), second)
        assert found.exists and found.reference.program is not without
    for second in (plain(), without, Path("m.onnx")):
        assert not _operators(Reference(without), second).exists
        assert not _operators(Reference(None), Path("m.onnx")).exists


def test_a_bisection_runs_when_it_is_asked_for_and_something_differs() -> None:
    assert verify(plain(), plain(), batches=(2,), bisect=True).bisection is None
    assert verify(plain(), edited(), batches=(2,), bisect=False).bisection is None
    found = verify(plain(), edited(), batches=(2,), bisect=True)
    assert not found.ok and found.bisection is not None
    assert found.first_bad_block == "mlp"


def test_two_files_are_compared_without_a_program(tmp_path: Path) -> None:
    """Their batch is the first axis, as nothing says otherwise, and tolerances are estimated."""
    first = export_onnx(plain(), tmp_path / "first.onnx").path
    second = export_onnx(edited(), tmp_path / "second.onnx").path
    same, different = verify(first, first, batches=(2,)), verify(first, second, batches=(2,))
    assert same.ok and same.reference.startswith("none: ")
    assert not different.ok
    assert {row.tolerance.source for row in (*same.rows, *different.rows)} == {"estimated"}
