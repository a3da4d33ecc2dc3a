"""Signatures, outputs and failures of capture; the references are the networks themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.deploy import open_runtime
from cbsurgeon.errors import CaptureError
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.wild.test_c_copies import CLOSE, WIDTH, Block, Net, by_hand, tokens


class Wrapper(nn.Module):
    """Passes on all of its arguments, as adapters of whole models do."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Net()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base(*args, **kwargs)


class NamedInput(Net):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class ManyOutputs(Net):
    def forward(self, x: Tensor) -> Any:
        return {"last": super().forward(x), "length": x.shape[1], "weights": None}


def sequential() -> nn.Module:
    return nn.Sequential(Block(), Block(), nn.LayerNorm(WIDTH))


def last(answer: Any) -> Tensor:
    return answer["last"] if isinstance(answer, dict) else answer


@pytest.mark.parametrize("build", [Wrapper, NamedInput, ManyOutputs, sequential])
@pytest.mark.parametrize("on", ["module", "program"])
def test_unusual_signatures_and_outputs(build: Callable[[], nn.Module], on: str) -> None:
    torch.manual_seed(0)
    net = build().eval()
    model = Model(net, (tokens(),))
    found = cbs.inspect(model)
    assert len(found.blocks) == 2
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all"), on=on)  # type: ignore[arg-type]
    x = tokens(3)
    with torch.no_grad():
        got = edited.module(x) if edited.module is not None else edited.program.module()(x)  # type: ignore[union-attr]
    assert (last(got) - last(by_hand(net, x))).abs().max() < CLOSE


def test_keyword_inputs_of_a_forward_that_takes_any() -> None:
    torch.manual_seed(0)
    net = Wrapper().eval()
    model = Model(net, (), example_kwargs={"x": tokens()})
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"))
    assert edited.module is not None
    with torch.no_grad():
        assert (edited.module(x=tokens(3)) - by_hand(net, tokens(3))).abs().max() < CLOSE


class Functional(nn.Module):
    """All code is in one forward() with a decision by a value, so that no part of it can be captured either."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum().item() > 0:  # a value decides
            x = 2 * x
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


def test_a_failed_capture_names_the_line_and_never_says_that_there_is_no_mlp() -> None:
    with pytest.raises(CaptureError) as caught:
        cbs.inspect(Model(Functional().eval(), (tokens(),)))
    assert "capture failed because" in caught.value.what
    assert "test_c_capture.py" in caught.value.where and "if x.sum().item() > 0" in caught.value.where


class InPlace(Net):
    """Normalises its input in place, as some preprocessing inside forward() does."""

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        return super().forward(x)


def test_inputs_that_the_model_writes_into_stay_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = InPlace().eval(), tokens()
    kept = x.clone()
    model = Model(module, (x,))
    with torch.no_grad():
        expected = module(x.clone())
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), layers="all"))
    assert torch.equal(capture(model).run({"x": x})["output"], expected)
    assert cbs.verify(model, model) and not cbs.verify(model, edited)
    cbs.export(edited, tmp_path / "m.onnx")
    assert cbs.verify(edited, tmp_path / "m.onnx")
    with open_runtime(model) as eager:
        assert torch.equal(eager.run({"x": x})["output"], expected)
        run = eager.prepare({"x": x})
        run()
        assert torch.equal(run()["output"], expected)  # type: ignore[index]
    cbs.audit(model, edited)
    assert torch.equal(x, kept)
