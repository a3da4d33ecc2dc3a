"""What timm's scripts do with ``--model cbsurgeon``: create, save with averaged weights, resume, read back.

The reference is the architecture with the recipe inserted by hand.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from tests.training.networks import images, recipe

timm = pytest.importorskip("timm", reason="the scripts are timm's")

ROOT = Path(__file__).parents[2]
BUILD = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
OF = "vit_tiny_patch16_224"


def parsed(*words: str) -> dict[str, Any]:
    """``--model-kwargs`` as timm's scripts read it."""
    from timm.utils import ParseKwargs

    parser = argparse.ArgumentParser()
    parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
    build = [f"{key}={value}" for key, value in BUILD.items()]
    found: dict[str, Any] = parser.parse_args(["--model-kwargs", *words, *build]).model_kwargs
    return found


def created(**keywords: Any) -> nn.Module:
    import cbsurgeon.integrations.timm  # noqa: F401 - what --device-modules does

    module: nn.Module = timm.create_model("cbsurgeon", num_classes=5, drop_rate=0.0, bn_eps=None, **keywords)
    return module


def answer(module: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = module.eval()(images())
    return out


def test_created_as_by_hand() -> None:
    module = created(**parsed(f"of={OF}", "layers=0,1", "op=cb_s", "op_initial=0.3"))
    assert [(each.index, each.op) for each in cbs.summary(module).operators] == [(0, "cb_s"), (1, "cb_s")]
    other = cbs.insert_(timm.create_model(OF, num_classes=5, **BUILD), recipe("vit", "cb_s"))
    other.load_state_dict(module.state_dict())
    assert torch.equal(answer(module), answer(other))
    assert module.pretrained_cfg["architecture"] == OF  # the data configuration is the architecture's


@pytest.mark.parametrize(
    ("word", "index"), [("layers=upper", [1]), ("layers=0", [0]), ("layers=all", [0, 1]), ("exclude=0", [1])]
)
def test_selectors_that_python_reads_otherwise(word: str, index: list[int]) -> None:
    module = created(**parsed(f"of={OF}", word))
    assert [each.index for each in cbs.summary(module).operators] == index


def test_a_recipe_instead_of_a_choice(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(recipe("vit").without(0).to_json())
    module = created(**parsed(f"of={OF}", f"recipe={file}"))
    assert [each.index for each in cbs.summary(module).operators] == [1]
    for words in ((f"of={OF}", f"recipe={file}", "op=cb"), ("op=cb",)):
        with pytest.raises(cbs.CBSurgeonError, match="CB-REF-07"):
            created(**parsed(*words))


def test_a_checkpoint_with_averaged_weights_needs_nothing_else(tmp_path: Path) -> None:
    from timm.models import resume_checkpoint
    from timm.utils import CheckpointSaver, ModelEmaV3

    keywords = parsed(f"of={OF}", "layers=upper", "op=cb")
    module = created(**keywords)
    averaged = ModelEmaV3(copy.deepcopy(module), decay=0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    averaged.update(module, step=5)
    optimizer = torch.optim.AdamW(module.parameters())
    args = argparse.Namespace(model="cbsurgeon", num_classes=5, model_kwargs=keywords, input_size=[3, 32, 32], lr=0.1)
    saver = CheckpointSaver(module, optimizer, args=args, model_ema=averaged, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    last = tmp_path / "last.pth.tar"
    again = created(**keywords)
    assert resume_checkpoint(again, str(last), log_info=False) == 1
    assert torch.equal(answer(again), answer(module))
    for entry, expected in (("state_dict", module), ("state_dict_ema", averaged.module)):
        loaded = cbs.load(last, entry=entry)
        assert loaded.module is not None and torch.equal(answer(loaded.module), answer(expected))
        assert loaded.provenance.architecture == f"timm:{OF}"
        assert loaded.recipes[0]["op"] == "cb" and len(cbs.summary(loaded.module)) == 1


def test_a_trained_model_is_shipped_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ship proves its ONNX file with it")
    keywords = parsed(f"of={OF}", "layers=upper", "op=cb")
    module = created(**keywords)
    args = argparse.Namespace(model="cbsurgeon", num_classes=5, model_kwargs=keywords)
    file, out = tmp_path / "last.pth.tar", tmp_path / "out"
    torch.save({"arch": "cbsurgeon", "args": args, "state_dict": module.state_dict()}, file)
    shipment = cbs.ship(cbs.load(file), out, bench_budget=0, engine=False)
    assert shipment and shipment.warnings == ()
    document = next(each for each in shipment.document["documents"] if each["schema"] == "cbsurgeon.insert/1")
    assert (document["op"], document["chosen"]) == ("cb", [1])
    shipped = cbs.load(out / "model.safetensors").module
    assert shipped is not None and torch.equal(answer(shipped), answer(module))
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-03"):
        cbs.ship(cbs.load(file), tmp_path / "twice", layers="all", bench_budget=0, engine=False)


@pytest.mark.wide
def test_a_script_without_device_modules(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, timm\nprint(timm.is_model('cbsurgeon'), __name__, sys.argv[1:])\n")
    command = [sys.executable, "-W", "ignore", "-m", "cbsurgeon.integrations.timm"]
    done = subprocess.run([*command, str(script), "--data", "x"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True __main__ ['--data', 'x']\n", done.stderr[-500:]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "usage:" in done.stderr
