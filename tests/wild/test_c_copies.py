"""Copies of modules keep what they must; submodules compiled by ``torch.compile`` are read and edited as plain ones.

Every reference is the same network with Context Broadcasting written into its own forward pass, never compiled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import cbsurgeon as cbs
from cbsurgeon.graph.capture.copying import duplicate
from cbsurgeon.models.model import Model

WIDTH = 8
CLOSE = 1e-5
"""float32: two blocks of sums over at most 16 numbers of order one round to about 1e-6."""


class Mlp(nn.Module):
    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> None:
        super().__init__()
        self.fc1, self.fc2 = wrap(nn.Linear(WIDTH, 2 * WIDTH)), wrap(nn.Linear(2 * WIDTH, WIDTH))
        self.by_hand = False

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return (y + y.mean(1, keepdim=True)) / 2 if self.by_hand else y


class Block(nn.Module):
    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH), Mlp(wrap)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(wrap), Block(wrap)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def tokens(batch: int = 2) -> Tensor:
    return torch.randn(batch, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def by_hand(net: nn.Module, x: Tensor) -> Tensor:
    """The network's answer with the token mean written into every MLP."""
    hands = [part for part in net.modules() if isinstance(part, Mlp)]
    for part in hands:
        part.by_hand = True
    with torch.no_grad():
        answer: Tensor = net(x)
    for part in hands:
        part.by_hand = False
    return answer


def same_weights() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("where", ["child", "root"])
@pytest.mark.parametrize("ran", [False, True])
def test_a_submodule_compiled_by_the_user_is_edited_as_a_plain_one(where: str, ran: bool) -> None:
    net: nn.Module = same_weights()
    if where == "child":
        net.blocks[0] = torch.compile(net.blocks[0], backend="eager")  # type: ignore[union-attr,operator,index]
    else:
        net = torch.compile(net, backend="eager")  # type: ignore[assignment]
    x, plain = tokens(), same_weights()
    if ran:
        with torch.no_grad():
            net(x)
    kinds = [type(part) for part in net.modules()]
    model = Model(net, (x,))
    found = cbs.inspect(model)
    assert [block.path for block in found.blocks] == ["blocks.0.mlp", "blocks.1.mlp"]
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all"))
    assert edited.module is not None
    assert not [key for key in edited.module.state_dict() if "_orig_mod" in key]
    expected = by_hand(plain, x)
    with torch.no_grad():
        assert (edited.module(x) - expected).abs().max() < CLOSE
        assert (net(x) - plain(x)).abs().max() < CLOSE, "the user's own module computes what it did"
    assert [type(part) for part in net.modules()] == kinds, "the user's own module is compiled as it was"


def test_a_module_compiled_in_place_is_edited_in_the_copy_alone() -> None:
    net, plain, x = same_weights(), same_weights(), tokens()
    net.blocks[0].compile(backend="eager")
    with torch.no_grad():
        net(x)
    model = Model(net, (x,))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"))
    assert edited.module is not None
    with torch.no_grad():
        assert (edited.module(x) - by_hand(plain, x)).abs().max() < CLOSE
        assert (net(x) - plain(x)).abs().max() < CLOSE


def pruned(module: nn.Module) -> nn.Module:
    return prune.l1_unstructured(module, "weight", 0.3)  # type: ignore[no-any-return,no-untyped-call]


@pytest.mark.parametrize(
    "wrap",
    [weight_norm, parametrizations.weight_norm, spectral_norm, parametrizations.spectral_norm, pruned],
    ids=["weight_norm", "new-weight_norm", "spectral_norm", "new-spectral_norm", "prune"],
)
def test_reparameterised_weights_are_copied_after_a_training_step(wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    net, x = Net(wrap), tokens()
    net(x).sum().backward()  # the effective weights now carry a gradient's history, which deepcopy refuses
    net.eval()
    model = Model(net, (x,))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"))
    assert edited.module is not None
    with torch.no_grad():
        assert (edited.module(x) - by_hand(net, x)).abs().max() < CLOSE
    names = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert names == {name for name, parameter in edited.module.named_parameters() if parameter.requires_grad}
    edited.module.train()
    edited.module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in edited.module.parameters())


