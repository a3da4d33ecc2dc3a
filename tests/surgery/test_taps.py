"""``--exclude taps``: blocks whose stream is also an output, written down by hand for every model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.errors import NothingMatched, UsageError
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.options.texts import BadText, exclusions
from cbsurgeon.surgery import plan
from tests.surgery import architectures

PICTURE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Pyramid(nn.Module):
    """Two stages of two blocks; ``tap`` decides how the first stage's stream is used in addition to the second
    stage."""

    def __init__(self, tap: str) -> None:
        super().__init__()
        self.tap = tap
        self.stages = nn.ModuleList(nn.ModuleList(mlp(width) for _ in range(2)) for width in (8, 12))
        self.merge, self.norm, self.lateral, self.head = (
            nn.Linear(16, 12),
            nn.LayerNorm(8),
            nn.Linear(8, 12),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Any:
        for block in self.stages[0]:
            x = x + block(x)
        first = x
        x = self.merge(x.reshape(x.shape[0], 8, 16))
        for block in self.stages[1]:
            x = x + block(x)
        upper = x.repeat_interleave(2, dim=1)
        return {
            "none": lambda: self.head(x.mean(1)),
            "norm": lambda: (self.head(x.mean(1)), self.norm(first).transpose(1, 2).reshape(-1, 8, 4, 4)),
            "slice": lambda: (self.head(x.mean(1)), first[:, 4:]),
            "lateral": lambda: self.lateral(first) + upper,
            "both": lambda: (self.lateral(self.norm(first)) + upper, x),
            "pooled": lambda: self.head(x.mean(1)) + self.head(self.lateral(first.mean(1))),
            "one token": lambda: (self.head(x.mean(1)), first[:, 0], first[:, :1]),
        }[self.tap]()


@pytest.mark.parametrize(
    ("tap", "wanted"),
    [
        ("none", []),
        ("norm", [1]),
        ("slice", [1]),
        ("lateral", [1]),
        ("both", [1, 3]),
        ("pooled", []),
        ("one token", []),
    ],
)
def test_pyramid(tap: str, wanted: list[int]) -> None:
    found = inspect(Model(Pyramid(tap).eval(), (TOKENS,)))
    assert len(found) == 4
    assert [block.index for block in found.blocks if block.tapped] == wanted
    assert [block["index"] for block in found.to_dict()["blocks"] if block["tapped"]] == wanted
    recipe = plan(found, layers="all", exclude="taps")
    assert list(recipe.indices) == [index for index in range(4) if index not in wanted]
    assert {left.index: left.reason for left in recipe.excluded} == dict.fromkeys(
        wanted, "its residual stream is also an output of the model"
    )


class Intermediate(nn.Module):
    """``get_intermediate_layers`` as dense predictors call it: token maps of two blocks, without the class token."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> Any:
        return self.vit.get_intermediate_layers(x, n=[1, 3], reshape=True, norm=True)


STAGES = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2)}
PYRAMIDS = {"depths": (1, 1, 2, 1), "embed_dims": (8, 16, 16, 16), "num_heads": (1, 2, 2, 2)}
TIMM: dict[str, tuple[str, dict[str, Any], list[int], list[int]]] = {
    "vit": ("deit_tiny_patch16_224", {"img_size": 64, "depth": 4, "out_indices": (1, 3)}, [1, 3], [1, 3]),
    "swin": ("swin_tiny_patch4_window7_224", STAGES, [0, 2], [0, 2]),
    "pvt": ("pvt_v2_b0", PYRAMIDS, [0, 1, 3, 4], [0, 1, 3, 4]),
}


@pytest.mark.parametrize("name", TIMM)
def test_features_only(name: str) -> None:
    timm = pytest.importorskip("timm", reason="the architecture is timm's")
    reference, options, blocks, attention = TIMM[name]
    found = inspect(Model(timm.create_model(reference, features_only=True, **options).eval(), (PICTURE,)))
    assert [block.index for block in found.blocks if block.tapped] == blocks
    assert [block.index for block in found.attention if block.tapped] == attention
    rest = [block.index for block in found.blocks if not block.tapped]
    if rest:
        sites = plan(found, layers="all", at="both", exclude="taps").sites
        assert [site.index for site in sites] == [*rest, *rest], "the attention of a tapped block goes with its MLP"


def test_intermediate_layers() -> None:
    timm = pytest.importorskip("timm", reason="the architecture is timm's")
    vit = timm.create_model("deit_tiny_patch16_224", img_size=64, depth=4)
    found = inspect(Model(Intermediate(vit).eval(), (PICTURE,)))
    assert [block.index for block in found.blocks if block.tapped] == [1, 3]
    assert plan(found, layers="all", exclude=["taps", 0]).indices == (2,)


@pytest.mark.parametrize("name", [name for name in architectures.ARCHITECTURES if name != "hf bert"])
def test_a_classifier_has_none(name: str) -> None:
    assert not any(block.tapped for block in architectures.inspection(name).blocks)


def test_hidden_states_are_an_output() -> None:
    assert [block.tapped for block in architectures.inspection("hf bert").blocks] == [False, True]


def test_with_indices_and_unknown_words() -> None:
    found = inspect(Model(Pyramid("both").eval(), (TOKENS,)))
    assert plan(found, layers="all", exclude="taps,0").indices == (2,)
    assert plan(found, layers="all", exclude=(0, "taps")).indices == (2,)
    with pytest.raises(UsageError, match="CB-SELECT-01"):
        plan(found, layers="all", exclude="tabs")
    with pytest.raises(NothingMatched, match="CB-LOCATE-03") as refused:
        plan(found, layers="all", exclude="taps,9")
    assert "--exclude taps,9" in refused.value.where
    with pytest.raises(NothingMatched, match="CB-LOCATE-02"):
        plan(found, layers="1,3", exclude="taps")


def test_a_model_in_parts_does_not_show_its_taps() -> None:
    found = inspect(Model(Pyramid("none").eval(), (TOKENS,)))
    parts = replace(found, blocks=tuple(replace(block, tapped=None) for block in found.blocks))
    with pytest.raises(UsageError, match="CB-SELECT-02"):
        plan(parts, layers="all", exclude="taps")
    assert plan(parts, layers="all", exclude=[3]).indices == (0, 1, 2)


def test_on_the_command_line() -> None:
    assert exclusions("taps") == ("taps",)
    assert exclusions("7, taps,11") == (7, "taps", 11)
    for text in ("tap", "7,,11", "-1", "taps,x"):
        with pytest.raises(BadText, match="block indices"):
            exclusions(text)
