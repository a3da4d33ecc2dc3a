"""The paper's one line, written by hand into the source of a block, and the insertion give the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.surgery import insert_module, plan
from tests.surgery import architectures, arms


def line(x: Tensor) -> Tensor:
    """Section 3.2, for tokens between the batch and the channels (``dim=1``, or both spatial axes of an image)."""
    dim = tuple(range(1, x.dim() - 1))
    return 0.5 * x + 0.5 * x.mean(dim=dim, keepdim=True)


class Front(nn.Module):
    """fc1 of a model whose author wrote the line before it."""

    def __init__(self, fc1: nn.Module) -> None:
        super().__init__()
        self.fc1 = fc1

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(line(x))


class End(nn.Module):
    """The last layer of an MLP whose author wrote the line after it."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return line(self.last(x))


def timm_blocks(model: nn.Module) -> list[tuple[nn.Module, str, str, str]]:
    """The channel MLPs: owner, and the names of its up projection, down projection and last dropout."""
    mlps = [m for name, m in model.named_modules() if type(m).__name__ == "Mlp" and "tokens" not in name]
    return [(mlp, "fc1", "fc2", "drop2") for mlp in mlps]


def torchvision_blocks(model: nn.Module) -> list[tuple[nn.Module, str, str, str]]:
    return [(mlp, "0", "3", "4") for mlp in model.modules() if type(mlp).__name__ in ("MLPBlock", "MLP")]


def hf_blocks(model: nn.Module) -> list[tuple[nn.Module, str, str, str]]:
    return [(mlp, "fc1", "fc2", "fc2") for mlp in model.modules() if type(mlp).__name__ == "ViTMLP"]


MODELS: dict[str, Callable[[nn.Module], list[tuple[nn.Module, str, str, str]]]] = {
    "deit": timm_blocks,
    "mixer": timm_blocks,
    "swin": timm_blocks,
    "pit": timm_blocks,
    "torchvision vit": torchvision_blocks,
    "torchvision swin": torchvision_blocks,
    "hf vit": hf_blocks,
}


@pytest.mark.parametrize("position", ["front", "mid", "end"])
@pytest.mark.parametrize("name", MODELS)
def test_bit_equal(name: str, position: str) -> None:
    model = architectures.model(name)
    inserted = insert_module(model, plan(architectures.inspection(name), op="cb", layers="all", pos=position))
    written = copy.deepcopy(model.module)
    blocks = MODELS[name](written)
    assert len(blocks) == len(architectures.inspection(name).blocks) - (name == "mixer") * 2
    for owner, first, last, dropout in blocks:
        place, kind = {"front": (first, Front), "mid": (last, Front), "end": (dropout, End)}[position]
        setattr(owner, place, kind(getattr(owner, place)))
    by_hand, ours = arms.run_module(written, model), arms.run_module(inserted.module, model)
    assert arms.same(ours, by_hand)
    assert not arms.same(ours, arms.run_module(model.module, model))


@pytest.mark.parametrize("spelling", ["keywords", "choice", "recipe"])
def test_a_choice_is_inserted_directly(spelling: str) -> None:
    model = architectures.model("deit")
    if spelling == "keywords":
        inserted = cbs.insert(model, op="cb", layers="all", pos="front", on="module")
    elif spelling == "choice":
        inserted = cbs.insert(model, cbs.Choice(op="cb", layers="all"), pos="front")
    else:
        inserted = cbs.insert(model, plan(architectures.inspection("deit"), op="cb", layers="all", pos="front"))
    written = copy.deepcopy(model.module)
    for owner, first, _, _ in timm_blocks(written):
        setattr(owner, first, Front(getattr(owner, first)))
    assert arms.same(arms.run_module(inserted.module, model), arms.run_module(written, model))


def test_a_recipe_and_a_choice_are_refused() -> None:
    model = architectures.model("deit")
    with pytest.raises(cbs.CBSurgeonError, match="CB-OPTION-01"):
        cbs.insert(model, plan(architectures.inspection("deit"), layers="all"), layers="upper")


@pytest.mark.parametrize("name", ["deit", "mixer", "swin", "hf vit"])
def test_mid_is_end_in_double_precision(name: str) -> None:
    """Without dropout the down projection is affine, and an affine map commutes with a mean."""
    exact = 1e-12  # share of the outputs; double precision over a few layers rounds to about 1e-15
    results = []
    model = architectures.model(name)
    for position in ("mid", "end"):
        edited = insert_module(model, plan(architectures.inspection(name), op="cb", layers="all", pos=position))
        wide = edited.module.double()
        args = tuple(arg.double() for arg in model.example_inputs)
        kwargs = {key: value.double() for key, value in model.example_kwargs.items()}
        with torch.no_grad():
            results.append(arms.tensors(wide(*args, **kwargs)))
    assert arms.distance(*results) <= exact


def test_layer_scale_before_or_after_the_operator() -> None:
    """A scale per channel commutes with a mean over tokens: in a model too, CB behind layer scale is CB at the End."""
    exact = 1e-12  # share of the outputs; double precision over two blocks rounds to about 1e-15
    model = architectures.model("deit3 with layer scale")
    recipe = plan(architectures.inspection("deit3 with layer scale"), op="cb", layers="all")
    inserted, written = insert_module(model, recipe).module.double(), copy.deepcopy(model.module).double()
    for block in written.blocks:
        assert block.ls2.gamma.std() > 0.1, "scales that differ between channels"
        block.ls2 = End(block.ls2)
    args = tuple(arg.double() for arg in model.example_inputs)
    with torch.no_grad():
        assert arms.distance(arms.tensors(inserted(*args)), arms.tensors(written(*args))) <= exact
