"""Train a small ViT with CB_S under Lightning, stop, resume, and read its checkpoint with one line.

    pip install 'cbsurgeon[timm]' pytorch-lightning scikit-learn
    python examples/09_train_lightning.py --out runs/lightning

Fifteen seconds. The checkpoint contains the recipe. Resuming a model with another recipe is refused when the weights
are loaded strictly, and ``cbs.load`` needs only the architecture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytorch_lightning as lightning
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import cbsurgeon as cbs

ARCHITECTURE = "vit_tiny_patch16_224"
SIZES = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10}
OPTIONS = {**SIZES, "embed_dim": 64, "depth": 4, "num_heads": 4}


class Classifier(lightning.LightningModule):
    """A ViT with operators as a ``LightningModule``."""

    def __init__(self, op: str = "cb_s") -> None:
        super().__init__()
        self.model = cbs.insert_(timm.create_model(ARCHITECTURE, **OPTIONS), op=op, layers="upper")

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(cbs.parameter_groups(self.model, 0.05), lr=3e-3)


def trainer(out: Path, steps: int) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=steps, default_root_dir=out, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    train = torch.utils.data.TensorDataset(images[:1437], labels[:1437])
    batches = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)

    lightning.seed_everything(0, verbose=False)
    first = trainer(args.out, args.steps // 2)
    first.fit(Classifier(), batches)
    checkpoint = args.out / "half.ckpt"
    first.save_checkpoint(checkpoint)

    try:
        trainer(args.out, args.steps).fit(Classifier(op="cb_gate"), batches, ckpt_path=checkpoint)
    except RuntimeError as refused:
        print(f"with another recipe: {'another recipe' in str(refused)}")

    second, module = trainer(args.out, args.steps), Classifier()
    second.fit(module, batches, ckpt_path=checkpoint)
    second.save_checkpoint(args.out / "last.ckpt")

    again = cbs.load(str(args.out / "last.ckpt"), arch=f"timm:{ARCHITECTURE}", options=OPTIONS).module
    with torch.no_grad():
        assert torch.equal(again(images[1437:]), module.model.eval()(images[1437:]))
        right = (again(images[1437:]).argmax(1) == labels[1437:]).float().mean()
    print(f"step {second.global_step}, test accuracy {100 * float(right):.1f} %")
    print(cbs.summary(again))


if __name__ == "__main__":
    main()
