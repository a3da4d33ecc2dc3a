"""Operators stay at their sites when a layer is wrapped, unwrapped, replaced or quantised after the insertion.

The reference is the same network with the token mean written by hand into the hooks of its MLP modules, which no
wrapper here exchanges, and the same wrapping done to it.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.surgery import remove_
from tests.training.networks import build, images, logits

pytest.importorskip("timm", reason="the architecture is timm's")

CLOSE = 1e-6
"""float32: the same operations in the same order, but for a merged weight, which is one sum more."""
SEEN = 0.02
"""The token mean moves these outputs by more than this."""
POSITIONS = ["front", "mid", "end"]


def answer(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return logits(module.eval()(images()))


def mixed(x: Tensor) -> Tensor:
    return (x + x.mean(1, keepdim=True)) / 2


def by_hand(pos: str) -> nn.Module:
    module = build("vit").eval()
    for block in module.blocks:
        if pos == "front":
            block.mlp.register_forward_pre_hook(lambda _, args: (mixed(args[0]),))
        else:
            place = block.mlp if pos == "end" else block.mlp.drop1
            place.register_forward_hook(lambda _, args, output: mixed(output))
    return module


@cache
def recipe(pos: str, op: str = "cb") -> cbs.Recipe:
    return cbs.plan(cbs.inspect(cbs.Model(build("vit").eval(), (images(),))), op=op, layers="all", pos=pos)


def edited(pos: str, op: str = "cb") -> nn.Module:
    return cbs.insert_(build("vit").eval(), recipe(pos, op))


def same(one: nn.Module, other: nn.Module) -> None:
    assert (answer(one) - answer(other)).abs().max() < CLOSE


class Adapter(nn.Module):
    """A low-rank adapter parallel to a layer, as in LoRA: it reads the layer's input."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for part in (self.down, self.up):
                nn.init.normal_(part.weight, std=0.2)
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))  # type: ignore[no-any-return]


def wrap(module: nn.Module) -> nn.Module:
    for block in module.blocks:
        block.mlp.fc1, block.mlp.fc2 = Adapter(block.mlp.fc1), Adapter(block.mlp.fc2)
    return module.eval()


def unwrap(module: nn.Module) -> nn.Module:
    for block in module.blocks:
        block.mlp.fc1, block.mlp.fc2 = block.mlp.fc1.layer, block.mlp.fc2.layer
    return module


def renew(module: nn.Module) -> nn.Module:
    """New layers with the same weights, as merging or quantising makes them."""
    for block in module.blocks:
        for name in ("fc1", "fc2"):
            old = getattr(block.mlp, name)
            new = nn.Linear(old.in_features, old.out_features)
            new.load_state_dict({key: old.state_dict()[key] for key in ("weight", "bias")})
            setattr(block.mlp, name, new)
    return module.eval()


@pytest.mark.thin(6)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("pos", ["end", "mid", "front"])
def test_wrapped_unwrapped_and_replaced(pos: str, compiled: bool) -> None:
    torch._dynamo.reset()
    module, reference = edited(pos), by_hand(pos)
    run = torch.compile(module, backend="eager") if compiled else module
    same(run, reference)
    for step in (wrap, unwrap, renew, wrap):
        step(module), step(reference)
        same(run, reference)
        if not compiled:
            same(copy.deepcopy(module), reference)
    assert (answer(remove_(module)) - answer(reference)).abs().max() > SEEN
    assert not any(part._forward_pre_hooks or part._state_dict_pre_hooks for part in module.modules())


