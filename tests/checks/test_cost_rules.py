"""Counts of single operators, by hand, for one sample: multiplications of the paper's convention, and operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbsurgeon.checks.cost.auditing import count
from cbsurgeon.checks.cost.counts import Count, Tally, readable
from cbsurgeon.models.model import Model

CASES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], int, int]] = {
    # A function, the shape of a sample, and per sample: multiplications, operations.
    "addcmul": (lambda x: torch.addcmul(x, x, x), (3, 8), 24, 2 * 24),
    "lerp": (lambda x: torch.lerp(x, x, 0.5), (3, 8), 24, 3 * 24),
    "leaky_relu": (F.leaky_relu, (3, 8), 24, 24),
    "glu": (lambda x: F.glu(x, -1), (3, 8), 12, 2 * 12),
    "softmax": (lambda x: x.softmax(-1), (3, 8), 0, 5 * 24),
    "mean": (lambda x: x.mean(1), (3, 8), 8, 24 + 8),
    "sum": (lambda x: x.sum(1), (3, 8), 0, 24),
    "var": (lambda x: x.var(1), (3, 8), 0, 4 * 24 + 8),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 2), (3, 8), 6, 24 + 6),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 2), (3, 4, 4), 12, 48 + 12),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), (3, 4, 4, 4), 24, 192 + 24),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), (3, 8), 12, 2 * 12),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), (3, 4, 4), 12, 4 * 12),
    "avg_pool2d of two sides": (lambda x: F.avg_pool2d(x, (2, 1)), (3, 4, 4), 24, 2 * 24),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), (3, 4, 4), 0, 4 * 12),
    "einsum": (lambda x: torch.einsum("bnc,cd->bnd", x, torch.ones(8, 5)), (3, 8), 120, 240),
    "einsum of any axes": (lambda x: torch.einsum("...c,cd->...d", x, torch.ones(8, 5)), (3, 8), 120, 240),
    "einsum of two": (lambda x: torch.einsum("...nc,...mc->...nm", x, x), (3, 8), 72, 144),
    "convolution": (lambda x: F.conv1d(x, torch.ones(5, 3, 2)), (3, 8), 5 * 7 * 6, 2 * 5 * 7 * 6),
    "transposed convolution": (lambda x: F.conv_transpose1d(x, torch.ones(3, 5, 2)), (3, 8), 24 * 10, 2 * 24 * 10),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (2, 3, 4), 144, 288 + 6 * 18),
    "attention with a mask": (
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(3, 3)), (2, 3, 4), 144, 288 + 7 * 18,
    ),
    "native layer norm": (  # returns the mean and the deviation, too
        lambda x: torch.native_layer_norm(x, (8,), torch.ones(8), torch.ones(8), 1e-5)[0], (3, 8), 24, 7 * 24,
    ),
    "dropout": (lambda x: F.dropout(x, 0.5, training=False), (3, 8), 0, 0),
    "batch norm": (lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3)), (3, 8), 0, 2 * 24),
    "batch norm with weights": (
        lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3), torch.ones(3), torch.ones(3)), (3, 8), 24, 2 * 24,
    ),
}  # fmt: skip


class Only(nn.Module):
    """One function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", CASES)
def test_an_operator(name: str) -> None:
    function, shape, flops, operations = CASES[name]
    found = count(Model(Only(function).eval(), (torch.randn(2, *shape),)))
    assert found.uncounted == {}
    assert (found.total.flops, found.total.operations) == (flops, operations)
    assert (found.total.params, found.weight_bytes) == (0, 0)


COPIES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    # A function of 3 x 8 numbers, and how many of them it copies.
    "contiguous already": (lambda x: x.contiguous(), 0),
    "contiguous in the other order": (lambda x: x.transpose(1, 2).contiguous(), 24),
    "contiguous in the first order": (lambda x: x.transpose(1, 2).transpose(1, 2).contiguous(), 0),
    "a view": (lambda x: x.reshape(-1, 24), 0),
    "a part": (lambda x: x[:, :, :4].reshape(-1, 12), 12),
    "a reshape in the other order": (lambda x: x.transpose(1, 2).reshape(-1, 24), 24),
    "another type": (lambda x: x.double(), 24),
    "the same type": (lambda x: x.float(), 0),
}


@pytest.mark.parametrize("name", COPIES)
def test_what_a_change_of_layout_copies(name: str) -> None:
    """Each number is read and written once, with four bytes; eight where doubles are written."""
    function, copied = COPIES[name]
    found = count(Model(Only(function).eval(), (torch.randn(2, 3, 8),)))
    assert found.total.bytes == copied * (4 + (8 if name == "another type" else 4))
    assert (found.total.flops, found.total.operations) == (0, 0)


MODES: dict[str, Callable[[], Any]] = {
    "without gradients": torch.no_grad,
    "with gradients": torch.enable_grad,
    "without autocast": lambda: torch.autocast("cpu", enabled=False),
}


@pytest.mark.parametrize("name", MODES)
def test_what_runs_in_another_mode_counts_too(name: str) -> None:
    """The export puts it into a graph of its own."""

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            with MODES[name]():
                x = self.first(x).relu()
            return self.second(x)

    found = count(Model(Inside().eval(), (torch.randn(2, 3, 8),)))
    products = 3 * (8 * 4 + 4 * 2)
    assert found.uncounted == {}
    assert (found.total.flops, found.total.operations) == (products, 2 * products + 3 * 4)


def test_tallies_add_and_subtract_each_quantity() -> None:
    one, two = Tally(1, 20, 300, 4000, 50000), Tally(7, 3, 3, 3, 3)
    assert one + two == Tally(8, 23, 303, 4003, 50003)
    assert one - two == Tally(-6, 17, 297, 3997, 49997)
    assert Tally() == Tally(0, 0, 0, 0, 0)
    assert one.to_dict() == {"params": 1, "flops": 20, "operations": 300, "bytes": 4000, "bytes_fused": 50000}


def test_a_count_of_nothing() -> None:
    nothing = Count("nothing", Tally(), {}, {})
    assert (nothing.weight_bytes, nothing.inserted) == (0, ())
    assert nothing.uncounted == nothing.free == nothing.calls == {}


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0, True, "+0"),
        (0, False, "0"),
        (1, True, "+1"),
        (-1, True, "-1"),
        (5, False, "5"),
        (2 * 10**12, False, "2.00 T"),
    ],
)
def test_signs_of_readable_numbers(value: int, signed: bool, text: str) -> None:
    assert readable(value, signed=signed) == text


class Region(nn.Module):
    """A linear layer in a region with another gradient mode or another type, which a program holds as one node."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(8, 8), kind

    def forward(self, x: Tensor) -> Tensor:
        region = torch.no_grad() if self.kind == "gradients" else torch.autocast("cpu", dtype=torch.bfloat16)
        with region:
            y = self.fc(x)
        return y.float()


@pytest.mark.parametrize("kind", ["gradients", "types"])
def test_the_region_of_a_program_is_counted(kind: str) -> None:
    module, x = Region(kind).eval(), torch.randn(2, 3, 8)
    with torch.enable_grad():
        exported = torch.export.export(module, (x,))
    assert any(str(node.target).startswith("wrap_with") for node in exported.graph.nodes)
    found = count(Model(None, program=exported))
    assert found.calls["linear"] == 1 and not found.uncounted
    assert found.total.flops == 2 * 3 * 8 * 8, "two samples of three tokens"


def test_a_count_of_nothing_reads_no_weights() -> None:
    assert Count("nothing", Tally()).weight_bytes == 0
