"""What is done to images to see how a model bears it: occlusion, Gaussian noise, shot noise, blur.

Pixels are float32 from 0 to 1, ``[batch, channels, height, width]``, after resizing and cropping; the result is clipped
to that range and not rounded. Random numbers come from one generator an image, so that an image is corrupted alike
whatever batch and process it is in. A new corruption is one function and one line in :data:`CORRUPTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class Corruption:
    """One way to corrupt images.

    Attributes:
        name: how the user asks for it.
        strengths: strengths that are tried where the user names none.
        unit: what a strength means, for people; ``{}`` stands for the number.
        apply: pixels, strength and one generator an image → pixels. ``None``: it is done to the model's input instead.
        random: it uses random numbers, and is repeated with several seeds.
    """

    name: str
    strengths: tuple[float, ...]
    unit: str
    apply: Callable[[Tensor, float, Generators], Tensor] | None = None
    random: bool = False


def occluded(inputs: Tensor, share: float) -> Tensor:
    """Model inputs with zeros in a centred patch that has this share of height and width (paper, Table 8: 0.5).

    Zeros stand in the model's input, which is the mean colour of its training images.
    """
    height, width = inputs.shape[-2:]
    tall, wide = round(height * share), round(width * share)
    top, left = (height - tall) // 2, (width - wide) // 2
    found = inputs.clone()
    found[..., top : top + tall, left : left + wide] = 0
    return found


def noise(pixels: Tensor, sigma: float, generators: Generators) -> Tensor:
    """Gaussian noise of a standard deviation of ``sigma`` levels of 255."""
    drawn = torch.stack([torch.randn(image.shape, generator=g) for image, g in zip(pixels, generators, strict=True)])
    return (pixels + sigma / 255 * drawn).clamp(0, 1)


def shot(pixels: Tensor, photons: float, generators: Generators) -> Tensor:
    """Shot noise: every value becomes a Poisson number of at most about ``photons``, as in ImageNet-C."""
    drawn = [torch.poisson(image * photons, generator=g) for image, g in zip(pixels, generators, strict=True)]
    return (torch.stack(drawn) / photons).clamp(0, 1)


def blur(pixels: Tensor, sigma: float, generators: Generators) -> Tensor:
    """Gaussian blur of a standard deviation of ``sigma`` pixels, its kernel cut off at 4 sigma."""
    from torchvision.transforms.v2 import functional

    height, width = pixels.shape[-2:]
    # The border is mirrored, which needs a kernel smaller than the image.
    edge = min(2 * round(4 * sigma) + 1, 2 * min(height, width) - 1)
    found: Tensor = functional.gaussian_blur(pixels, [edge, edge], [sigma, sigma])
    return found


CORRUPTIONS = {
    one.name: one
    for one in (
        Corruption("occlusion", (0.5,), "centred patch of {} of height and width, zero in the model's input"),
        Corruption("noise", (5.0, 10.0), "Gaussian noise, sigma {} of 255", noise, random=True),
        Corruption("shot", (60.0,), "shot noise, {} photons at full brightness", shot, random=True),
        Corruption("blur", (1.0, 2.0), "Gaussian blur, sigma {} pixels", blur),
    )
}


def generators(seed: int, indices: Tensor) -> list[torch.Generator]:
    """One generator an image: of the seed and its number in the dataset."""
    return [torch.Generator().manual_seed(seed * 0x9E3779B1 + index + 1) for index in indices.tolist()]
