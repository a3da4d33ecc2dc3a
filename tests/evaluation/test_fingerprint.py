"""The fingerprint that decides whether an evaluation can be resumed changes with every change of a model."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from cbsurgeon.deploy import export_onnx
from cbsurgeon.evaluation.side import Side, open_side
from cbsurgeon.models import Model


def layer(rows: list[int]) -> Model:
    torch.manual_seed(0)
    module = nn.Linear(256, 4)
    with torch.no_grad():
        module.weight.copy_(torch.arange(1024.0).reshape(4, 256)[rows])
    return Model(module.eval(), (torch.randn(2, 256),))


def opened(target: Model | Path) -> Side:
    return open_side(target, "a", device="cpu", trust=False)


def test_exchanged_rows_change_it() -> None:
    """Their sums stay the same."""
    straight, turned = layer([0, 1, 2, 3]), layer([1, 0, 2, 3])
    assert straight.module is not None and turned.module is not None
    assert straight.module.weight.sum() == turned.module.weight.sum()
    assert opened(straight).fingerprint() == opened(layer([0, 1, 2, 3])).fingerprint()
    assert opened(straight).fingerprint() != opened(turned).fingerprint()


def test_external_weights_change_it(tmp_path: Path) -> None:
    path = export_onnx(layer([0, 1, 2, 3]), tmp_path / "m.onnx", external_data=True).path
    data = tmp_path / "m.onnx.data"
    before, side = data.stat(), opened(path)
    first = side.fingerprint()
    data.write_bytes(bytes(reversed(data.read_bytes())))
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert side.fingerprint() != first
