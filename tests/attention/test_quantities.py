"""The quantities on maps whose values are known, and their identities."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbsurgeon.analysis.statistics import quantities
from cbsurgeon.analysis.statistics.reducing import RESOLUTION, Reducer, percentile
from cbsurgeon.analysis.tapping import Tap, Tapped
from cbsurgeon.graph.capture import capture
from cbsurgeon.models import Model
from tests.attention.networks import CASES

EXACT = 1e-6
"""Relative rounding of sums of a few hundred float32 numbers."""

UNIFORM_14 = 0.71795
"""Mean L1 distance of different positions of a 14x14 grid, by enumeration (the paper's analysis made exact)."""


def random_rows(*shape: int) -> Tensor:
    return (3 * torch.randn(shape)).softmax(-1)


@pytest.mark.parametrize("keys", [2, 49, 197])
def test_entropy_is_ln_n_where_uniform_and_zero_where_one_key_has_all(keys: int) -> None:
    assert quantities.entropy(torch.full((1, keys), 1 / keys)).item() == pytest.approx(math.log(keys), rel=EXACT)
    assert quantities.entropy(torch.eye(keys)).abs().max() == 0
    assert quantities.bound(197) == pytest.approx(5.283, abs=5e-4)
    assert quantities.bound(49) == pytest.approx(3.892, abs=5e-4)


def test_entropy_does_not_change_when_keys_are_permuted() -> None:
    rows = random_rows(5, 31)
    assert torch.allclose(quantities.entropy(rows), quantities.entropy(rows[:, torch.randperm(31)]), rtol=EXACT)


@pytest.mark.parametrize("keys", [2, 31])
def test_nuclear_norm_at_the_two_ends(keys: int) -> None:
    uniform = quantities.nuclear_norm(torch.full((1, keys), 1 / keys), 0.125)
    assert uniform.item() == pytest.approx(0.125 * (1 - 1 / keys), rel=EXACT)
    assert quantities.nuclear_norm(torch.eye(keys), 0.125).abs().max() == 0


@pytest.mark.parametrize("seed", range(3))
def test_nuclear_norm_is_the_sum_of_singular_values_of_the_jacobian(seed: int) -> None:
    torch.manual_seed(seed)
    scale, products = 0.3, torch.randn(11, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda one: (scale * one).softmax(-1), products)
    expected = torch.linalg.svdvals(jacobian).sum()
    assert quantities.nuclear_norm((scale * products).softmax(-1), scale).item() == pytest.approx(expected.item())


def by_enumeration(weights: Tensor, height: int, width: int) -> tuple[float, float]:
    """Both readings of the relative distance, pair by pair."""
    places = [(y / (height - 1), x / (width - 1)) for y in range(height) for x in range(width)]
    count, total, shares = len(places), 0.0, []
    for i, (y, x) in enumerate(places):
        far = mass = 0.0
        for j, (v, u) in enumerate(places):
            if i != j:
                far += weights[i, j].item() * (abs(y - v) + abs(x - u))
                mass += weights[i, j].item()
        total += far
        shares.append(far / mass)
    return total / (count * (count - 1)), sum(shares) / count


def test_distances_are_those_of_all_pairs() -> None:
    weights = random_rows(12, 12).double()
    far, mass = quantities.distances(weights, quantities.grid_distances((3, 4)).double())
    literal, weighted = by_enumeration(weights, 3, 4)
    assert far.sum().item() / (12 * 11) == pytest.approx(literal, rel=EXACT)
    assert (far / mass).mean().item() == pytest.approx(weighted, rel=EXACT)


def tap(name: str) -> Tap:
    case = CASES[name]
    return Tapped(capture(Model(case.module(), case.inputs()))).taps[0]


def vit_tap() -> Tap:
    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 2, 2)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.qkv, self.norm = nn.Linear(8, 24), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).mT
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
            return (x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, 0]

    return Tapped(capture(Model(Vit().eval(), (torch.randn(2, 3, 28, 28),)))).taps[0]


