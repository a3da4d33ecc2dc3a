"""Train a transformers ViT with CB_S under ``Trainer``, and take the averaged weights to ONNX.

    pip install 'cbsurgeon[hf,onnx]' accelerate scikit-learn
    python examples/04_train_hf.py --out runs/hf
    python examples/04_train_hf.py --out runs/hf --steps 40 --bf16

Half a minute on two cores. Files written under --out: recipe.json, checkpoint-N and last (folders of the Trainer),
model.safetensors (the averaged weights, with architecture and recipe), model.onnx.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import cbsurgeon as cbs

CLASS = "ViTForImageClassification"
OPTIONS = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "num_labels": 10,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="folder for all output files")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 autocast (slow on a CPU without it)")
    return parser.parse_args()


class Digits(torch.utils.data.Dataset):
    """Digits in the format of the Trainer: one dictionary per image."""

    def __init__(self, part: slice) -> None:
        data = load_digits()
        order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
        self.x = (torch.tensor(data.images, dtype=torch.float32)[order, None] / 8 - 1)[part]
        self.y = torch.tensor(data.target)[order][part]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.x[index], "labels": self.y[index]}


class Averaging(transformers.TrainerCallback):
    """An exponential average of the weights, in a deep copy of the model, after every step."""

    def __init__(self, module: nn.Module) -> None:
        self.averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.98))

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self.averaged.update_parameters(model)


def train(module: nn.Module, args: argparse.Namespace, data: Digits) -> tuple[transformers.Trainer, nn.Module]:
    """Train; return the trainer and the averaged model."""
    settings = transformers.TrainingArguments(
        output_dir=str(args.out),
        max_steps=args.steps,
        per_device_train_batch_size=64,
        logging_steps=max(1, args.steps // 6),
        save_steps=args.steps,
        bf16=args.bf16,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    # By default, the Trainer decides by names and would apply weight decay to the new scales.
    optimizer = torch.optim.AdamW(cbs.parameter_groups(module, 0.05), lr=1e-3)
    averaging = Averaging(module)
    trainer = transformers.Trainer(
        module, settings, train_dataset=data, optimizers=(optimizer, None), callbacks=[averaging]
    )
    trainer.train()
    return trainer, averaging.averaged.module


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data, test = Digits(slice(None, 1437)), Digits(slice(1437, None))

    fresh = cbs.load(f"hf:{CLASS}", options=OPTIONS)
    recipe = cbs.plan(cbs.inspect(fresh), op="cb_s", layers="upper")
    (args.out / "recipe.json").write_text(recipe.to_json())

    module = transformers.ViTForImageClassification(transformers.ViTConfig(**OPTIONS, hidden_dropout_prob=0.1))
    cbs.insert_(module, recipe)  # the one line, before the optimizer is made
    trainer, averaged = train(module, args, data)

    # config.json in the folder contains the recipe, so cbs.load inserts the operators before it loads the weights.
    trainer.save_model(str(args.out / "last"))
    last = cbs.load(f"hf:{args.out / 'last'}").module
    with torch.no_grad():
        assert torch.equal(last(test.x).logits, module.eval()(test.x).logits)

    # Weights, architecture and recipe in one safe file that can be loaded without this script.
    path = cbs.save(replace(fresh, module=averaged.eval(), recipes=()), args.out / "model.safetensors", force=True)
    again = cbs.load(str(path))
    with torch.no_grad():
        right = (again.module(test.x).logits.argmax(1) == test.y).float().mean()
    print(f"test accuracy {100 * float(right):.1f} % on {len(test)} digits (averaged weights, from {path})")

    onnx = args.out / "model.onnx"
    cbs.export(again, onnx, force=True)
    proof = cbs.verify(again, onnx, inputs={"pixel_values": test.x[:7]})
    print(proof)
    proof.raise_if_failed()


if __name__ == "__main__":
    main()
