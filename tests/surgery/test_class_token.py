"""Operators that read the class token are inserted only where a class token is proved on the graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph import Inspection
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_module, insert_program, plan
from tests.surgery import architectures, arms, by_hand

PICTURE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
TINY = {"img_size": 64, "depth": 2}
SMALL = {**TINY, "embed_dim": 64, "num_heads": 2}


def places(found: Inspection) -> list[int | None]:
    """The place at every site of every block, which must agree within a block."""
    result = []
    for block in found.blocks:
        (place,) = {site.class_token for site in block.sites.values()}
        result.append(place)
    return result


WANTED: dict[str, list[int | None]] = {
    "deit": [0, 0],
    "deit3 with layer scale": [0, 0],
    "pit": [0, 0, 0, 0],
    "eva with gated mlp": [0, 0],
    "torchvision vit": [0, 0],
    "hf vit": [0, 0],
    # the class token joins behind these blocks, in class attention
    "xcit": [None, None],
    "cait": [None, None],
    # [CLS] is a word like any other
    "hf bert": [None, None],
    "mixer": [None] * 4,
    "swin": [None] * 3,
    "swin v2": [None] * 3,
    "torchvision swin": [None] * 3,
    "davit": [None] * 4,
}


@pytest.mark.thin(4)
@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_architectures(name: str) -> None:
    found = architectures.inspection(name)
    assert places(found) == WANTED[name]
    for block in found.attention:
        assert block.sites["end"].class_token == WANTED[name][0]
    if None in WANTED[name]:
        for op in ("cb_gate", "cb_hybrid"):
            with pytest.raises(SurgeryError, match="CB-SURGERY-06") as refused:
                plan(found, op=op, layers="all")
            assert "class token" in refused.value.why
    else:
        assert plan(found, op="cb_gate", layers="all", pos="mid").options == {}


TIMM: dict[str, tuple[str, dict[str, Any], list[int | None]]] = {
    "two prefix tokens": ("deit_tiny_distilled_patch16_224", TINY, [0, 0]),
    "registers behind it": ("vit_small_patch14_reg4_dinov2", {**SMALL, "patch_size": 16}, [0, 0]),
    "read by nobody": ("vit_tiny_patch16_224", {**TINY, "global_pool": "avg"}, [None, None]),
    "none": ("vit_tiny_patch16_224", {**TINY, "global_pool": "avg", "class_token": False}, [None, None]),
    "a register alone": ("vit_medium_patch16_reg1_gap_256", SMALL, [None, None]),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="the architecture is timm's")
    reference, options, wanted = TIMM[name]
    found = inspect(Model(timm.create_model(reference, **options).eval(), (PICTURE,)))
    assert places(found) == wanted


def test_it_joins_in_the_middle() -> None:
    """ConViT's class token comes after its first blocks: the upper ones have it, the lower ones are refused."""
    timm = pytest.importorskip("timm", reason="the architecture is timm's")
    module = timm.create_model("convit_tiny", img_size=64, embed_dim=16, depth=4, local_up_to_layer=2)
    found = inspect(Model(module.eval(), (PICTURE,)))
    assert places(found) == [None, None, 0, 0]
    assert plan(found, op="cb_gate", layers="2,3").indices == (2, 3)
    with pytest.raises(SurgeryError, match="CB-SURGERY-06") as refused:
        plan(found, op="cb_gate", layers="all")
    assert "block 0" in refused.value.what


class Written(nn.Module):
    """A learned token put among the tokens in one of several ways, and read out in one of several ways."""

    def __init__(self, put: str, read: str) -> None:
        super().__init__()
        self.put, self.read = put, read
        self.token, self.two = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 2, 8))
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(x.shape[0], -1, -1)
        if self.put == "front":
            x = torch.cat([token, x], dim=1)
        elif self.put == "back":
            x = torch.cat([x, token], dim=1)
        elif self.put == "two":
            x = torch.cat([self.two.expand(x.shape[0], -1, -1), x], dim=1)
        elif self.put == "over":
            x = torch.slice_scatter(x, token, 1, 2, 3)
        elif self.put == "given":
            x = torch.cat([x[:, :1] * 2, x], dim=1)
        elif self.put == "shifted":
            x = torch.roll(torch.cat([token, x], dim=1), 1, dims=1)
        x = x + self.fc2(self.fc1(self.norm(x)).relu())
        return {
            "first": lambda: x[:, 0],
            "last": lambda: x[:, -1],
            "third": lambda: x[:, 2:3].flatten(1),
            "split": lambda: x.split([1, x.shape[1] - 1], dim=1)[0].squeeze(1),
            "unbind": lambda: x.unbind(1)[0],
            "transposed": lambda: x.transpose(1, 2)[:, :, 0],
            "mean": lambda: x.mean(1),
            "all": lambda: x,
        }[self.read]()


@pytest.mark.parametrize(
    ("put", "read", "wanted"),
    [
        ("front", "first", 0),
        ("front", "split", 0),
        ("front", "unbind", 0),
        ("front", "transposed", 0),
        ("front", "mean", None),
        ("front", "all", None),
        ("front", "last", None),
        ("back", "last", 6),
        ("back", "first", None),
        ("over", "third", 2),
        ("over", "first", None),
        ("two", "first", None),
        ("given", "first", None),
        ("none", "first", None),
        ("shifted", "first", None),
    ],
)
def test_ways_of_writing_it(put: str, read: str, wanted: int | None) -> None:
    model = Model(Written(put, read).eval(), (TOKENS,))
    found = inspect(model)
    assert places(found) == [wanted]
    if wanted is None:
        with pytest.raises(SurgeryError, match="CB-SURGERY-06") as refused:
            plan(found, op="cb_hybrid", layers="all")
        assert "class_token=0" in refused.value.do
        return
    recipe = plan(found, op="cb_gate", layers="all")
    assert recipe.options == ({"class_token": wanted} if wanted else {})
    program = capture(model)
    by_module = arms.run_module(insert_module(model, recipe).module, model)
    by_program = by_hand.run(capture(insert_program(model, recipe)), {}, program.example)
    assert arms.same(by_program, by_module)
    site = found.blocks[0].sites["end"]
    gated = {"0": (site, lambda x: x * (x[:, wanted : wanted + 1] + 1))}
    assert arms.same(by_module, by_hand.run(program, gated, program.example), arms.SHARE)


def test_the_user_may_give_the_position() -> None:
    found, model = architectures.inspection("hf bert"), architectures.model("hf bert")
    recipe = plan(found, op="cb_gate", layers="all", class_token=0)
    assert recipe.options == {"class_token": 0}
    edited = insert_module(model, recipe)
    assert not arms.same(arms.run_module(edited.module, model), arms.run_module(model.module, model), arms.SHARE)
    for place in (7, -8):
        with pytest.raises(SurgeryError, match="CB-SURGERY-06") as refused:
            plan(found, op="cb_gate", class_token=place)
        assert "7 tokens" in refused.value.why
    with pytest.raises(SurgeryError, match="CB-SURGERY-06"):
        plan(found, op="cb_gate", class_token="first")


def test_the_last_token_by_a_negative_position() -> None:
    from cbsurgeon.operators import build

    x = torch.randn(2, 5, 4)
    assert torch.equal(build("cb_gate", 4, 2, (1,), {"class_token": -1})(x), x * (x[:, -1:] + 1))
