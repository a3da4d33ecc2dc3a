"""Small networks of three architectures with a fault planted in one block."""

from __future__ import annotations

import dataclasses
from functools import cache

import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

from cbsurgeon.deploy import fold
from cbsurgeon.deploy.casting import DTYPES, cast
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.operators import CB


class OnePerCent(CB):
    """The half of the tokens is 1 % too large."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.505 * x + 0.5 * self.mean(x)


class WrongAxis(CB):
    """The mean is taken over channels."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + 0.5 * x.mean(dim=self.channel_axis, keepdim=True)


class Absent(CB):
    """The operator is not there."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Overflowing(CB):
    """The sum exceeds the range of float16 before it is divided."""

    def forward(self, x: Tensor) -> Tensor:
        big = (x.sum(dim=self.token_axes, keepdim=True) * 2.0**18).clamp(-65504.0 * 2.0**14, 65504.0 * 2.0**14)
        return 0.5 * x + 0.5 * (big * 2.0**-18 / x.shape[self.token_axes[0]])


FAULTS = {"axis": WrongAxis, "scale": OnePerCent, "absent": Absent, "overflow": Overflowing, "stale bias": CB}
"""What stands in the faulty block. An overflow needs float16 to be one; a stale bias is a fault of folding."""

SIZE = 32

BUILDERS = {
    "vit": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=SIZE, patch_size=8, depth=3, embed_dim=32, num_heads=2, num_classes=10
    ),
    "mixer": lambda: MlpMixer(img_size=SIZE, patch_size=8, num_blocks=3, embed_dim=32, num_classes=10),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=SIZE, window_size=4, depths=(2, 1), embed_dim=32, num_heads=(2, 4), num_classes=10,
    ),
}  # fmt: skip

# name → (path of every block, its last dropout, channels) of three architectures; tokens lie on axis 1.
LAYOUTS = {
    "vit": [(f"blocks.{index}", "mlp.drop2", 32) for index in range(3)],
    "mixer": [(f"blocks.{index}", "mlp_channels.drop2", 32) for index in range(3)],
    "swin": [
        ("layers.0.blocks.0", "mlp.drop2", 32),
        ("layers.0.blocks.1", "mlp.drop2", 32),
        ("layers.1.blocks.0", "mlp.drop2", 64),
    ],
}
BLOCKS = 3


def _apply(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return module.planted(output)


@cache
def planted(name: str, block: int | None = None, fault: type[CB] = CB) -> Model:
    """A network with CB at the end of every block, one of them faulty."""
    torch.manual_seed(0)
    module = BUILDERS[name]().eval()
    for parameter in module.parameters():  # biases that start at zero would hide a stale one
        if parameter.detach().abs().max() < 1e-3:
            nn.init.normal_(parameter, std=0.05)
    for index, (path, end, channels) in enumerate(LAYOUTS[name]):
        place = module.get_submodule(f"{path}.{end}")
        place.planted = (fault if index == block else CB)(channels, 2, (1,)).eval()
        place.register_forward_hook(_apply)
    return Model(module, (torch.randn(2, 3, SIZE, SIZE),))


@cache
def program(name: str) -> Program:
    """The captured network without a fault."""
    return capture(planted(name))


def faulty(name: str, block: int, fault: str) -> Program:
    """The captured network with a fault in one block."""
    if fault == "stale bias":
        return stale(name, block)
    found = capture(planted(name, block, FAULTS[fault]))
    return cast(found, DTYPES["float16"]) if fault == "overflow" else found


def overflowing(model: Model) -> Model:
    """The model cast to float16 as other tools do it; an export refuses where that overflows."""
    return dataclasses.replace(model, module=None, program=cast(capture(model), DTYPES["float16"]).exported)


def stale(name: str, block: int) -> Program:
    """The folded network, one bias of which was not halved with its weight."""
    folded, _ = fold(program(name), plainly=True)
    path, end, _ = LAYOUTS[name][block]
    key = f"{path}.{end}".replace("drop2", "fc2.bias")
    state = dict(folded.exported.state_dict)
    assert not torch.equal(state[key], program(name).exported.state_dict[key]), "folding halves this bias"
    state[key] = program(name).exported.state_dict[key]
    folded.exported._state_dict = state
    return dataclasses.replace(folded)


def block_path(name: str, block: int) -> str:
    """Module path of a block."""
    return LAYOUTS[name][block][0]
