"""Complex outputs: differences of the imaginary part count in the checks of a capture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon import Model
from cbsurgeon.errors import CaptureError, CBSurgeonError
from cbsurgeon.graph import inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.program import parts


class Mixing(nn.Module):
    """An MLP; the imaginary part of the output is the mean over samples, or random."""

    def __init__(self, *, random: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.random = nn.Linear(8, 16), nn.Linear(16, 8), random

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(torch.relu(self.up(x)))
        imaginary = torch.randn_like(x) if self.random else x.mean(0, keepdim=True).expand_as(x)
        return torch.complex(x, imaginary.contiguous())


def test_both_parts_are_numbers() -> None:
    value = torch.complex(torch.tensor([1.0]), torch.tensor([2.0]))
    assert parts(value).tolist() == [[1.0, 2.0]] and parts(value.conj()).tolist() == [[1.0, -2.0]]
    assert parts(torch.tensor([3], dtype=torch.int8)).tolist() == [3.0]


def test_a_random_imaginary_part_is_no_capture() -> None:
    with pytest.raises(CaptureError, match="CB-CAPTURE-05"):
        capture(Model(Mixing(random=True).eval(), (torch.randn(2, 5, 8),)))


def test_samples_that_mix_in_the_imaginary_part_are_seen() -> None:
    with pytest.raises(CBSurgeonError, match="of one sample changes with the values of another"):
        inspect(Model(Mixing(random=False).eval(), (torch.randn(2, 5, 8),)))
