"""Compiled code is correct after insertions, removals and ``disable``, also if other code was compiled before in the
same process.

The reference is a network that has the token mean written into its own forward pass and is never compiled.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import cbsurgeon as cbs
from cbsurgeon.surgery import remove_

ROOT = Path(__file__).parents[2]
WIDTH = 8
CLOSE = 1e-5
"""float32: two blocks of sums over at most 16 numbers of order one round to about 1e-6; the token mean moves these
outputs by more than 0.05."""


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    before = torch._dynamo.config.get_config_copy()
    yield
    assert torch._dynamo.config.get_config_copy() == before, "no setting is changed"


class Mlp(nn.Module):
    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.by_hand, self.breaks = "", breaks

    def forward(self, x: Tensor) -> Tensor:
        x = mixed(x) if self.by_hand == "front" else x
        x = nn.functional.gelu(self.fc1(x))
        if self.breaks and torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
            torch._dynamo.graph_break()
        x = mixed(x) if self.by_hand == "mid" else x
        x = self.fc2(x)
        return mixed(x) if self.by_hand == "end" else x


def mixed(x: Tensor) -> Tensor:
    return (x + x.mean(1, keepdim=True)) / 2


class Block(nn.Module):
    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH), Mlp(breaks)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(breaks), Block(breaks)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def network(breaks: bool = False, by_hand: str = "") -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(breaks).eval()
    for block in net.blocks:
        block.mlp.by_hand = by_hand  # type: ignore[union-attr]
    return net


X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def recipe(pos: str = "end", op: str = "cb") -> cbs.Recipe:
    return cbs.plan(cbs.inspect(cbs.Model(network(), (X,))), op=op, layers="all", pos=pos)


def answer(module: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(X)
    return found


def right(pos: str) -> dict[str, Tensor]:
    plain, edited = answer(network()), answer(network(by_hand=pos))
    assert (plain - edited).abs().max() > 0.05
    return {"plain": plain, "edited": edited, "paused": plain}


ORDERS = [order for order in itertools.product(("plain", "edited", "paused"), repeat=4) if len(set(order)) > 1]
WAYS = {
    "whole": lambda net: torch.compile(net, backend="eager"),
    "in place": lambda net: (net.compile(backend="eager"), net)[1],
    "blocks": lambda net: ([block.compile(backend="eager") for block in net.blocks], net)[1],
    "layers": lambda net: ([p.compile(backend="eager") for b in net.blocks for p in (b.mlp, b.mlp.fc2)], net)[1],
}


@pytest.mark.thin(5)
@pytest.mark.parametrize("breaks", [False, True], ids=["one graph", "graph breaks"])
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("pos", ["end", "mid", "front"])
def test_one_module_through_every_order(pos: str, way: str, breaks: bool) -> None:
    """The same module: compiled once, then edited, restored and paused; each state is run twice."""
    wanted, made = right(pos), recipe(pos)
    compiled = WAYS[way](network(breaks))  # type: ignore[no-untyped-call]
    now = "plain"
    for state in itertools.chain.from_iterable(ORDERS[:: 4 if way == "whole" else 16]):
        if state == "plain" and now != "plain":
            remove_(compiled)
        if state != "plain" and now == "plain":
            cbs.insert_(compiled, made)
        now = "plain" if state == "plain" else "edited"
        for _ in range(2):
            if state == "paused":
                with cbs.disable(compiled) as count:
                    assert count == 2
                    assert (answer(compiled) - wanted[state]).abs().max() < CLOSE
            else:
                assert (answer(compiled) - wanted[state]).abs().max() < CLOSE, state


@pytest.mark.thin(5)
@pytest.mark.parametrize("breaks", [False, True], ids=["one graph", "graph breaks"])
@pytest.mark.parametrize("pos", ["mid", "front", "end"])
def test_several_modules_of_one_class(pos: str, breaks: bool) -> None:
    """The class's graphs are shared: original, edited, a copy of the edited one, an operator with other numbers."""
    wanted = right(pos)
    edited = cbs.insert_(network(breaks), recipe(pos))
    scaled = cbs.insert_(network(breaks), recipe(pos, "cb_s"))  # the identity at its start
    restored = remove_(cbs.insert_(network(breaks), recipe(pos)))
    known = [(network(breaks), "plain"), (edited, "edited"), (copy.deepcopy(edited), "edited"), (scaled, "plain")]
    known.append((restored, "plain"))
    for order in (known, known[::-1]):  # the first one compiled differs, and every pair occurs in both orders
        torch._dynamo.reset()
        for module, state in order:
            got = answer(torch.compile(module, backend="eager"))
            assert (got - wanted[state]).abs().max() < CLOSE, [each for _, each in order]


