"""Distil a teacher into a DeiT with its distillation token, with CB in the student, in a plain loop.

    pip install 'cbsurgeon[timm,onnx]' scikit-learn
    python examples/10_distill.py

Fifteen seconds. The student has two prefix tokens; both belong to the mean, as in the paper's distilled models. While
training its two heads learn from the labels and from the teacher's decisions (hard distillation, DeiT equation 3), and
afterwards their outputs are averaged.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import cbsurgeon as cbs

SIZES = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10}


def teacher(images: Tensor, labels: Tensor) -> nn.Module:
    """A small convolutional network, trained on the labels."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for chosen in order(len(labels), 60):
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def order(count: int, steps: int) -> list[Tensor]:
    return [torch.randint(count, (64,)) for _ in range(steps)]


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    known, of_known = images[:1437], labels[:1437]
    guide = teacher(known, of_known)

    student = timm.create_model("deit_tiny_distilled_patch16_224", embed_dim=64, depth=4, num_heads=4, **SIZES)
    cbs.insert_(student, op="cb", layers="upper", inputs=known[:2])
    student.set_distilled_training(True)
    optimizer = torch.optim.AdamW(cbs.parameter_groups(student, 0.05), lr=3e-3)
    student.train()
    for chosen in order(len(known), 120):
        by_class, by_distillation = student(known[chosen])
        with torch.no_grad():
            decided = guide(known[chosen]).argmax(1)
        loss = nn.functional.cross_entropy(by_class, of_known[chosen])
        loss = 0.5 * loss + 0.5 * nn.functional.cross_entropy(by_distillation, decided)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    student.eval().set_distilled_training(False)
    with torch.no_grad():
        right = (student(images[1437:]).argmax(1) == labels[1437:]).float().mean()
    print(f"test accuracy {100 * float(right):.1f} %")
    model = cbs.Model(student, (images[:2],))
    (block, *_) = cbs.inspect(model)
    print(f"{block.tokens} tokens: 16 patches, the class token and the distillation token")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        cbs.export(model, path)
        cbs.verify(model, path).raise_if_failed()
        print("ONNX Runtime computes the same")


if __name__ == "__main__":
    main()
