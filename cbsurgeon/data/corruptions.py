"""Image corruptions for robustness tests: occlusion, Gaussian noise, shot noise, blur.

Pixels are float32 from 0 to 1, ``[batch, channels, height, width]``, after resizing and cropping. Results are clipped
to that range and not rounded. Each image has its own random generator, so its corruption does not depend on the batch
or process it is in. A new corruption is one function and one line in :data:`CORRUPTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class Corruption:
    """A corruption of images, and the strengths to test it with.

    Attributes:
        name: its name in ``--robust``.
        strengths: the default strengths.
        unit: description of a strength for reports; ``{}`` is replaced by the number.
        apply: function of pixels, strength and one generator per image that returns the corrupted pixels; ``None`` if
            the corruption changes the model's input instead of the pixels.
        random: whether it uses random numbers, and so is repeated with several seeds.
    """

    name: str
    strengths: tuple[float, ...]
    unit: str
    apply: Callable[[Tensor, float, Generators], Tensor] | None = None
    random: bool = False


def occluded(inputs: Tensor, share: float) -> Tensor:
    """Return model inputs with a centred patch set to zero (paper, Table 8: ``share`` 0.5).

    The patch has the given share of the height and of the width. Zero in the normalised input is the mean colour of the
    training images.
    """
    height, width = inputs.shape[-2:]
    tall, wide = round(height * share), round(width * share)
    top, left = (height - tall) // 2, (width - wide) // 2
    found = inputs.clone()
    found[..., top : top + tall, left : left + wide] = 0
    return found


def noise(pixels: Tensor, sigma: float, generators: Generators) -> Tensor:
    """Add Gaussian noise with a standard deviation of ``sigma / 255``."""
    drawn = torch.stack([torch.randn(image.shape, generator=g) for image, g in zip(pixels, generators, strict=True)])
    return (pixels + sigma / 255 * drawn).clamp(0, 1)


def shot(pixels: Tensor, photons: float, generators: Generators) -> Tensor:
    """Add shot noise as in ImageNet-C: a value ``v`` becomes ``Poisson(v * photons) / photons``."""
    drawn = [torch.poisson(image * photons, generator=g) for image, g in zip(pixels, generators, strict=True)]
    return (torch.stack(drawn) / photons).clamp(0, 1)


def blur(pixels: Tensor, sigma: float, generators: Generators) -> Tensor:
    """Blur with a Gaussian of ``sigma`` pixels; the kernel is cut off at 4 sigma."""
    from torchvision.transforms.v2 import functional

    height, width = pixels.shape[-2:]
    # The border is mirrored, so the kernel must be smaller than twice the image.
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
    """Return one random generator per image, seeded by ``seed`` and the image's index in the dataset."""
    return [torch.Generator().manual_seed(seed * 0x9E3779B1 + index + 1) for index in indices.tolist()]
