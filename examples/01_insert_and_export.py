"""Find the blocks of a model, insert Context Broadcasting, export to ONNX and prove that the file computes the same.

    pip install 'cbsurgeon[timm,onnx]'
    python examples/01_insert_and_export.py

About fifteen seconds on two cores. The model is small and has random weights; any reference that `cbs.load` accepts
works.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cbsurgeon as cbs

OPTIONS = {"img_size": 64, "depth": 4, "embed_dim": 96, "num_heads": 3, "num_classes": 10}


def main() -> None:
    model = cbs.load("timm:deit_tiny_patch16_224", options=OPTIONS)
    found = cbs.inspect(model)
    print(found)

    recipe = cbs.plan(found, op="cb", layers="upper", pos="end")
    edited = cbs.insert(model, recipe)  # a new model; the input is untouched
    print(f"cb at the end of blocks {list(recipe.indices)}")

    with tempfile.TemporaryDirectory() as folder:
        saved = cbs.save(edited, Path(folder) / "edited.safetensors")
        again = cbs.load(str(saved))  # weights, architecture and recipe are in the one file
        made = cbs.export(again, Path(folder) / "edited.onnx")
        print(f"{made.path.name}: {made.bytes / 1e6:.1f} MB, {sum(map(bool, made.sites))} operators folded")
        verdict = cbs.verify(again, made.path)
        print(verdict)
        verdict.raise_if_failed()

    back = cbs.remove(edited)
    same = all(value.equal(back.module.state_dict()[key]) for key, value in model.module.state_dict().items())
    print(f"removed again: every weight is bit-equal: {same}")


if __name__ == "__main__":
    main()