def test_a_uniform_map_of_a_vit_has_the_paper_s_numbers() -> None:
    one = vit_tap()
    reduced = Reducer(one)(torch.full((3, 2, 197, 197), 1 / 197))
    values = {name: tensor.tolist() for name, tensor in reduced.values.items()}
    assert values["entropy"] == pytest.approx([math.log(197)] * 3, rel=EXACT)
    assert values["class_entropy"] == pytest.approx([math.log(197)] * 3, rel=EXACT)
    assert values["weighted_distance"] == pytest.approx([UNIFORM_14] * 3, abs=1e-5)
    assert values["distance"] == pytest.approx([UNIFORM_14 / 197] * 3, abs=1e-7)
    assert one.scale == 0.5
    assert values["nuclear_norm"] == pytest.approx([0.5 * (1 - 1 / 197)] * 3, rel=EXACT)


def test_a_map_in_which_every_token_sees_itself_alone_has_zeros() -> None:
    values = Reducer(vit_tap())(torch.eye(197).expand(2, 2, -1, -1).contiguous()).values
    for name in ("entropy", "class_entropy", "distance", "nuclear_norm"):
        assert values[name].tolist() == [0.0, 0.0]
    assert values["weighted_distance"].isnan().all()  # no weight lies on another position


def test_the_class_token_s_row_and_the_spatial_tokens_are_told_apart() -> None:
    one = tap("class-token")
    weights = random_rows(2, 4, 12, 12)
    values = Reducer(one)(weights).values
    rows = -(weights.double() * weights.double().log()).sum(-1)
    assert values["class_entropy"].tolist() == pytest.approx(rows[:, :, 0].mean(1).tolist(), rel=EXACT)
    assert values["entropy"].tolist() == pytest.approx(rows.mean((1, 2)).tolist(), rel=EXACT)
    expected = [[by_enumeration(weights[i, h, 1:10, 1:10], 3, 3) for h in range(4)] for i in range(2)]
    literal, weighted = numpy.asarray(expected).mean(1).T
    assert values["distance"].tolist() == pytest.approx(literal.tolist(), rel=1e-5)
    assert values["weighted_distance"].tolist() == pytest.approx(weighted.tolist(), rel=1e-5)


def test_windows_of_an_image_are_averaged_into_it() -> None:
    weights = random_rows(2 * 4, 4, 4, 4)
    values = Reducer(tap("swin"))(weights).values
    rows = -(weights.double() * weights.double().log()).sum(-1)
    assert values["entropy"].tolist() == pytest.approx(rows.reshape(2, -1).mean(1).tolist(), rel=EXACT)
    assert values["class_entropy"].isnan().all()


def test_rows_that_see_no_key_do_not_count() -> None:
    weights = random_rows(2, 4, 9, 9)
    weights[0, :, 5:] = 0
    reduced = Reducer(tap("plain"))(weights)
    rows = -(weights[0, :, :5].double() * weights[0, :, :5].double().log()).sum(-1)
    assert reduced.values["entropy"][0].item() == pytest.approx(rows.mean().item(), rel=EXACT)
    assert reduced.histogram.sum().item() == 4 * 5 + 4 * 9


@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_percentiles_are_numpy_s_to_the_width_of_a_bin(share: float) -> None:
    weights = random_rows(64, 4, 9, 9)
    reduced = Reducer(tap("plain"))(weights)
    expected = numpy.quantile(quantities.entropy(weights).numpy(), share)
    assert percentile(reduced.histogram, share, quantities.bound(9)) == pytest.approx(expected, abs=2 * RESOLUTION)


def test_no_percentile_is_above_the_upper_bound() -> None:
    """Uniform weights over 9 keys have the entropy ln 9; a bin of the histogram begins below it and ends above it."""
    reduced = Reducer(tap("plain"))(torch.full((2, 4, 9, 9), 1 / 9))
    assert percentile(reduced.histogram, 0.85, math.log(9)) <= math.log(9)
    assert percentile(reduced.histogram, 0.85, math.log(9)) == pytest.approx(math.log(9), abs=RESOLUTION)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("plain", 0.5), ("folded", 0.5), ("biased", 0.5), ("einsum", 0.5), ("fused-causal", 0.3), ("fused", 0.5)],
)
def test_the_scale_of_the_logits_is_read_from_the_graph(name: str, scale: float) -> None:
    assert (tap(name).scale, tap(name).scale_read) == (scale, True)
