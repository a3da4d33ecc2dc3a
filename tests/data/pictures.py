"""Real photographs for the tests, from scikit-image and scikit-learn, cut to many sizes."""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image

SIZES = ((300, 225), (225, 300), (61, 47), (256, 256), (500, 333), (333, 501), (129, 640), (224, 224))


def photographs(count: int = 24) -> list[Image.Image]:
    """Cuts of photographs, every one of another place or size."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    whole = [data.astronaut(), data.chelsea(), data.coffee(), *load_sample_images().images]
    found = []
    for number in range(count):
        picture = Image.fromarray(whole[number % len(whole)])
        width, height = SIZES[number % len(SIZES)]
        left, top = (37 * number) % max(1, picture.width - width), (53 * number) % max(1, picture.height - height)
        found.append(picture.crop((left, top, min(picture.width, left + width), min(picture.height, top + height))))
    return found


def save_classes(root: Path, classes: tuple[str, ...] = ("cat", "cup", "hat"), count: int = 24) -> list[Path]:
    """A folder with one sub-folder a class; the paths in the order of a dataset."""
    paths = []
    for number, picture in enumerate(photographs(count)):
        folder = root / classes[number * len(classes) // count]
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{number:03}.png")
        picture.save(paths[-1])
    return paths


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Random pixels: any mistake in scaling or cutting shows."""
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8))