class Rearranging(nn.Module):
    """A layer that is unpickled by calling ``__init__`` again, as the layers of einops are."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def __getstate__(self) -> dict[str, float]:
        return {"factor": self.factor}

    def __setstate__(self, state: dict[str, float]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor if not self.training else x * 0


def doubled(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return 2 * output


@pytest.mark.parametrize("share", [False, True])
def test_copies_keep_mode_and_hooks_of_layers_that_are_initialised_again(share: bool) -> None:
    net = nn.Sequential(Rearranging(3.0), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5))
    net[0].register_forward_hook(doubled)
    net[1].weight.requires_grad_(False)
    net.eval()
    net[2].train()
    other = duplicate(net, share=share)
    assert [part.training for part in other.modules()] == [False, False, False, True]
    assert [p.requires_grad for p in other.parameters()] == [False, True]
    x = torch.ones(2, WIDTH)
    assert torch.equal(other[0](x), 6 * x)  # type: ignore[operator,index]
    assert (other[1].weight is net[1].weight) is share  # type: ignore[union-attr,index]


def test_copies_keep_shared_parameters_shared() -> None:
    net = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
    net[1].weight = net[0].weight
    other = duplicate(net)
    assert other[0].weight is other[1].weight and other[0].weight is not net[0].weight  # type: ignore[index]


class Named(nn.Module):
    """Another wrapper of an MLP that has a name already."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TwoNames(nn.Module):
    """``layers`` holds the MLPs first, and ``blocks`` runs them: every module has two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mlp() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Named(layer) for layer in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(self.norm(x))
        return x


def test_modules_with_two_paths_are_edited_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = TwoNames().eval(), torch.randn(2, 5, WIDTH)
    edited = cbs.insert(Model(module, (x,)), op="cb", layers="all").module
    assert edited is not None
    by_hand = copy.deepcopy(module)
    for layer in by_hand.layers:
        layer.by_hand = True
    with torch.no_grad():
        assert torch.allclose(edited(x), by_hand(x), atol=CLOSE)
        torch.save({"state_dict": edited.state_dict()}, tmp_path / "edited.pt")
        loaded = cbs.load(tmp_path / "edited.pt", arch=f"mod:{__name__}:TwoNames", input=f"5x{WIDTH}").module
        assert loaded is not None
        assert torch.equal(loaded(x), edited(x))


class Halves(nn.Module):
    """A reversible stack: a stream of twice the width, whose halves are read in turn and joined again."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms, self.f, self.g = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2)), Mlp(), Mlp()

        def forward(self, x: Tensor) -> Tensor:
            first, second = x.chunk(2, dim=2)
            first = first + self.f(self.norms[0](second))
            second = second + self.g(self.norms[1](first))
            return torch.cat([first, second], dim=2)

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(self.Pair() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x], dim=-1)
        for pair in self.pairs:
            x = pair(x)
        return x.view(*x.shape[:2], 2, -1).sum(2)


def test_halves_of_a_reversible_stream_have_the_width_of_their_sum() -> None:
    torch.manual_seed(0)
    module, x = Halves().eval(), torch.randn(2, 5, WIDTH)
    model = Model(module, (x,))
    assert {(block.channels, block.tokens) for block in cbs.inspect(model).blocks} == {(WIDTH, 5)}
    edited = cbs.insert(model, op="cb", layers="all").module
    assert edited is not None
    by_hand = copy.deepcopy(module)
    for part in by_hand.modules():
        if isinstance(part, Mlp):
            part.by_hand = True
    with torch.no_grad():
        assert torch.allclose(edited(x), by_hand(x), atol=CLOSE)
        assert not torch.allclose(edited(x), module(x), atol=100 * CLOSE)
