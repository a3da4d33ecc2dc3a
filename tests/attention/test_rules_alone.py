"""Single steps of reading attention, on graphs of a few nodes and on tensors."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention import causality, channels, class_token, padding, queries, samples
from cbsurgeon.graph.attention.class_token import ClassTokens, Spot
from cbsurgeon.graph.attention.hiding.trials import trials
from cbsurgeon.graph.attention.maps import following, keys, lead, listing, scale, weighing
from cbsurgeon.graph.attention.outside import finding
from cbsurgeon.graph.attention.outside.runs import Shown
from cbsurgeon.graph.axes.table import Factor
from cbsurgeon.graph.axes.tracking import follow
from cbsurgeon.graph.branches.sites import NoSite
from tests.graph.small_graphs import B, C, N, axes, read


def test_the_head_of_each_written_channel() -> None:
    query = torch.tensor([[1, 3], [2, 4]])  # two heads; channels are counted from 1
    assert channels.written(query, 5).tolist() == [0, 1, 0, 1, -1]
    with pytest.raises(NoSite):
        channels.written(torch.tensor([[1, 2], [2, 3]]), 5)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8])
def test_the_head_of_each_channel_by_gradients(heads: int) -> None:
    """Head ``h`` reads the channels ``h``, ``h + heads``, ...; the last channel is read by none."""
    given = torch.randn(N, 3 * heads + 1, requires_grad=True)
    query = (given[:, :-1].sin().reshape(N, 3, heads)).permute(2, 0, 1)
    owner = channels.owners(query, given, 1).tolist()
    assert owner == [channel % heads for channel in range(3 * heads)] + [-1]
    with pytest.raises(NoSite):
        channels.owners(torch.stack([given[:, 0], given[:, 0]])[..., None], given, 1)


def test_results_of_a_node_that_differ() -> None:
    same: list[Any] = [1, "a", None, {"a": 1}, torch.ones(2), (torch.ones(2), 3)]
    assert not any(channels.differ(one, one) for one in same)
    assert channels.differ(1, 2) and channels.differ(2, 1) and channels.differ("b", "a")
    assert channels.differ((torch.ones(2), 3), (torch.ones(2), 4))
    assert channels.differ(torch.ones(2), torch.zeros(2))


@pytest.mark.parametrize("axis", range(4))
def test_an_axis_after_a_view(axis: int) -> None:
    """The same numbers as in a tensor of its indices along that axis: the view has them along the axis found."""
    before, after = (2, 3, 20, 7), (2, 3, 4, 5, 7)
    index = torch.arange(before[axis]).reshape([-1 if place == axis else 1 for place in range(4)]).expand(before)
    seen = index.reshape(after)
    expected = [
        place
        for place, size in enumerate(after)
        if size == before[axis] and all(bool((seen.select(place, one) == one).all()) for one in range(size))
    ]
    assert following._regrouped(before, after, axis) == (expected[0] if expected else None)


def test_the_sizes_of_axes_that_were_merged() -> None:
    lattice = keys.KeyReader._lattice
    reader: Any = None
    assert lattice(reader, (Factor(7, 1), Factor(2, 2), Factor(3, 2))) == (7, 6)
    assert lattice(reader, (Factor(2, 1), Factor(3, 1), Factor(7, 2))) == (6, 7)
    assert lattice(reader, (Factor(2, 1), Factor(3, 1))) is None


def test_tokens_that_hide_are_told_from_tokens_that_do_little() -> None:
    """The first two tokens do not hide; the last one does if it reached them before, and no longer."""
    hidden = torch.tensor([False, False, True])
    is_hidden = finding.is_hidden
    moved, still = (Shown(torch.tensor([some, some, 1.0]), "", 0.0) for some in (0.5, 0.0))
    assert is_hidden(moved, still, hidden)
    assert not is_hidden(moved, moved, hidden), "it still reaches them"
    assert not is_hidden(still, still, hidden), "it never reached them"
    tiny = Shown(torch.tensor([finding.REACHED / 2 * 1e4, 0.0, 1e4]), "", 0.0)
    assert not is_hidden(tiny, still, hidden), "it reached them by rounding only"
    pooled, same = (Shown(torch.tensor([some]), "", 1e-6) for some in (0.5, 1e-7))
    assert is_hidden(pooled, same, hidden), "it changed an output without tokens"
    assert not is_hidden(same, same, hidden), "it never did"


def attending(after: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Attention of a tensor to itself; ``after`` computes the result from the weights and the values."""
    return lambda x: after((x @ x.mT).softmax(-1), x)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (lambda weights, x: weights @ x, True),
        (lambda weights, x: weights.unsqueeze(1) @ x[:, None], True),
        (lambda weights, x: weights.relu() @ x, False),
        (lambda weights, x: weights @ x + weights.sum(), False),
    ],
    ids=["product", "layout", "other step", "two readers"],
)
def test_weights_that_reach_the_values(after: Callable[[Tensor, Tensor], Tensor], expected: bool) -> None:
    _, nodes = read(attending(after))
    (softmax,) = [node for node in nodes if aten.name(node) == "softmax"]
    assert causality._weighs_values(softmax) == expected


