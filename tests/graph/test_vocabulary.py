"""The vocabulary of ATen operators against PyTorch's own tags."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.graph import aten

# Tagged as pointwise and no step of a forward pass on floating tensors: comparison of whole tensors, in-place integer
# operators, two outputs. `max` and `min` are tagged for their form with two tensors, which is `maximum` and `minimum`.
LEFT_OUT = {"equal", "frexp", "max", "min", "__ilshift__", "__ixor__"}


def tagged() -> Iterator[str]:
    """The names of all ATen operators that PyTorch tags as pointwise."""
    schemas = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("aten::")}
    for name in (schema.removeprefix("aten::") for schema in schemas):
        packet = getattr(torch.ops.aten, name, None)
        overloads = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
        if any(torch.Tag.pointwise in overload.tags for overload in overloads):
            yield name if name.endswith("__") else name.rstrip("_")


def test_every_pointwise_operator_of_pytorch_is_known() -> None:
    names = {aten.ALIASES.get(name, name) for name in tagged() if not name.endswith("_backward")}
    missing = names - aten.ELEMENTWISE - aten.LAYOUT - aten.DROPOUT
    assert missing <= LEFT_OUT, f"add these to graph/aten.py: {sorted(missing - LEFT_OUT)}"


class Activation(nn.Module):
    """A non-linearity that no layer of torch.nn has."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        operator = getattr(torch.special, self.name, None) or getattr(torch, self.name)
        return operator(x)


@pytest.mark.parametrize("name", ["atan", "erfc", "sinh", "log_ndtr", "expm1"])
def test_an_mlp_with_an_unusual_activation_is_an_mlp(name: str) -> None:
    mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), Activation(name), nn.Linear(32, 8))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(x)

    found = cbs.inspect(Block().eval(), (torch.randn(2, 5, 8),))
    assert [(block.fc1, block.fc2, block.tokens) for block in found.blocks] == [(("mlp.1",), ("mlp.3",), 5)]


class Causal(nn.Module):
    """Causal attention and a gated MLP, written with first or with second names of the same operators."""

    def __init__(self, second: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.second = second
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm2, self.up, self.gate, self.down = (
            nn.LayerNorm(8),
            nn.Linear(8, 16),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
        )
        self.register_buffer("hidden", torch.ones(5, 5).triu(1).bool())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        u = self.norm2(x)
        if self.second:
            scores = torch.divide(torch.linalg.matmul(q, torch.swapdims(k, 1, 2)), 8**0.5)
            weights = torch.special.softmax(scores.masked_fill(self.hidden, -1e9), -1)
            x = torch.add(x, self.out(torch.linalg.matmul(weights, v)))
            u = self.norm2(x)
            return torch.add(x, self.down(torch.multiply(torch.special.expit(self.gate(u)), self.up(u))))
        scores = q @ k.transpose(1, 2) / 8**0.5
        weights = scores.masked_fill(self.hidden, -1e9).softmax(-1)
        x = x + self.out(weights @ v)
        u = self.norm2(x)
        return x + self.down(self.gate(u).sigmoid() * self.up(u))


def test_second_names_of_operators_read_like_the_first() -> None:
    x = torch.randn(2, 5, 8)
    first, second = Causal(False).eval(), Causal(True).eval()
    assert torch.equal(first(x), second(x))
    read = [cbs.inspect(module, (x,)).to_dict() for module in (first, second)]
    for part in ("blocks", "attentions"):
        kept = [[{**one, "nodes": None, "sites": None} for one in found[part]] for found in read]
        assert kept[0] == kept[1] and kept[0]
    assert read[1]["attentions"][0]["causal"]
    with pytest.raises(cbs.CBSurgeonError, match="CB-LEAK"):
        cbs.plan(cbs.inspect(second, (x,)), layers="all")
