"""Outputs that hide small differences (top classes, signs, saturated scores): the residual stream is compared too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.checks import verify
from cbsurgeon.deploy import export_onnx
from cbsurgeon.models.model import Model
from tests.attention.small import vit

OUTPUTS = {
    "top class": lambda y: y.argmax(1),
    "top five": lambda y: y.topk(5, 1).values > 1e9,
    "sign": lambda y: y.sign(),
    "truth": lambda y: y > 0.0,
    "saturated softmax": lambda y: (y * 1e5).softmax(1),
    "clamped": lambda y: (y * 1e5).clamp(0.0, 1.0),
    "two outputs": lambda y: (y.argmax(1), y.sign()),
}
CHANGE = 1.00005
"""Factor of one branch: far above the rounding noise of float32, and no output changes, as each test checks."""


class Net(nn.Module):
    """A residual branch that is multiplied by a number, scores with margins, and a function of the scores."""

    def __init__(self, last: object, weight: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.last, self.weight = nn.Linear(8, 8), last, weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.weight * self.fc(x).tanh())  # type: ignore[operator,no-any-return]


def model(name: str, weight: float = 1.0) -> Model:
    example = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    return Model(Net(OUTPUTS[name], weight).eval(), (example,))


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_difference_that_no_output_shows_is_found_in_the_stream(name: str) -> None:
    first, second = model(name), model(name, CHANGE)
    found = verify(first, second)
    outputs = [row for row in found.rows if row.output.startswith("output")]
    assert all(row.ok and row.max_abs == 0.0 for row in outputs), "the test needs outputs that are equal"
    assert not found.ok
    assert found.rows[-1].reason == "the residual stream differs here"
    assert found.rows[-1].max_abs > 1e-6, "about 5e-5 of a branch whose values are about 1"


@pytest.mark.parametrize("name", OUTPUTS)
def test_equal_models_are_the_same_and_the_note_says_what_was_compared(name: str) -> None:
    found = verify(model(name), model(name))
    assert found.ok, str(found)
    assert any("a block is compared" in note for note in found.notes)


def test_two_files_are_compared_inside_as_well(tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "same.onnx", tmp_path / "b.onnx"]
    for path, weight in zip(paths, (1.0, 1.0, CHANGE), strict=True):
        export_onnx(model("top class", weight), path)
    assert verify(paths[0], paths[1]).ok
    assert not verify(paths[0], paths[2]).ok


def test_ordinary_scores_need_no_other_comparison() -> None:
    same = Model(Net(lambda y: y).eval(), (torch.randn(2, 8),))
    found = verify(same, same)
    assert found.ok
    assert {row.output for row in found.rows} == {"output"}


def test_without_a_stream_the_outputs_decide_and_a_note_says_so() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 10), Top()).eval()
    found = verify(Model(module, (torch.randn(2, 8),)), Model(module, (torch.randn(2, 8),)))
    assert found.ok
    assert any("large differences only; there is no residual stream" in note for note in found.notes)


class Top(nn.Module):
    """The index of the largest element."""

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1)


def test_truth_values_of_a_model_with_operators_are_compared() -> None:
    """Truth values cannot be subtracted, which once ended the comparison with the model without its operators."""
    module, inputs = vit()
    base = Model(nn.Sequential(module, Positive()).eval(), inputs)
    edited = cbs.insert(base, op="cb", layers="all")
    found = verify(edited, edited)
    assert found.ok
    assert not any("Subtraction" in note for note in found.notes)


class Positive(nn.Module):
    """Whether each element is positive."""

    def forward(self, x: Tensor) -> Tensor:
        return x > 0.0