@pytest.mark.parametrize("pos", POSITIONS)
@pytest.mark.parametrize("step", [wrap, renew], ids=["wrap", "renew"])
def test_before_the_next_forward_pass(pos: str, step: Callable[[nn.Module], nn.Module]) -> None:
    """What reads a model without running it finds the operators as well."""
    reference = step(by_hand(pos))
    file = io.BytesIO()
    torch.save(step(edited(pos)), file)
    file.seek(0)
    same(torch.load(file, weights_only=False), reference)
    same(copy.deepcopy(step(edited(pos))), reference)
    assert "cbsurgeon.recipes" in step(edited(pos)).state_dict()._metadata
    with cbs.disable(step(edited(pos))) as count:
        assert count == 2
    bare = remove_(step(edited(pos)))
    assert not any(isinstance(part, cbs.Operator) for part in bare.modules())
    same(bare, step(build("vit").eval()))
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-03"):
        cbs.insert_(renew(edited(pos)), recipe(pos))


def test_scales_move_with_their_operator() -> None:
    module = edited("mid", "cb_s")
    scales = [parameter for key, parameter in module.named_parameters() if key.endswith("scale")]
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    wrap(module)
    module(images()).square().sum().backward()
    optimizer.step()
    now = {key: parameter for key, parameter in module.named_parameters() if key.endswith("scale")}
    assert [id(parameter) for parameter in now.values()] == [id(parameter) for parameter in scales]
    assert all(parameter.abs().max() > 0 for parameter in now.values())


def test_a_layer_that_was_deleted() -> None:
    module = edited("mid")
    del module.blocks[0].mlp.fc2
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-11"):
        module(images())


def test_an_mlp_that_was_replaced_takes_its_operator_with_it() -> None:
    """The model would be exported with fewer operators than its recipe has."""
    module = edited("end")
    whole, x = module.blocks[0].mlp, images()
    module.blocks[0].mlp = copy.deepcopy(whole)
    assert cbs.inspect(cbs.Model(module, (x,))).operators, "a copy has a copy of the operator"
    module.blocks[0].mlp = nn.Sequential(whole.fc1, nn.GELU(), whole.fc2).eval()
    for use in (cbs.inspect, lambda model: cbs.verify(model, model, backends=("program", "eager"))):
        with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-11") as refused:
            use(cbs.Model(module, (x,)))
        assert "blocks.0.mlp" in refused.value.where
    bare = cbs.remove(cbs.Model(module, (x,)))
    assert not cbs.inspect(bare).operators


@pytest.mark.parametrize("pos", ["front", "mid", "end"])
def test_every_mlp_was_replaced_by_one_of_another_form(pos: str) -> None:
    """The recipe is known from what ``cbs.insert`` returned; one replaced MLP is known from the others' operators."""
    model = cbs.insert(cbs.Model(build("vit").eval(), (images(),)), recipe(pos))
    assert model.module is not None and cbs.inspect(model).operators
    for block in model.module.blocks:
        whole = block.mlp
        block.mlp = nn.Sequential(copy.deepcopy(whole.fc1), nn.GELU(), copy.deepcopy(whole.fc2)).eval()
        for layer in block.mlp:
            for name in [name for name in layer._modules if name.startswith("context_broadcast")]:
                del layer._modules[name]
        with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-11"):
            cbs.inspect(model)


@pytest.mark.parametrize("pos", ["front", "mid", "end"])
def test_a_model_without_one_of_its_operators_is_not_saved(pos: str, tmp_path: Path) -> None:
    """The recipe in the file would insert an operator that the weights were not trained with."""
    model = cbs.insert(cbs.Model(build("vit").eval(), (images(),)), recipe(pos))
    assert model.module is not None
    cbs.save(model, tmp_path / "whole.safetensors")
    whole = model.module.blocks[0].mlp
    model.module.blocks[0].mlp = nn.Sequential(nn.Linear(whole.fc1.in_features, 8), nn.GELU(), nn.Linear(8, 32)).eval()
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-11"):
        cbs.save(model, tmp_path / "lost.safetensors")
    assert not (tmp_path / "lost.safetensors").exists()
    # A state dict has a note for each operator that is there, so that a file of it is refused when it is loaded.
    torch.save(model.module.state_dict(), tmp_path / "lost.pt")
    with pytest.raises(cbs.CBSurgeonError, match="CB-META-03"):
        cbs.load(tmp_path / "lost.pt", arch="timm:vit_tiny_patch16_224")


