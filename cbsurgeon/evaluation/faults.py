"""Common mistakes in the preprocessing of deployed files, each as a change of the images that undoes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsurgeon.models import Preprocessing


@dataclass(frozen=True)
class Images:
    """A few images with B's preprocessing.

    Attributes:
        inputs: float32 ``[batch, channels, height, width]``.
        wanted: the preprocessing of A; it differs from B's at most in mean and standard deviation.
        own: the preprocessing of B.
    """

    inputs: Tensor
    wanted: Preprocessing
    own: Preprocessing

    @property
    def values(self) -> Tensor:
        """The pixels, from 0 to 1."""
        mean, std = _numbers(self.own)
        return self.inputs * std + mean

    @property
    def normalised(self) -> Tensor:
        """The images with A's preprocessing."""
        mean, std = _numbers(self.wanted)
        return (self.values - mean) / std


def _reversed(images: Images) -> Tensor | None:
    return images.inputs.flip(1) if images.inputs.shape[1] == 3 else None


def _as_wanted(images: Images) -> Tensor | None:
    return images.normalised if images.wanted.differences(images.own) else None


def _exchanged(images: Images) -> Tensor | None:
    mean, std = _numbers(images.wanted)
    return (images.values - std) / mean if bool((mean > 0).all()) else None


def _exchanged_inside(images: Images) -> Tensor:
    (mean, std), (own_mean, own_std) = _numbers(images.wanted), _numbers(images.own)
    return (images.normalised * mean + std - own_mean) / own_std


def _twice(images: Images) -> Tensor:
    mean, std = _numbers(images.wanted)
    return (images.normalised - mean) / std


def _turned(images: Images) -> Tensor | None:
    square = images.inputs.shape[2] == images.inputs.shape[3]
    return images.inputs.transpose(2, 3) if square else None


CHANGES: dict[str, Callable[[Images], Tensor | None]] = {
    "have their channels in reverse order (BGR for RGB)": _reversed,
    "are not normalised (values from 0 to 1)": lambda images: images.values,
    "are not normalised (values from 0 to 255)": lambda images: images.values * 255,
    "are normalised with A's mean and standard deviation": _as_wanted,
    "are normalised with mean and standard deviation exchanged": _exchanged,
    "compensate for an internal normalisation with mean and standard deviation exchanged": _exchanged_inside,
    "are normalised twice": _twice,
    "are mirrored": lambda images: images.inputs.flip(3),
    "have height and width exchanged": _turned,
}
"""Description of a change → function that applies it to B's images; it returns ``None`` if it does not apply."""


def _numbers(view: Preprocessing) -> tuple[Tensor, Tensor]:
    return torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]
