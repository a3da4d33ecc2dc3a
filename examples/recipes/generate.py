"""Write generated images in the format that each recipe documents, to try a recipe before its data are there.

python examples/recipes/generate.py imagenet /tmp/imagenet
python examples/recipes/generate.py cifar100 /tmp/cifar100
python examples/recipes/generate.py ade20k /tmp/ade20k
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

FORMS = {"imagenet": (96, "JPEG", 10), "cifar100": (32, "png", 100)}
"""Size of an image, suffix and number of classes."""


def picture(generator: np.random.Generator, size: int) -> Image.Image:
    """Coloured patches."""
    patches = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((size, size), Image.Resampling.BILINEAR)


def classes(root: Path, form: str, train: int, validation: int, generator: np.random.Generator) -> None:
    size, suffix, count = FORMS[form]
    for part, images in (("train", train), ("validation", validation)):
        for number in range(images):
            folder = root / part / f"{number % count:03}"
            folder.mkdir(parents=True, exist_ok=True)
            picture(generator, size).save(folder / f"{number}.{suffix}")


def ade20k(root: Path, train: int, validation: int, generator: np.random.Generator) -> None:
    for part, images in (("training", train), ("validation", validation)):
        for kind in ("images", "annotations"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            picture(generator, 96).save(root / "images" / part / f"ADE_{number:08}.jpg")
            label = generator.integers(0, 151, (4, 4), dtype=np.uint8)
            label = Image.fromarray(label).resize((96, 96), Image.Resampling.NEAREST)
            label.save(root / "annotations" / part / f"ADE_{number:08}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=[*FORMS, "ade20k"])
    parser.add_argument("root", type=Path)
    parser.add_argument("--train", type=int, default=100, help="images to train on")
    parser.add_argument("--validation", type=int, default=20)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    if args.form == "ade20k":
        ade20k(args.root, args.train, args.validation, generator)
    else:
        classes(args.root, args.form, args.train, args.validation, generator)


if __name__ == "__main__":
    main()
