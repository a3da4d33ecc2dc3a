"""Networks with a fault planted in one block's operator."""

from __future__ import annotations

from torch import Tensor, nn

from cbsurgeon.models.model import Model
from cbsurgeon.operators import CB
from tests.deploy import networks


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
    """The sum leaves float16's range before it is divided."""

    def forward(self, x: Tensor) -> Tensor:
        big = (x.sum(dim=self.token_axes, keepdim=True) * 2.0**18).clamp(-65504.0 * 2.0**14, 65504.0 * 2.0**14)
        return 0.5 * x + 0.5 * (big * 2.0**-18 / x.shape[self.token_axes[0]])


FAULTS = {"scale": OnePerCent, "axis": WrongAxis, "absent": Absent}

# name → (path of every block's last dropout or projection, channels, channel axis, token axes) of three architectures.
LAYOUTS = {
    "vit": [(f"blocks.{index}.mlp.drop2", 192, 2, (1,)) for index in range(3)],
    "mixer": [(f"blocks.{index}.mlp_channels.drop2", 64, 2, (1,)) for index in range(3)],
    "swin": [(f"layers.{stage}.blocks.0.mlp.drop2", 96 * 2**stage, 2, (1,)) for stage in range(4)],
}


def _apply(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return module.planted(output)


def planted(name: str, block: int | None = None, fault: type[CB] = CB) -> Model:
    """A network with CB at the end of every block, one of them faulty."""
    model = networks.BUILDERS[name]()
    for index, (path, channels, channel_axis, token_axes) in enumerate(LAYOUTS[name]):
        place = model.module.get_submodule(path)
        place.planted = (fault if index == block else CB)(channels, channel_axis, token_axes).eval()
        place.register_forward_hook(_apply)
    return model


def block_path(name: str, block: int) -> str:
    """Module path of a block."""
    return LAYOUTS[name][block][0].rsplit(".", 2)[0]
