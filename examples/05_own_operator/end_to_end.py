"""Insert an operator of your own, train one step, audit it, export to ONNX and verify the file.

    pip install 'cbsurgeon[timm,onnx]'
    python examples/05_own_operator/end_to_end.py

About fifteen seconds on two cores. The operator is in max_context.py beside this file. It is named by module and class,
so the module has to be importable: a script's own folder is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch
from torch import nn

import cbsurgeon as cbs

OPERATOR = "mod:max_context:MaxContext"


def main() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", depth=4, img_size=64, num_classes=10).eval()
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    plain = cbs.Model(module, (images,))

    recipe = cbs.plan(cbs.inspect(plain), op=OPERATOR, layers="upper", pos="end")
    edited = cbs.insert(plain, recipe)
    assert edited.module is not None
    with torch.no_grad():
        same = torch.equal(edited.module(images), module(images))
    print(f"inserted at blocks {list(recipe.indices)}; the identity before training: {same}")

    model = edited.module.train()
    optimizer = torch.optim.AdamW(cbs.parameter_groups(model, weight_decay=0.05), lr=1e-3)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    model.eval()
    moved = max(float(value.abs().max()) for name, value in model.named_parameters() if name.endswith(".scale"))
    print(f"trained one step: loss {loss.item():.3f}, largest scale {moved:.1e}")

    counted = cbs.audit(plain, edited)
    print(counted)
    for item in counted.b.inserted if counted.b else ():
        print(f"  {item.path}: {item.formula}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.onnx"
        for site in cbs.export(edited, path).sites:
            print(f"exported: {site.site} ({site.op}) is not folded: {site.reason}")
        verdict = cbs.verify(edited, path)
        print(verdict)
        verdict.raise_if_failed()


if __name__ == "__main__":
    main()
