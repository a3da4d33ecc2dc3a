"""The operators are what the paper's formulas say, on any layout; properties that hold for every tensor."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cbsurgeon.errors import UsageError
from cbsurgeon.operators import CB, CBS, SE, CBGate, CBHybrid, CBRetrofit, Operator, build, names, set_strength

EXACT = 1e-12
"""Double precision on numbers of order one: a mean over some hundred of them rounds to about 1e-15."""

SHAPES = (((2, 5, 4), 2, (1,)), ((2, 4, 3, 3), 1, (2, 3)), ((2, 3, 3, 4), 3, (1, 2)), ((2, 4, 7), 1, (2,)))
"""Shape, channel axis, token axes: sequences, pictures in both layouts, channels before tokens."""

LAYOUTS = st.sampled_from(SHAPES)


def tensor(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= EXACT)


def tokens_last(x: Tensor, channel: int, tokens: tuple[int, ...]) -> Tensor:
    """[rest, channels, tokens]."""
    rest = [axis for axis in range(x.dim()) if axis != channel and axis not in tokens]
    flat = x.permute(*rest, channel, *tokens)
    return flat.reshape(-1, x.shape[channel], flat[0, 0].numel() if rest else flat[0].numel())


def loops(x: Tensor, channel: int, tokens: tuple[int, ...], f: Any) -> Tensor:
    """Every channel's list of tokens replaced by ``f(list, channel)``, number by number, in plain Python."""
    flat = tokens_last(x, channel, tokens).clone()
    for row, c in itertools.product(range(flat.shape[0]), range(flat.shape[1])):
        flat[row, c] = torch.tensor(f(flat[row, c].tolist(), c), dtype=torch.float64)
    return flat


FORMULAS = {
    "cb": lambda v, c: [(x + sum(v) / len(v)) / 2 for x in v],
    "cb_s": lambda v, c: [x + (0.3 + 0.1 * c) * sum(v) / len(v) for x in v],
    "cb_gate": lambda v, c: [x * (v[0] + 1) for x in v],
    "cb_hybrid": lambda v, c: [x * v[0] + (x + sum(v) / len(v)) / 2 for x in v],
    "cb_retrofit": lambda v, c: [x + 0.2 * (sum(v) / len(v) - x) for x in v],
    "uniform_head": lambda v, c: [0.0 for x in v],  # of a tensor that is nothing but queries of the head
}


def made(name: str, channels: int, channel: int, token_axes: tuple[int, ...], **options: Any) -> Operator:
    operator = build(name, channels, channel, token_axes, options).double()
    with torch.no_grad():
        if name == "cb_s":
            operator.scale.copy_(0.3 + 0.1 * torch.arange(channels, dtype=torch.float64))
        if name == "cb_retrofit":
            operator.strength.fill_(0.2)
    return operator


@pytest.mark.parametrize(("shape", "channel", "tokens"), SHAPES)
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str, shape: tuple[int, ...], channel: int, tokens: tuple[int, ...]) -> None:
    if name in ("cb_gate", "cb_hybrid") and len(tokens) > 1:
        with pytest.raises(UsageError, match="CB-OP-03") as refused:
            build(name, shape[channel], channel, tokens)
        assert "class token" in refused.value.why
        return
    x = tensor(shape)
    result = made(name, shape[channel], channel, tokens)(x)
    assert result.shape == x.shape
    assert close(tokens_last(result, channel, tokens), loops(x, channel, tokens, FORMULAS[name]))


def test_every_operator_has_a_formula_here() -> None:
    assert set(names()) == {*FORMULAS, "se"}