def test_weights_behind_a_long_chain_are_not_followed() -> None:
    def long(weights: Tensor, x: Tensor) -> Tensor:
        for _ in range(causality.NEAR + 1):
            weights = weights.mT
        return weights @ x

    _, nodes = read(attending(long))
    (softmax,) = [node for node in nodes if aten.name(node) == "softmax"]
    assert not causality._weighs_values(softmax)


def test_the_keys_of_attention() -> None:
    flow, nodes = read(lambda x: torch.nn.functional.scaled_dot_product_attention(x, x.sin(), x))
    (fused,) = [node for node in nodes if aten.name(node) == "scaled_dot_product_attention"]
    assert samples._keys(flow, fused) == (fused.args[1], -2)
    flow, nodes = read(lambda x: (x @ x.mT).softmax(1))
    (softmax,) = [node for node in nodes if aten.name(node) == "softmax"]
    assert samples._keys(flow, softmax) == (softmax.args[0], 1)
    assert samples._keys(flow, nodes[1]) is None


def test_the_factor_of_a_product_with_a_bias() -> None:
    _flow, nodes = read(lambda x: torch.baddbmm(x @ x.mT, x, x.mT, alpha=0.125))
    found = {aten.name(node): scale._factor(node) for node in nodes}
    assert found["baddbmm"] == 0.125 and found["matmul"] == 1.0
    _, nodes = read(lambda x: x * 0.5)
    assert scale._factor(nodes[-1]) == 0.5


def test_where_projections_were_made_from() -> None:
    flow, nodes = read(lambda x, w: (x.sin() @ w).relu(), w=(C, C))
    relation = SimpleNamespace(_flow=flow)
    relu, sine = nodes[-1], next(node for node in nodes if aten.name(node) == "sin")
    assert listing._Relation._before_projections(relation, relu) == {sine}  # type: ignore[arg-type]
    assert listing._Relation._before_projections(relation, sine) == {sine}  # type: ignore[arg-type]


def test_the_projection_behind_a_factor_in_front() -> None:
    flow, nodes = read(lambda x, factor, w: factor.sin() * (x @ w), factor=(N, C), w=(C, C))
    proof = SimpleNamespace(reading=SimpleNamespace(flow=flow))
    made, between_them = queries._Proof._projection(proof, nodes[-1])  # type: ignore[arg-type]
    assert aten.name(made) in aten.MATMUL and between_them == {made, nodes[-1]}


def test_a_position_of_a_unit_axis_stays_where_it_is() -> None:
    """Two axes of one position have no identity of their own, so only their place tells them apart."""
    flow, (_x, first, second) = read(lambda x: x.mean((1, 2), keepdim=True).reshape(-1, 1, 1))
    assert axes(flow, first)[1:] == [set(), set()]
    tokens = SimpleNamespace(_flow=flow, _identity=lambda dim: dim)
    tokens._same = lambda spot, source: ClassTokens._same(tokens, spot, source)  # type: ignore[arg-type]
    found = ClassTokens._along(tokens, Spot(second, 1, 0), first)  # type: ignore[arg-type]
    assert found is not None and (found.node, found.axis) == (first, 1)


@pytest.mark.parametrize(
    ("example", "tried"),
    [
        (torch.tensor([[0.0, 0.0, -1e4]]), True),
        (torch.tensor([[0.25, 0.5, 1.0]]), True),
        (torch.tensor([[0.3, -0.7, 1.2]]), False),
        (torch.tensor([[3, -1, 2]]), True),
    ],
    ids=["additive mask", "fractions", "noise", "whole numbers"],
)
def test_noise_is_no_mask(example: Tensor, tried: bool) -> None:
    assert bool(list(trials(example, True, (3,), ()))) == tried


def test_the_parameter_behind_an_expanded_vector() -> None:
    """A row of a table is a vector of its own; an expanded vector is the vector."""
    _, nodes = read(lambda x, table: x + table[1].expand(2, -1)[:1], table=(3, C))
    row, expanded = (next(node for node in nodes if aten.name(node) == name) for name in ("select", "expand"))
    assert class_token._vector(expanded) is row
    _, nodes = read(lambda x, vector: x + vector.expand(2, -1)[:1], vector=(C,))
    expanded = next(node for node in nodes if aten.name(node) == "expand")
    assert class_token._vector(expanded).op == "placeholder"


