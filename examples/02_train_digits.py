"""Train a small ViT with Context Broadcasting on scikit-learn's digits, then ship the trained weights.

    pip install 'cbsurgeon[timm,onnx]' scikit-learn
    python examples/02_train_digits.py

About a minute on two cores. The recipe is made once, and one line inserts it into the model in a training script.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import cbsurgeon as cbs

EPOCHS, BATCH, RATE, DECAY = 15, 64, 2e-3, 0.05


def build() -> nn.Module:
    """A ViT of 4 blocks on 8 x 8 pictures, with dropout and drop path as in training."""
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=64,
        depth=4,
        num_heads=4,
        num_classes=10,
        proj_drop_rate=0.1,
        drop_path_rate=0.1,
    )


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay for matrices only; ``scale`` of CB_S is a vector and gets none."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]


def pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,797 digits as ``[N, 1, 8, 8]`` in [0, 1], split 4 : 1 into training and test."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(data.target)[order]
    cut = len(y) * 4 // 5
    return x[:cut], y[:cut], x[cut:], y[cut:]


def main() -> None:
    torch.manual_seed(0)
    x, y, test_x, test_y = pictures()

    sample = cbs.Model(build().eval(), (x[:2],))
    recipe = cbs.plan(cbs.inspect(sample), op="cb", layers="upper", pos="end")

    model = cbs.insert_(build(), recipe).train()  # the one line
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=RATE)
    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(y)).split(BATCH):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")

    model.eval()
    with torch.no_grad():
        right = (model(test_x).argmax(1) == test_y).float().mean()
    print(f"test accuracy {100 * float(right):.1f} % on {len(test_y)} digits")

    trained = cbs.Model(model, (x[:2],))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        cbs.export(trained, path)
        print(cbs.verify(trained, path, inputs={"x": test_x[:7]}))


if __name__ == "__main__":
    main()