def test_a_part_of_an_edited_model_and_a_shortened_one_are_complete() -> None:
    module = edited("end")
    block, x = module.blocks[1], torch.randn(2, 5, module.blocks[1].mlp.fc1.in_features)
    assert len(cbs.inspect(cbs.Model(block, (x,))).operators) == 1
    del module.blocks[1]
    assert len(cbs.inspect(cbs.Model(module, (images(),))).operators) == len(module.blocks)


class TestLora:
    """The adapters of peft."""

    @staticmethod
    def lora(module: nn.Module, **options: Any) -> Any:
        peft = pytest.importorskip("peft", reason="the adapters are peft's")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return peft.get_peft_model(
                module, peft.LoraConfig(target_modules=["fc1", "fc2"], r=4, init_lora_weights=False, **options)
            ).eval()

    @pytest.mark.parametrize("first", ["insertion", "adapter"])
    @pytest.mark.parametrize("pos", POSITIONS)
    def test_active_disabled_merged_unmerged_unloaded(self, pos: str, first: str) -> None:
        reference = self.lora(by_hand(pos))
        if first == "insertion":
            module = self.lora(edited(pos))
        else:
            module = self.lora(build("vit"))
            found = cbs.inspect(cbs.Model(copy.deepcopy(module), (images(),)))
            cbs.insert_(module, cbs.plan(found, op="cb", layers="all", pos=pos))
        same(module, reference)
        with module.disable_adapter(), reference.disable_adapter():
            same(module, reference)
        for change in ("merge_adapter", "unmerge_adapter", "merge_adapter"):
            getattr(module, change)(), getattr(reference, change)()
            same(module, reference)
        with cbs.disable(module) as count:
            assert count == 2
            assert (answer(module) - answer(reference)).abs().max() > SEEN
        same(module.merge_and_unload(), reference.merge_and_unload())

    def test_layers_that_are_trained_whole(self) -> None:
        """peft keeps a copy of such a layer, with a copy of its operator, inside a wrapper."""
        module, reference = (self.lora(each, modules_to_save=["drop1"]) for each in (edited("mid"), by_hand("mid")))
        same(module, reference)
        module, reference = (self.lora(each, modules_to_save=["head"]) for each in (edited("mid"), by_hand("mid")))
        same(module, reference)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pos", POSITIONS)
def test_quantised_by_torchao(pos: str) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="the quantisation is torchao's")
    module, reference = edited(pos), by_hand(pos)
    for each in (module, reference):
        quantization.quantize_(each, quantization.Int8WeightOnlyConfig())
    kinds = [
        [type(part.weight) for part in each.modules() if isinstance(part, nn.Linear)] for each in (module, reference)
    ]
    assert kinds[0] == kinds[1] and nn.Parameter not in kinds[0]
    same(module, reference)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pos", POSITIONS)
def test_quantised_by_torch_itself(pos: str) -> None:
    """``quantize_dynamic`` selects layers by their exact class: it leaves a layer that carries an operator in
    float32."""
    quantise = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantise is None:
        pytest.skip("this torch has no quantize_dynamic")
    module, reference = (quantise(each, {nn.Linear}) for each in (edited(pos), by_hand(pos)))
    gap = (answer(module) - answer(reference)).abs().max()
    assert gap < (CLOSE if pos == "end" else SEEN)  # rounding to eight bits, in the layers that carry one
    with cbs.disable(module):
        assert (answer(module) - answer(reference)).abs().max() > SEEN
    names = {"front": "fc1", "mid": "fc2"}
    if pos != "end":
        assert isinstance(getattr(module.blocks[0].mlp, names[pos]), nn.Linear)
        assert type(getattr(reference.blocks[0].mlp, names[pos])) is not nn.Linear