@pytest.mark.parametrize(("axis", "follows"), [(1, True), (2, False)])
def test_a_position_behind_attention_is_that_of_its_query(axis: int, follows: bool) -> None:
    flow, nodes = read(lambda x: torch.nn.functional.scaled_dot_product_attention(x.sin(), x.cos(), x))
    found = ClassTokens(flow).before(Spot(nodes[-1], axis, 0))
    assert (found == Spot(nodes[-1].args[0], axis, 0)) == follows and (found is None) != follows


@pytest.mark.parametrize(("scores", "expected"), [(True, ("mask",)), (False, ())])
def test_a_mask_is_what_is_added_to_scores(scores: bool, expected: tuple[str, ...]) -> None:
    class Masked(torch.nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return (x @ x.mT + mask).softmax(-1) @ x

    class Routed(torch.nn.Module):
        """A softmax over the channels of a sum: a router masks no token."""

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return (x + mask).softmax(-1)

    shape = (2, N, N) if scores else (2, N, C)
    module = Masked() if scores else Routed()
    exported = torch.export.export(module, (torch.randn(2, N, C), torch.zeros(shape)))
    flow = follow(exported.graph, ["x", "mask"], {"x": 0, "mask": 0})
    assert causality.masks(SimpleNamespace(flow=flow)) == expected  # type: ignore[arg-type]


def test_a_mask_that_the_model_rejects_has_another_meaning() -> None:
    def rejects(*_: Any) -> Any:
        raise ValueError("every row must have a token")

    execution: Any = SimpleNamespace(values=rejects)
    program: Any = SimpleNamespace(with_batch=lambda samples: {})
    scores: Any = SimpleNamespace(product=None, read=SimpleNamespace(name="softmax"))
    flow: Any = None
    assert padding._hidden(program, execution, flow, scores, "mask", torch.ones(2, N)) is None


def test_the_product_behind_weights_that_get_another_layout() -> None:
    flow, nodes = read(attending(lambda weights, x: weights.unsqueeze(1) @ x[:, None]))
    softmax = next(node for node in nodes if aten.name(node) == "softmax")
    found = weighing.weighing(flow, softmax, 2)
    assert found is not None and found.product is nodes[-1] and not found.mixers
    assert [aten.name(node) for node in found.way] == ["softmax", "unsqueeze"] and found.key == 3


def test_heads_that_only_the_keys_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries of one head are broadcast to the heads of the keys; here tokens stand for heads."""
    flow, nodes = read(
        lambda x: torch.nn.functional.scaled_dot_product_attention(x[:, None], x[:, :, None], x[:, :, None])
    )
    query, key = nodes[-1].args[:2]
    one: Any = SimpleNamespace(weights=query, lead=(0, 1), fused=True, asked=SimpleNamespace(node=key))
    monkeypatch.setattr(lead, "parts_of", lambda flow, one, dims: dims)
    assert lead.lead_of(flow, one) == [flow.of(key)[0], flow.of(key)[1]]
    one.fused = False
    assert lead.lead_of(flow, one) == [flow.of(key)[0], ()]


def test_what_is_merged_with_the_batch_beside_heads_are_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {0: "batch", 1: "head", 2: "head"}
    monkeypatch.setattr(lead, "_role", lambda flow, one, axis: roles[axis])
    nothing: Any = None
    merged, heads = (Factor(7, 0), Factor(4, 1)), (Factor(3, 2),)
    found = lead.parts_of(nothing, nothing, (merged, heads))
    assert [[part.role for part in own] for own in found] == [["batch", "window"], ["head"]]
    found = lead.parts_of(nothing, nothing, (merged,))
    assert [[part.role for part in own] for own in found] == [["batch", "head"]]
    views = (Factor(7, 0), Factor(2, 0), Factor(4, 1))  # two views of each sample
    assert [[part.role for part in own] for own in lead.parts_of(nothing, nothing, (views,))] == [["batch", "head"]]


def test_an_open_size_is_that_of_the_capture() -> None:
    _, (x, *_) = read(lambda x: x + 1)
    samples_of_x, tokens, _ = aten.value(x).shape  # type: ignore[union-attr]
    assert isinstance(samples_of_x, torch.SymInt)
    assert (channels._at_capture(samples_of_x), channels._at_capture(tokens)) == (B, N)
