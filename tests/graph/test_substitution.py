"""Other tensors in place of a module's own, for one run: afterwards nothing is left of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import cbsurgeon as cbs
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.substitution import call_with
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_module, insert_program, plan


class Shared(nn.Module):
    """Two residual blocks that share one norm module, by two names; and two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.blocks = nn.ModuleList([self._block(), self._block()])
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def _block(self) -> nn.Module:
        return nn.ModuleDict({"norm": self.norm, "mlp": nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block["mlp"](block["norm"](x))
        return self.second(self.first(x))


class Caching(nn.Module):
    """A residual block that computes a bias once and keeps it, as LeViT does with its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.table = nn.LayerNorm(8), nn.Parameter(torch.randn(8))
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = 2 * self.table
        return x + self.mlp(self.norm(x)) + self.cache["bias"]


def test_a_module_that_stores_a_result_stores_real_numbers() -> None:
    model = Model(Caching().eval(), (torch.randn(2, 5, 8),))
    edited = insert_module(model, plan(inspect(model), layers="all"))
    assert not [tensor for tensor in edited.module.cache.values() if isinstance(tensor, FakeTensor)]
    program = capture(edited)
    with torch.no_grad():
        assert torch.equal(edited.module(*model.example_inputs), program.module()(*model.example_inputs))


class Registering(Caching):
    """The same with a buffer that is empty at first, as the position bias of x-transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            self.register_buffer("bias", 2 * self.table.detach(), persistent=False)
        return x + self.mlp(self.norm(x)) + self.bias


@pytest.mark.parametrize("on", ["module", "program"])
def test_a_module_that_registers_a_computed_buffer_stays_as_it_was(on: str) -> None:
    module, x = Registering().eval(), torch.randn(2, 5, 8)
    edited = cbs.insert(Model(module, (x,)), op="cb", layers="all", on=on)
    assert module.bias is None or not isinstance(module.bias, FakeTensor)
    run = edited.module if on == "module" else edited.program.module()
    with torch.no_grad():
        y = module.mlp(module.norm(x))
        expected = x + (y + y.mean(1, keepdim=True)) / 2 + 2 * module.table
        assert torch.allclose(run(x), expected, atol=1e-6)
        assert torch.equal(module(x), x + y + 2 * module.table)


def _model() -> Model:
    return Model(Shared().eval(), (torch.randn(2, 5, 8),))


def _same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    after = dict(module.named_parameters(remove_duplicate=False))
    return list(after) == list(before) and all(after[name] is tensor for name, tensor in before.items())


def test_a_shared_module_gets_its_own_tensors_back() -> None:
    model = _model()
    before = dict(model.module.named_parameters(remove_duplicate=False))
    plain = model.module(*model.example_inputs)
    doubled = {name: tensor.detach() * 2 for name, tensor in model.module.named_parameters()}
    changed = call_with(model.module, doubled, model.example_inputs, {})
    assert _same(model.module, before)
    assert torch.equal(model.module(*model.example_inputs), plain)
    by_hand = copy.deepcopy(model.module)
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter.mul_(2)
    assert torch.equal(changed, by_hand(*model.example_inputs)), "a tensor that two modules hold is replaced in both"


def test_an_unknown_name_is_an_error() -> None:
    model = _model()
    with pytest.raises(KeyError):
        call_with(model.module, {"absent": torch.zeros(1)}, model.example_inputs, {})


def test_inserting_leaves_real_weights_behind() -> None:
    """The pass on shapes that counts calls once left a shared module with tensors that hold no values."""
    model = _model()
    edited = insert_module(model, plan(inspect(model), layers="all"))
    output = edited.module(*model.example_inputs)
    assert type(output) is Tensor
    assert all(type(tensor) is nn.Parameter for tensor in edited.module.parameters())
    assert float(output.detach().abs().max()) > 0


class OneActivation(nn.Module):
    """Two MLPs share one activation module, as in the first GPT of transformers."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.GELU()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(8), "up": nn.Linear(8, 16), "act": act, "down": nn.Linear(16, 8)})
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block["down"](block["act"](block["up"](block["norm"](x))))
        return x


def test_a_module_that_other_blocks_run_too_holds_no_operator() -> None:
    model = Model(OneActivation().eval(), (torch.randn(2, 5, 8),))
    found = inspect(model)
    assert [block.sites["mid"].hooks[0].module for block in found.blocks] == ["blocks.0.down", "blocks.1.down"]
    recipe = plan(found, layers="1", pos="mid")
    edited = insert_module(model, recipe)
    program = insert_program(model, recipe)
    x = model.example_inputs[0]
    assert torch.equal(edited.module(x), capture(program).module()(x))
    assert not torch.equal(edited.module(x), model.module(x))


def test_a_module_that_runs_under_one_of_its_names_holds_one() -> None:
    model = _model()
    model.module.first_block = model.module.blocks[0]["mlp"]
    found = inspect(model)
    edited = insert_module(model, plan(found, layers="0"))
    assert not torch.equal(edited.module(*model.example_inputs), model.module(*model.example_inputs))


class Projection(nn.Module):
    """A projection that asks its input for its size, as transformers' ``Conv1D`` does."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(rows, columns) / 8), nn.Parameter(torch.zeros(columns))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view((*x.size()[:-1], self.weight.shape[1]))


class Asking(OneActivation):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block["up"], block["down"] = Projection(8, 16), Projection(16, 8)


def test_reading_only_the_size_is_not_a_reader() -> None:
    found = inspect(Model(Asking().eval(), (torch.randn(2, 5, 8),)))
    assert [block.sites["mid"].hooks[0].module for block in found.blocks] == ["blocks.0.down", "blocks.1.down"]
