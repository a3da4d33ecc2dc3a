"""Memory limits of models: small files that describe large models are refused before memory is allocated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cbsurgeon import Loading, Model, load, save
from cbsurgeon.errors import UsageError
from cbsurgeon.models import memory
from cbsurgeon.models.model import Provenance

ROOT = Path(__file__).parents[2]
SMALL = {"img_size": 64, "depths": [1, 1], "embed_dim": 24, "num_heads": [2, 2], "num_classes": 3, "window_size": 4}
SWIN = "swin_tiny_patch4_window7_224"
MOST_ABOVE = 1 << 20
"""Kilobytes that a refused model may add to the process: a tensor is known to be too large when it is there, unless
its size is given. What the file asks for is above 3 GB."""


def hostile(path: Path) -> Path:
    """A small Swin whose file says that its images have 8192 pixels: masks and inputs of gigabytes, the same keys."""
    import timm

    module = timm.create_model(SWIN, **SMALL).eval()
    origin = Provenance("x", f"timm:{SWIN}", {**SMALL, "img_size": 8192})
    return save(Model(module, (torch.randn(2, 3, 64, 64),), origin), path)


def test_a_small_file_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    path = hostile(tmp_path / "small.safetensors")
    assert path.stat().st_size < 1 << 20
    code = (
        "import resource, sys, timm; from cbsurgeon import cli\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "code = cli.main(['inspect', sys.argv[1]])\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=ROOT, check=True)
    exit_code, added = map(int, done.stdout.split())
    assert exit_code == 2 and "CB-LOAD-26" in done.stderr
    assert added < MOST_ABOVE


def test_the_limit_can_be_set_and_lifted() -> None:
    weights = load(f"timm:{SWIN}", options=SMALL).module
    assert isinstance(weights, nn.Module)
    held = sum(tensor.nbytes for tensor in (*weights.parameters(), *weights.buffers()))
    load(f"timm:{SWIN}", options=SMALL, max_memory=2 * held + 2 * 3 * 64 * 64 * 4)
    with pytest.raises(UsageError, match="CB-LOAD-26"):
        load(f"timm:{SWIN}", options=SMALL, max_memory=held // 2)
    with pytest.raises(UsageError, match="CB-LOAD-26"):
        load(f"timm:{SWIN}", Loading(options=SMALL, input="3x64x64", batch=10_000, max_memory=2 * held))


def test_parameters_count_once_and_before_they_are_written() -> None:
    with memory.limited(5000, "here"):
        one = nn.Linear(20, 50)  # 4200 bytes with its bias
        nn.Sequential(one, nn.ReLU(), one)
    with pytest.raises(UsageError, match="CB-LOAD-26"), memory.limited(4000, "here"):
        nn.Linear(20, 50)
    with pytest.raises(UsageError, match="single tensor"), memory.limited(4000, "here"):
        torch.zeros(1001)
    with memory.limited(4000, "here", temporaries=False):
        torch.zeros(1001)
    nn.Linear(200, 50)


def test_a_folder_is_bounded_by_its_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    pytest.importorskip("transformers", reason="folders are its own")
    config = {"architectures": ["ViTModel"], "model_type": "vit", "image_size": 8192, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="CB-LOAD-26"):
        load(f"hf:{tmp_path}", options={"num_hidden_layers": 1000, "intermediate_size": 4096})
