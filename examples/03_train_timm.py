"""Train a timm model with CB_S the way timm trains: mixup, drop path, timm's optimizer, schedule and averaged weights.

    pip install 'cbsurgeon[timm,onnx]' scikit-learn
    python examples/03_train_timm.py --out runs/timm
    python examples/03_train_timm.py --out runs/timm --steps 40 --amp --recipe mine.json

Half a minute on two cores. The recipe is a file, made once from the architecture, or from a checkpoint of it:

    cbsurgeon insert model.pth.tar --op cb_s --layers upper --dry-run --recipe-out mine.json

and one line of the script inserts it into the model. Files written under --out: recipe.json, last.pth.tar (a checkpoint
of timm), model.safetensors (the averaged weights, with architecture and recipe), model.onnx.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import cbsurgeon as cbs

NAME, CLASSES, BATCH = "vit_tiny_patch16_224", 10, 64
OPTIONS = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 10,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="folder for all output files")
    parser.add_argument("--recipe", type=Path, help="a recipe file; made by default")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 autocast (slow on a CPU without it)")
    return parser.parse_args()


def pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,797 digits as ``[N, 1, 8, 8]``, centred, split 4 : 1 into training and test."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 8 - 1
    y = torch.tensor(data.target)[order]
    cut = len(y) * 4 // 5
    return x[:cut], y[:cut], x[cut:], y[cut:]


def train(module: nn.Module, x: Tensor, y: Tensor, steps: int, amp: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train; return the averaged model, and the optimizer for a checkpoint."""
    # timm applies no weight decay to vectors, such as the new scales; without timm, use cbs.parameter_groups.
    optimizer = create_optimizer_v2(module, opt="adamw", lr=2e-3, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=steps, warmup_t=steps // 10, warmup_lr_init=1e-4)
    averaged = ModelEmaV3(module, decay=0.98, use_warmup=True)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=0.5, prob=0.5, label_smoothing=0.1, num_classes=CLASSES)
    criterion = SoftTargetCrossEntropy()
    losses = []
    for step in range(steps):
        rows = torch.randint(len(y), (BATCH,))
        images, targets = mixup(x[rows].clone(), y[rows])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            loss = criterion(module(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step(step + 1)
        averaged.update(module, step=step)
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 6) == 0:
            recent = losses[-max(1, steps // 6) :]
            print(f"step {step + 1}: loss {sum(recent) / len(recent):.3f}")
    return averaged.module, optimizer


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    x, y, test_x, test_y = pictures()

    fresh = cbs.load(f"timm:{NAME}", options=OPTIONS)
    recipe_file = args.recipe or args.out / "recipe.json"
    if args.recipe is None:
        recipe_file.write_text(cbs.plan(cbs.inspect(fresh), op="cb_s", layers="upper").to_json())

    module = timm.create_model(NAME, **OPTIONS, proj_drop_rate=0.1, drop_path_rate=0.1)
    cbs.insert_(module, cbs.Recipe.from_json(recipe_file.read_text()))  # the one line, before the optimizer is made
    averaged, optimizer = train(module.train(), x, y, args.steps, args.amp)

    checkpoint = {"arch": NAME, "state_dict": module.state_dict(), "state_dict_ema": averaged.state_dict()}
    torch.save({**checkpoint, "optimizer": optimizer.state_dict(), "steps": args.steps}, args.out / "last.pth.tar")

    # Weights, architecture and recipe in one safe file that can be loaded without this script.
    trained = replace(fresh, module=averaged.eval(), recipes=())
    path = cbs.save(trained, args.out / "model.safetensors", force=True)
    again = cbs.load(str(path))
    with torch.no_grad():
        assert torch.equal(again.module(test_x), averaged(test_x))
        right = (again.module(test_x).argmax(1) == test_y).float().mean()
    print(f"test accuracy {100 * float(right):.1f} % on {len(test_y)} digits (averaged weights, from {path})")

    onnx = args.out / "model.onnx"
    cbs.export(again, onnx, force=True)
    proof = cbs.verify(again, onnx, inputs={"x": test_x[:7]})
    print(proof)
    proof.raise_if_failed()


if __name__ == "__main__":
    main()