@given(LAYOUTS, st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_cb_keeps_the_mean_and_halves_deviations(layout: Any, seed: int) -> None:
    shape, channel, tokens = layout
    x, cb = tensor(shape, seed), CB(shape[channel], channel, tokens)
    mean = x.mean(dim=tokens, keepdim=True)
    assert close(cb(x).mean(dim=tokens, keepdim=True), mean)
    assert close(cb(x) - mean, 0.5 * (x - mean))
    assert close(cb(cb(x)), 0.25 * x + 0.75 * mean)
    assert close(2 * cb(x) - cb(x).mean(dim=tokens, keepdim=True), x), "CB can be inverted"


@given(st.integers(0, 2**20), st.permutations(range(5)), st.sampled_from(["cb", "cb_s", "cb_retrofit", "se"]))
@settings(max_examples=40, deadline=None)
def test_tokens_may_be_reordered(seed: int, order: list[int], name: str) -> None:
    x, operator = tensor((2, 5, 4), seed), made(name, 4, 2, (1,))
    assert close(operator(x[:, order]), operator(x)[:, order])


@given(st.integers(0, 2**20), st.permutations(range(1, 5)), st.sampled_from(["cb_gate", "cb_hybrid"]))
@settings(max_examples=20, deadline=None)
def test_tokens_but_the_class_token_may_be_reordered(seed: int, order: list[int], name: str) -> None:
    x, operator = tensor((2, 5, 4), seed), made(name, 4, 2, (1,))
    assert close(operator(x[:, [0, *order]]), operator(x)[:, [0, *order]])


@given(LAYOUTS, st.integers(0, 2**20))
@settings(max_examples=30, deadline=None)
def test_cb_commutes_with_layer_scale_and_an_affine_layer(layout: Any, seed: int) -> None:
    shape, channel, tokens = layout
    x, cb = tensor(shape, seed), CB(shape[channel], channel, tokens)
    gamma = tensor((shape[channel],), seed + 1).view([-1 if axis == channel else 1 for axis in range(x.dim())])
    assert close(cb(gamma * x), gamma * cb(x))
    weight, bias = tensor((shape[channel], shape[channel]), seed + 2), tensor((shape[channel],), seed + 3)

    def affine(y: Tensor) -> Tensor:
        return (y.movedim(channel, -1) @ weight.T + bias).movedim(-1, channel)

    assert close(cb(affine(x)), affine(cb(x))), "Mid is End"


def test_one_token_is_left_alone_by_cb() -> None:
    x = tensor((2, 1, 4))
    assert torch.equal(CB(4, 2, (1,))(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["cb_s", "cb_retrofit"])
def test_the_start_is_the_exact_identity(name: str, dtype: torch.dtype) -> None:
    x = (10 * tensor((2, 50, 8))).to(dtype)
    assert torch.equal(build(name, 8, 2, (1,)).to(dtype)(x), x)


def test_the_papers_line_is_bit_equal() -> None:
    x = tensor((3, 197, 16)).float()
    assert torch.equal(CB(16, 2, (1,))(x), 0.5 * x + 0.5 * x.mean(dim=1, keepdim=True))


def test_squeeze_excite_is_its_formula() -> None:
    x, operator = tensor((2, 32, 3, 3)), SE(32, 1, (2, 3), reduction=8).double()
    assert [tuple(p.shape) for p in operator.parameters()] == [(4, 32), (4,), (32, 4), (32,)]
    assert all(bool((p != 0).any()) for p in operator.parameters())
    mean = x.mean((2, 3))
    hidden = (mean @ operator.fc1.weight.T + operator.fc1.bias).clamp_min(0)
    gate = 1 / (1 + (-(hidden @ operator.fc2.weight.T + operator.fc2.bias)).exp())
    assert close(operator(x), x * gate[:, :, None, None])


def test_retrofit_ends_at_cb() -> None:
    model = nn.Sequential(CBRetrofit(4, 2, (1,)), nn.Tanh(), CBRetrofit(4, 2, (1,))).double()
    x = tensor((2, 5, 4))
    assert torch.equal(model(x), x.tanh())
    assert set_strength(model, 0.5) == 2
    cb = CB(4, 2, (1,))
    assert close(model(x), cb(cb(x).tanh()))
    assert not list(model.parameters())
    assert list(model.state_dict()) == ["0.strength", "2.strength"]


@pytest.mark.parametrize("strength", [-0.1, 0.6, float("nan")])
def test_strength_out_of_range(strength: float) -> None:
    with pytest.raises(UsageError, match="CB-OP-05"):
        set_strength(CBRetrofit(4, 2, (1,)), strength)


def test_strength_without_a_retrofit() -> None:
    with pytest.raises(UsageError, match="CB-OP-06"):
        set_strength(nn.Sequential(CB(4, 2, (1,))), 0.5)


CONTEXTUAL = ("cb", "cb_s", "cb_retrofit")


@pytest.mark.parametrize("name", CONTEXTUAL)
@pytest.mark.parametrize("tokens", ["1:", ":3", "-2:", "1:-1", "2:4", ":"])
def test_a_slice_mixes_only_its_own_tokens(name: str, tokens: str) -> None:
    x, operator, whole = tensor((2, 6, 4)), made(name, 4, 2, (1,), tokens=tokens), made(name, 4, 2, (1,))
    start, stop = (int(part) if part else None for part in tokens.split(":"))
    wanted = x.clone()
    wanted[:, start:stop] = whole(x[:, start:stop])
    assert close(operator(x), wanted)
    assert operator.refusal(6) == ""
    assert operator.options()["tokens"] == tokens


@pytest.mark.parametrize(("tokens", "count"), [("7:", 6), (":7", 6), ("3:3", 6), ("-9:", 6), ("6:", 6)])
def test_a_slice_without_tokens_is_refused(tokens: str, count: int) -> None:
    assert f"{count} tokens" in CB(4, 2, (1,), tokens=tokens).refusal(count)


@pytest.mark.parametrize("tokens", ["", "1", "a:", "1:2:3", "::", 3])
def test_a_slice_that_is_none(tokens: Any) -> None:
    with pytest.raises(UsageError, match="CB-OP-03"):
        build("cb", 4, 2, (1,), {"tokens": tokens})


@pytest.mark.parametrize(("channel", "axis"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("name", CONTEXTUAL)
def test_causal_form(name: str, channel: int, axis: int) -> None:
    """Token i gets what the plain operator gives it when the sequence ends at i, so nothing of the future."""
    x = tensor((2, 7, 4) if channel == 2 else (2, 4, 7))
    operator, whole = made(name, 4, channel, (axis,), causal=True), made(name, 4, channel, (axis,))
    result = operator(x)
    for last in range(7):
        ended = whole(x.narrow(axis, 0, last + 1)).select(axis, last)
        assert close(result.select(axis, last), ended)


def test_causal_gradient_does_not_reach_the_future() -> None:
    x = tensor((1, 6, 4)).requires_grad_()
    CB(4, 2, (1,), causal=True)(x)[:, 2].sum().backward()
    assert bool((x.grad[:, :3] != 0).all())
    assert bool((x.grad[:, 3:] == 0).all())


def test_causal_needs_one_token_axis() -> None:
    with pytest.raises(UsageError, match="CB-OP-03"):
        build("cb", 4, 1, (2, 3), {"causal": True})


HALF_BOUND = {torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""One rounding of the mean to the type's own digits (10 and 7 after the first), relative to its size."""


@pytest.mark.parametrize("dtype", HALF_BOUND)
@pytest.mark.parametrize("causal", [False, True])
def test_statistics_in_float32_under_half_types(dtype: torch.dtype, causal: bool) -> None:
    x = (8 + tensor((1, 3136, 4))).to(dtype)
    found = CB(4, 2, (1,), causal=causal).context(x)
    wide = x.double()
    exact = wide.cumsum(1) / torch.arange(1, 3137).view(1, -1, 1) if causal else wide.mean(1, keepdim=True)
    assert found.dtype is dtype
    assert float(((found.double() - exact) / exact).abs().max()) <= HALF_BOUND[dtype]


@pytest.mark.parametrize("name", sorted(set(names()) - {"uniform_head"}))  # which is there to hold them back
def test_gradients_reach_the_input_and_every_parameter(name: str) -> None:
    x, operator = tensor((2, 5, 32)).requires_grad_(), build(name, 32, 2, (1,)).double()
    (operator(x) * tensor((2, 5, 32), 1)).sum().backward()
    assert bool((x.grad != 0).all())
    assert all(bool((p.grad != 0).any()) for p in operator.parameters())


@pytest.mark.parametrize("name", names())
def test_options_rebuild_the_operator(name: str) -> None:
    given = {"cb_s": {"initial": 0.5}, "se": {"reduction": 4}, "cb_retrofit": {"strength": 0.25}}.get(name, {})
    operator = build(name, 32, 2, (1,), given)
    assert operator.options() == given
    assert build(name, 32, 2, (1,), operator.options()).extra_repr() == operator.extra_repr()


class TestCost:
    """Closed forms against the paper's own figures and against the operators."""

    VIT_S = (197, 384, 12)  # tokens, channels, layers

    @pytest.mark.parametrize(
        ("operator", "end", "mid"),
        [(CB, 0.9, 3.6), (CBGate, 0.9, 3.6), (CBHybrid, 1.8, 7.3)],
    )
    def test_tables_s16_and_s17(self, operator: type[Operator], end: float, mid: float) -> None:
        n, c, layers = self.VIT_S
        assert round(layers * operator.cost(n, c).paper / 1e6, 1) == end
        assert round(layers * operator.cost(n, 4 * c).paper / 1e6, 1) == mid

    @pytest.mark.parametrize("name", names())
    def test_parameters(self, name: str) -> None:
        owned = sum(p.numel() for p in build(name, 384, 2, (1,)).parameters())
        assert type(build(name, 384, 2, (1,))).cost(197, 384).parameters == owned

    def test_parameters_on_vit_s(self) -> None:
        n, c, layers = self.VIT_S
        assert [layers * kind.cost(n, c).parameters for kind in (CB, CBGate, CBHybrid)] == [0, 0, 0]
        assert layers * CBS.cost(n, c).parameters == 4608
        hidden = 384 // 16
        assert layers * SE.cost(n, c).parameters == layers * (2 * 384 * hidden + hidden + 384)


class Doubled(Operator):
    """A user's own operator."""

    name = "doubled"
    mixes_tokens = False

    def __init__(self, channels: int, channel_axis: int, token_axes: Any, *, factor: float = 2.0) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.factor = nn.Parameter(torch.full((channels,), factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.per_channel(self.factor, x) * x


def test_a_users_operator() -> None:
    operator = build(f"mod:{__name__}:Doubled", 4, 1, (2, 3), {"factor": 3.0})
    assert torch.equal(operator(torch.ones(2, 4, 3, 3)), torch.full((2, 4, 3, 3), 3.0))


@pytest.mark.parametrize(
    "name", ["mod:", "mod:torch", "mod:torch:Tensor", "mod:no_such_module:X", f"mod:{__name__}:absent", "mod:a b:C"]
)
def test_what_is_no_operator(name: str) -> None:
    with pytest.raises(UsageError, match="CB-OP-04"):
        build(name, 4, 2, (1,))


def test_unknown_name_and_options() -> None:
    with pytest.raises(UsageError, match="CB-OP-01") as unknown:
        build("cb_sc", 4, 2, (1,))
    assert "cb_s" in unknown.value.do
    with pytest.raises(UsageError, match="CB-OP-02"):
        build("cb", 4, 2, (1,), {"initial": 0.1})
