"""Inputs that ``forward()`` gets for the first time after an insertion: whether they hide tokens was never tested.

The reference for the leak is the network without operators: what a hidden token changes there.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import cbsurgeon as cbs
from cbsurgeon.surgery import Recipe, remove_

WIDTH, TOKENS = 16, 6
SAYS = "which the inputs of the insertion did not contain"


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        if seen is not None:
            scores = scores.masked_fill(~seen, -1e9)
        x = x + self.out(scores.softmax(-1) @ self.v(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


class Network(nn.Module):
    """A padding mask, a causal flag and other things may be given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Layer() for _ in range(2)])

    def forward(
        self, x: Tensor, mask: Tensor | None = None, causal: bool = False, more: dict[str, Tensor] | None = None
    ) -> Tensor:
        seen = mask[:, None] if mask is not None else None
        if causal:
            seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        if more is not None and "mask" in more:
            seen = more["mask"][:, None]
        for layer in self.layers:
            x = layer(x, seen)
        return x


class TokensAlone(Network):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


X = noise(2, TOKENS, WIDTH)
MASK = torch.arange(TOKENS) < torch.tensor([[4], [6]])


@pytest.fixture
def edited() -> nn.Module:
    return cbs.insert_(Network().eval(), op="cb", layers="all", inputs=X)


def quietly(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


def moved_by_padding(net: nn.Module) -> float:
    """How much the visible tokens of sample 0 move with its hidden ones."""
    other = X.clone()
    other[0, 4:] += 1
    with torch.no_grad():
        return float((net(X, MASK) - net(other, MASK))[0, :4].abs().max())


def test_a_mask_that_comes_later_is_warned_about_once(edited: nn.Module) -> None:
    quietly(lambda: edited(X))
    with pytest.warns(UserWarning, match=f"mask, {SAYS}"):
        edited(X, MASK)
    quietly(lambda: edited(X, MASK))
    assert moved_by_padding(Network().eval()) == 0 < moved_by_padding(edited)


@pytest.mark.parametrize(
    ("keywords", "name"),
    [({"mask": MASK}, "mask"), ({"causal": True}, "causal"), ({"more": {"mask": MASK}}, "more")],
)
def test_keywords_flags_and_containers_are_inputs(edited: nn.Module, keywords: dict[str, Any], name: str) -> None:
    with pytest.warns(UserWarning, match=f"forward\\(\\) is given {name}, {SAYS}"):
        edited(X, **keywords)


def test_nothing_and_false_are_no_inputs(edited: nn.Module) -> None:
    quietly(lambda: edited(X, None, False, more={}))


class Labelled(Network):
    """Labels give a loss; a switch gives hidden states; statistics and dropout belong to training."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.batch_norm, self.dropout = nn.Linear(WIDTH, 3), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)

    def forward(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, states: bool = False
    ) -> Any:
        x = super().forward(self.dropout(x), mask)
        scores = self.head(self.batch_norm(x.mean(1)))
        loss = nn.functional.cross_entropy(scores, labels) if labels is not None else None
        return scores, loss, [x] if states else []


def test_labels_and_switches_that_no_operator_depends_on_are_no_news() -> None:
    net = cbs.insert_(Labelled().eval(), op="cb", layers="all", inputs=X).train()
    twin = copy.deepcopy(net)
    twin._forward_pre_hooks.clear()
    torch.manual_seed(2)
    expected = twin(X, labels=torch.tensor([0, 2]), states=True)
    torch.manual_seed(2)
    found = quietly(lambda: net(X, labels=torch.tensor([0, 2]), states=True))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]), "the same random numbers"
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True)), "the same statistics"
    assert net.training and net.batch_norm.training  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match=f"mask, {SAYS}"):
        net(X, MASK, torch.tensor([0, 2]))


def test_a_mask_that_hides_nothing_at_first_is_news(edited: nn.Module) -> None:
    """The next batch may have padding."""
    with pytest.warns(UserWarning, match=f"mask, {SAYS}"):
        edited(X, torch.ones(2, TOKENS, dtype=torch.bool))


def test_what_cannot_be_found_out_is_news() -> None:
    class Demanding(Network):
        def forward(self, x: Tensor, mask: Tensor | None = None, scale: Tensor | None = None) -> Tensor:  # type: ignore[override]
            if scale is not None and float(scale.sum()) != 3.0:
                raise ValueError("no other scale")
            return super().forward(x, mask)

    net = cbs.insert_(Demanding().eval(), op="cb", layers="all", inputs=X)
    with pytest.warns(UserWarning, match=f"scale, {SAYS}"):
        net(X, scale=torch.tensor([1.0, 2.0]))


def test_a_model_that_takes_nothing_else_has_no_hook() -> None:
    net = cbs.insert_(TokensAlone().eval(), op="cb", layers="all", inputs=X)
    assert not net._forward_pre_hooks


def test_a_mask_among_the_inputs_needs_no_warning() -> None:
    net = cbs.insert_(Network().eval(), op="cb", layers="all", inputs=(X, MASK), masked=True)
    quietly(lambda: net(X, MASK))
    assert moved_by_padding(net) == 0
    with pytest.warns(UserWarning, match=f"causal, {SAYS}"):
        net(X, MASK, True)


def test_operators_without_a_token_mean_need_none() -> None:
    net = cbs.insert_(Network().eval(), op="uniform_head", layers="all", inputs=X, heads=0)
    quietly(lambda: net(X, MASK))


def test_the_recipe_carries_what_was_given() -> None:
    recipe = cbs.plan(cbs.inspect(cbs.Model(Network().eval(), (X,))), op="cb", layers="all")
    read = Recipe.from_json(recipe.to_json())
    assert read.given == recipe.given == ("x",)
    net = cbs.insert_(Network().eval(), read)
    with pytest.warns(UserWarning, match=SAYS):
        net(X, MASK)


def test_copies_warn_and_removal_ends_it(edited: nn.Module) -> None:
    for other in (copy.deepcopy(edited), pickle.loads(pickle.dumps(edited))):
        with pytest.warns(UserWarning, match=SAYS):
            other(X, MASK)
    remove_(edited)
    assert not edited._forward_pre_hooks and not edited._forward_pre_hooks_with_kwargs
    quietly(lambda: edited(X, MASK))


def test_tracing_compiling_and_scripting_work_as_before(edited: nn.Module) -> None:
    with torch.no_grad():
        expected = edited(X)
        traced = fx.symbolic_trace(edited, concrete_args={"mask": None, "causal": False, "more": None})
        torch.testing.assert_close(traced(X, None, False, None), expected)
        compiled = torch.compile(edited, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), expected)
        torch.testing.assert_close(torch.jit.script(cbs.scriptable(edited))(X), expected)
        program = torch.export.export(edited, (X,))
        torch.testing.assert_close(program.module()(X), expected)
    with pytest.warns(UserWarning, match=SAYS):
        torch.compile(edited, backend="eager")(X, MASK)
