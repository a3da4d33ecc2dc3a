"""UperNet on ADE20K with a ViT-S backbone that has CB (section 4.3 of the paper).

    pip install 'cbsurgeon[hf,eval]'
    python examples/recipes/ade20k_upernet.py /data/ADEChallengeData2016 --backbone vit_s_cb.pth --out runs/ade20k

Data: images/training/*.jpg, annotations/training/*.png and the same under validation; a label image holds 0 for
everything else and 1 to 150 for the classes. Hyper-parameters are those of section 4.3, which takes XCiT's: 16 images a
step, AdamW with betas 0.9 and 0.999, rate 6e-5, weight decay 0.01, polynomial decay, 40,000 or 160,000 steps, head
width 384. Images are 512x512 with random scale 0.5 to 2 and flips, and the rate is warmed up for 1,500 steps: the
configuration of XCiT's and Swin's segmentation, which the paper names as its protocol.

The paper's rule for detection (section 4.4: no CB in blocks that feed the feature pyramid) is not stated for
segmentation. Choose the blocks with --layers; they are printed.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as functional
from torch import Tensor, nn
from torchvision.io import ImageReadMode, read_image
from transformers import BeitConfig, UperNetConfig, UperNetForSemanticSegmentation

import cbsurgeon as cbs

CLASSES, ELSE = 150, 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--op", default="cb", help="operator; none for the baseline")
    parser.add_argument("--layers", default="upper")
    parser.add_argument("--backbone", type=Path, help="state dict of the backbone, pre-trained with the same operator")
    parser.add_argument("--steps", type=int, default=160_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--width", type=int, default=384, help="channels of the backbone and the head")
    parser.add_argument("--rate", type=float, default=6e-5)
    parser.add_argument("--warmup", type=int, default=1_500)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class ADE20K(torch.utils.data.Dataset):
    """Images and labels of one part; those for training are scaled, cropped and flipped at random."""

    def __init__(self, root: Path, part: str, size: int) -> None:
        self.images = sorted((root / "images" / part).glob("*.jpg"))
        self.labels = [root / "annotations" / part / f"{image.stem}.png" for image in self.images]
        missing = [str(label) for label in self.labels if not label.is_file()]
        if not self.images or missing:
            raise SystemExit(f"{root / 'images' / part}: {len(self.images)} images, labels missing: {missing[:3]}")
        self.size, self.training = size, part == "training"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = read_image(str(self.images[index]), ImageReadMode.RGB)
        label = read_image(str(self.labels[index]), ImageReadMode.GRAY)
        scale = self.size / min(image.shape[-2:]) * (random.uniform(0.5, 2.0) if self.training else 1.0)
        sizes = [max(1, round(side * scale)) for side in image.shape[-2:]]
        image = functional.resize(image, sizes, antialias=True)
        label = functional.resize(label, sizes, functional.InterpolationMode.NEAREST)
        below, right = (max(0, self.size - side) for side in sizes)
        image, label = (functional.pad(one, [0, 0, right, below]) for one in (image, label))  # 0 is no class
        free = [side - self.size for side in image.shape[-2:]]
        top, left = (random.randint(0, one) if self.training else one // 2 for one in free)
        image, label = (one[:, top : top + self.size, left : left + self.size] for one in (image, label))
        if self.training and random.random() < 0.5:
            image, label = image.flip(-1), label.flip(-1)
        image = functional.normalize(image.float() / 255, MEAN, STD)
        return image, (label[0].long() - 1).masked_fill(label[0] == 0, ELSE)


def network(args: argparse.Namespace) -> nn.Module:
    """UperNet over a ViT of twelve blocks, whose features 4, 6, 8 and 12 are resized to a pyramid as in XCiT."""
    backbone = BeitConfig(
        image_size=args.size,
        hidden_size=args.width,
        num_attention_heads=args.width // 64,
        intermediate_size=4 * args.width,
        out_indices=[4, 6, 8, 12],
        add_fpn=True,
        reshape_hidden_states=True,
        use_absolute_position_embeddings=True,
        layer_scale_init_value=0.0,
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=args.width, num_labels=CLASSES, auxiliary_in_channels=args.width,
        loss_ignore_index=ELSE, use_auxiliary_head=True,
    )  # fmt: skip
    model = UperNetForSemanticSegmentation(config)
    if args.op != "none":
        cbs.insert_(model, op=args.op, layers=args.layers, inputs=torch.zeros(2, 3, args.size, args.size))
    print(f"blocks with an operator:\n{cbs.summary(model)}")
    if args.backbone is not None:
        state = torch.load(args.backbone, map_location="cpu", weights_only=True)
        model.backbone.load_state_dict(state)  # an error if keys, shapes or the recipe differ
    return model


def train(model: nn.Module, data: ADE20K, args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    optimizer = torch.optim.AdamW(cbs.parameter_groups(model, 0.01), lr=args.rate, betas=(0.9, 0.999))
    warmup = min(args.warmup, max(1, args.steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - min(1.0, step / args.steps))
    )
    chosen = torch.utils.data.RandomSampler(data, replacement=True, num_samples=args.steps * args.batch)
    loader = torch.utils.data.DataLoader(data, args.batch, sampler=chosen, num_workers=args.workers, drop_last=True)
    model.to(device).train()
    for step, (images, labels) in enumerate(loader, 1):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(images.to(device), labels=labels.to(device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step == 1 or step % max(1, args.steps // 100) == 0:
            print(f"step {step} of {args.steps}: loss {float(loss):.4f}", flush=True)


@torch.no_grad()
def mean_iou(model: nn.Module, data: ADE20K, args: argparse.Namespace) -> float:
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(CLASSES, ignore_index=ELSE)
    model.eval()
    for images, labels in torch.utils.data.DataLoader(data, args.batch, num_workers=args.workers):
        metric.update(model(images.to(args.device)).logits.argmax(1).cpu(), labels)
    return float(metric.compute())


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    training, validation = (ADE20K(args.data, part, args.size) for part in ("training", "validation"))
    model = network(args)
    train(model, training, args)
    torch.save({"model": model.state_dict()}, args.out / "last.pth")
    print(f"mean IoU on {len(validation)} images: {100 * mean_iou(model, validation, args):.2f} %")


if __name__ == "__main__":
    main()