def test_copies_share_their_graphs() -> None:
    """A copy is not compiled again: the class is one per original class, not one per layer."""
    edited = cbs.insert_(network(), recipe())
    answer(torch.compile(edited, backend="eager"))
    with torch.compiler.set_stance("fail_on_recompile"):
        answer(torch.compile(copy.deepcopy(edited), backend="eager"))


@pytest.mark.wide
def test_training_code_follows_too() -> None:
    """Gradients of compiled code, before and after an insertion with parameters."""
    net = network()
    compiled = torch.compile(net, backend="aot_eager")
    compiled(X).sum().backward()
    cbs.insert_(compiled, cbs.plan(cbs.inspect(cbs.Model(network(), (X,))), op="cb_s", options={"initial": 0.5}))
    by_eye = cbs.insert_(network(), recipe("end", "cb_s").without(0))
    for name, parameter in by_eye.named_parameters():
        if name.endswith("scale"):
            nn.init.constant_(parameter, 0.5)
    net.zero_grad()
    compiled(X).square().sum().backward()
    by_eye(X).square().sum().backward()
    for (name, one), (_, other) in zip(net.named_parameters(), by_eye.named_parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() < 100 * CLOSE, name  # gradients here reach a hundred


def test_the_layer_looks_and_behaves_like_its_class() -> None:
    net = network()
    mlp = net.blocks[0].mlp
    cbs.insert_(net, recipe())
    assert type(mlp) is not Mlp and isinstance(mlp, Mlp)
    assert (type(mlp).__name__, type(mlp).__qualname__, type(mlp).__module__) == ("Mlp", "Mlp", __name__)
    assert repr(mlp).startswith("Mlp(")
    again = pickle.loads(pickle.dumps(net))
    assert type(again.blocks[0].mlp) is type(mlp) is type(copy.copy(mlp)) is type(copy.deepcopy(mlp))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert torch.equal(answer(pickle.loads(pickle.dumps(net, protocol))), answer(net))
    names = {path for path, _ in network().named_modules()}
    remove_(net)
    assert type(mlp) is Mlp and {path for path, _ in net.named_modules()} == names
    assert not mlp._forward_hooks and not mlp._forward_pre_hooks
    assert torch.equal(answer(net), answer(network()))


class Own(nn.Linear):
    """A layer that is rebuilt from its arguments alone."""

    def __reduce__(self) -> tuple[object, ...]:
        return _own, (self.weight.detach().clone(), self.bias.detach().clone(), dict(self.__dict__))


def _own(weight: Tensor, bias: Tensor, state: dict[str, object]) -> Own:
    made = Own(weight.shape[1], weight.shape[0])
    made.__dict__.update(state)
    return made


def test_a_layer_with_a_reduction_of_its_own() -> None:
    net = network()
    for block in net.blocks:
        new = Own(2 * WIDTH, WIDTH)
        new.load_state_dict(block.mlp.fc2.state_dict())
        block.mlp.fc2 = new
    net.eval()
    cbs.insert_(net, recipe("mid"))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(other.blocks[0].mlp.fc2) is type(net.blocks[0].mlp.fc2)
        assert (answer(other) - right("mid")["edited"]).abs().max() < CLOSE
    remove_(net)
    assert type(net.blocks[0].mlp.fc2) is Own


READ = """
import sys, torch
module, x = torch.load(sys.argv[1], weights_only=False)
torch.save(torch.compile(module, backend="eager")(x).detach(), sys.argv[2])
"""


def test_a_pickle_is_compiled_in_a_fresh_process(tmp_path: Path) -> None:
    net = cbs.insert_(network(), recipe("mid"))
    torch.save((net, X), tmp_path / "net.pt")
    files = [str(tmp_path / name) for name in ("net.pt", "out.pt")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", READ, *files], check=True, cwd=ROOT)
    assert (torch.load(tmp_path / "out.pt") - right("mid")["edited"]).abs().max() < CLOSE


@pytest.mark.parametrize("first", ["parametrize", "insert"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_class_that_parametrize_put_on_top(first: str, compiled: bool) -> None:
    """``parametrize`` gives a layer a class of its own as well; either comes off without the other."""
    net, wanted = network(), right("mid")
    forward = torch.compile(net, backend="eager") if compiled else net
    answer(forward)
    steps = [lambda: cbs.insert_(net, recipe("mid")), lambda: parametrizations.weight_norm(net.blocks[1].mlp.fc2)]
    for step in steps if first == "insert" else reversed(steps):
        step()
    assert (answer(forward) - wanted["edited"]).abs().max() < CLOSE
    other = copy.deepcopy(net)
    remove_(other)
    assert (answer(torch.compile(other, backend="eager")) - wanted["plain"]).abs().max() < CLOSE
    torch.nn.utils.parametrize.remove_parametrizations(other.blocks[1].mlp.fc2, "weight")
    assert type(other.blocks[1].mlp.fc2) is nn.Linear
    torch.nn.utils.parametrize.remove_parametrizations(net.blocks[1].mlp.fc2, "weight")
    assert (answer(forward) - wanted["edited"]).abs().max() < CLOSE
    remove_(net)
    assert type(net.blocks[1].mlp.fc2) is nn.Linear
    assert (answer(forward) - wanted["plain"]).abs().max() < CLOSE


class TestPause:
    def test_keys_copies_and_pickles(self) -> None:
        net, wanted = cbs.insert_(network(), recipe()), right("end")
        with cbs.disable(net):
            assert list(net.state_dict()) == list(network().state_dict())
            other, file = copy.deepcopy(net), pickle.dumps(net)
            assert torch.equal(answer(other), wanted["plain"])
            with cbs.disable(net.blocks[0]) as count:
                assert count == 1
            assert torch.equal(answer(net), wanted["plain"]), "the outer block goes on"
            program = torch.export.export(copy.deepcopy(net), (X,)).module()
        for module in (net, other, pickle.loads(file)):
            assert (answer(module) - wanted["edited"]).abs().max() < CLOSE
        assert (program(X) - wanted["plain"]).abs().max() < CLOSE

    def test_an_error_ends_it(self) -> None:
        net = cbs.insert_(network(), recipe())
        with pytest.raises(ZeroDivisionError), cbs.disable(net):
            raise ZeroDivisionError
        assert (answer(net) - right("end")["edited"]).abs().max() < CLOSE

    def test_part_of_a_model(self) -> None:
        model = cbs.insert(cbs.Model(network(), (X,)), recipe())
        with cbs.disable(model) as count:
            assert count == 2
        with pytest.raises(cbs.CBSurgeonError, match="CB-REMOVE-02"), cbs.disable(network()):
            pass
        program = cbs.insert(cbs.Model(network(), (X,)), recipe(), on="program")
        with pytest.raises(cbs.CBSurgeonError, match="part of its graph"), cbs.disable(program):
            pass
