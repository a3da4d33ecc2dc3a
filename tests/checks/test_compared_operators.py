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


class Hiding(nn.Module):
    """Scores of which every second one is minus infinity, as a model that masks classes returns."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.arange(8) % 2 == 0
        return self.module(x).masked_fill(hidden, float("-inf"))  # type: ignore[no-any-return]


def test_operators_are_checked_where_the_scores_are_finite() -> None:
    """Infinite scores once ended the check, with a note that the operators change no output."""
    base = plain()
    assert base.module is not None
    model = Model(Hiding(base.module).eval(), base.example_inputs)
    right = cbs.insert(model, op="cb", layers="all")
    found = verify(right, right, batches=(2,))
    assert found.ok
    assert not any("do not change any output" in note for note in found.notes), "they change every finite score"
    wrong = verify(right, model, batches=(2,))
    assert any("100% of their effect is missing" in failure for failure in wrong.failures)


def test_a_model_with_values_that_are_not_numbers_is_not_said_to_lack_a_share() -> None:
    class Broken(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x) / torch.zeros(()) * 0.0  # type: ignore[no-any-return]

    right = edited()
    assert right.module is not None
    found = verify(right, Model(Broken(right.module).eval(), right.example_inputs), batches=(2,))
    assert not found.ok and "nan%" not in str(found)
    assert any("is not finite where that of the model is" in failure for failure in found.failures)
