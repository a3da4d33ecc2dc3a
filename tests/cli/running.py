"""Running the command line in this process, and tiny real models for it."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cbsurgeon import Model
from cbsurgeon.cli import main

VIT = "mod:tests.cli.running:tiny_vit"
TIMM = "timm:deit_tiny_patch16_224"
CONVOLUTIONS = "mod:tests.cli.running:convolutions"
TRAINING = "mod:tests.cli.running:training_vit"
SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 10}


@dataclass(frozen=True)
class Outcome:
    """What a run left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Stdout as the one JSON document it must be."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def run(*words: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


def tiny_vit() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Two blocks of a DeiT, 17 tokens."""
    import timm

    return timm.create_model("deit_tiny_patch16_224", **SMALL).eval(), (torch.randn(2, 3, 64, 64),)


def training_vit() -> Model:
    """The same, left in training mode; a Model that a factory returns is used unchanged."""
    module, inputs = tiny_vit()
    return Model(module.train(), inputs)


def convolutions() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A network without an MLP block."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 12 * 12, 5))
    return module.eval(), (torch.randn(2, 3, 16, 16),)
