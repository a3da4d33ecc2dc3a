"""Bisection finds a fault planted in block k in block k."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon import graph
from cbsurgeon.checks import bisect, end_nodes, verify
from cbsurgeon.deploy import Export, export_onnx
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.models.model import Model
from tests.checks import faults

ARCHITECTURES = list(faults.BUILDERS)

# Every fault once, every architecture and every block among them; the whole table is slow.
DIAGONAL = {
    (fault, ARCHITECTURES[place % len(ARCHITECTURES)], (2 * place + 1) % faults.BLOCKS)
    for place, fault in enumerate(faults.FAULTS)
}
TABLE = [
    pytest.param(fault, name, block, marks=() if (fault, name, block) in DIAGONAL else pytest.mark.slow)
    for fault in faults.FAULTS
    for name in ARCHITECTURES
    for block in range(faults.BLOCKS)
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_onnx(faults.planted("vit"), tmp_path_factory.mktemp("bisect") / "m.onnx")


@pytest.mark.parametrize(("fault", "name", "block"), TABLE)
def test_the_planted_block_is_returned(fault: str, name: str, block: int) -> None:
    found = bisect(faults.program(name), faults.faulty(name, block, fault))
    assert found.block == faults.block_path(name, block), str(found)
    assert found.before is not None
    assert found.after is not None
    assert not found.after <= found.before  # an overflow's error is no number
    if fault != "overflow":
        assert found.before <= found.gaps[0].allowed, "up to that block only rounding differs"
        assert found.would_pass_at == found.after


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equal_models_have_no_bad_block(name: str) -> None:
    assert bisect(faults.planted(name), faults.planted(name), backends=(None, "folded"))


def test_a_correct_file_passes(exported: Export) -> None:
    assert bisect(faults.planted("vit"), exported.path)


class ByKeyword(nn.Module):
    """A model that is called with keywords, in another order than its parameters'."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, shift: Tensor | None = None, x: Tensor | None = None, absent: Tensor | None = None) -> Tensor:
        assert x is not None and shift is not None
        x = x + self.first(x)
        return x + self.second(x - shift)


def test_inputs_by_keyword(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(2, 5, 8), "shift": torch.randn(2, 5, 8)}
    model = Model(ByKeyword().eval(), (), example_kwargs=inputs)
    made = export_onnx(model, tmp_path / "m.onnx")
    assert bisect(model, made.path)
    wrong = ByKeyword().eval()
    wrong.load_state_dict({**model.module.state_dict(), "second.bias": torch.ones(8)})
    found = bisect(model, Model(wrong, (), example_kwargs=inputs))
    assert not found
    assert found.before == 0


class Named(nn.Module):
    """Two residual layers whose input is called x."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return x + self.second(x)


class NamedOtherwise(Named):
    """The same, with an input that is called tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens)


class Shifted(Named):
    """The same, with a second input."""

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return super().forward(x) * shift


def test_inputs_of_other_names_are_the_same_by_order() -> None:
    inputs = (torch.randn(2, 5, 8),)
    left, right = Model(Named().eval(), inputs), Model(NamedOtherwise().eval(), inputs)
    assert bisect(left, right) and bisect(right, left)
    wrong = NamedOtherwise().eval()
    with torch.no_grad():
        wrong.second.bias += 1
    found = bisect(left, Model(wrong, inputs))
    assert not found and found.before == 0
    assert not verify(left, Model(wrong, inputs), bisect=True)


def test_another_number_of_inputs_is_an_error(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    left, right = Model(Named().eval(), inputs[:1]), Model(Shifted().eval(), inputs)
    file = export_onnx(right, tmp_path / "m.onnx").path
    for pair in ((left, right), (right, left), (left, file)):
        with pytest.raises(UsageError) as caught:
            bisect(*pair)
        assert caught.value.code == "CB-RUN-01"


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("fault", ["axis", "scale", "absent", "overflow"])
def test_an_exported_fault_is_found(name: str, fault: str, tmp_path: Path) -> None:
    model = faults.planted(name, 1, faults.FAULTS[fault])
    overflow = fault == "overflow"
    path = export_onnx(faults.overflowing(model) if overflow else model, tmp_path / "m.onnx", fold=not overflow).path
    found = verify(faults.planted(name), path, batches=(2,), bisect=True)
    assert found.first_bad_block is not None
    assert found.first_bad_block.startswith(faults.block_path(name, 1)), str(found)


def test_verify_names_the_mlp_of_the_block(tmp_path: Path) -> None:
    path = export_onnx(faults.planted("vit", 1, faults.OnePerCent), tmp_path / "m.onnx").path
    found = verify(faults.planted("vit"), path, batches=(2,), bisect=True)
    assert found.first_bad_block == "blocks.1.mlp"
    assert [gap.block for gap in found.bisection.gaps] == ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"]
    with pytest.raises(CheckFailed) as caught:
        found.raise_if_failed()
    assert "blocks.1.mlp" in caught.value.where
    assert found.to_dict()["first_bad_block"] == "blocks.1.mlp"


def test_blocks_may_be_given() -> None:
    blocks = end_nodes(graph.inspect(faults.planted("vit")))
    found = bisect(faults.program("vit"), faults.faulty("vit", 2, "absent"), blocks=blocks)
    assert found.block == "blocks.2.mlp"


def test_models_with_other_streams_are_an_error() -> None:
    inputs = faults.program("vit").with_batch(2)
    with pytest.raises(CheckFailed) as caught:
        bisect(faults.program("vit"), faults.program("swin"), inputs=inputs)
    assert caught.value.code == "CB-BISECT-04"


def test_refusals(exported: Export, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        bisect(exported.path, exported.path)
    assert caught.value.code == "CB-BISECT-01"
    with pytest.raises(UsageError) as caught:
        bisect(faults.program("vit"), tmp_path / "m.engine")
    assert caught.value.code == "CB-BISECT-02"
    assert "ONNX file it was built from" in caught.value.do
    with pytest.raises(UsageError) as caught:
        bisect(faults.program("vit"), faults.program("vit"), blocks=[("nowhere", "blocks.9")])
    assert caught.value.code == "CB-BISECT-03"
