"""The coefficients of inserted operators: errors of a few per cent are found, although rounding is larger."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import cbsurgeon as cbs
from cbsurgeon.checks import verify
from cbsurgeon.checks.parity.inserted import comparing
from cbsurgeon.checks.parity.inserted.coefficients import LEAST, Estimate, estimate
from cbsurgeon.checks.parity.inserted.comparing import _estimated
from cbsurgeon.checks.parity.inserted.effect import Effect, Operators
from cbsurgeon.checks.parity.reference import Reference
from cbsurgeon.checks.parity.row import Side
from cbsurgeon.deploy import export_onnx
from cbsurgeon.deploy.casting import DTYPES, cast
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.operators import CB
from tests.checks import faults

OFF = 0.05
"""By this much, the token mean of the wrong operators is too large."""


class TooMuchMean(CB):
    """``0.5 x + 0.525 mean``: 1.05 times the operator minus 0.025 times its input."""

    def _mix(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        return 0.5 * x + 0.5 * (1.0 + OFF) * self.context(x, hidden)


@cache
def edited(kind: type[CB] = CB) -> Model:
    """A small ViT with 100 classes and CB in both blocks, or with other operators in their places."""
    torch.manual_seed(0)
    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=64, num_heads=2, num_classes=100
    )
    example = (torch.randn(2, 3, 32, 32),)
    plain = Model(module.eval(), example)
    right = cbs.insert(plain, cbs.plan(cbs.inspect(plain), op="cb", layers="all", pos="end"))
    changed = copy.deepcopy(right.module)
    for part in changed.modules():
        if isinstance(part, CB):
            part.__class__ = kind
    return Model(changed, example)


def effect(samples: int = 2, numbers: int = 400) -> Effect:
    generator = torch.Generator().manual_seed(0)
    full, removal, result, source = torch.randn(4, samples, numbers, generator=generator, dtype=torch.float64)
    return Effect("output", 0, full, removal, result, source, torch.ones_like(full, dtype=torch.bool))


def test_the_coefficients_are_found_exactly_without_noise() -> None:
    one = effect()
    output = one.full + 0.05 * one.result - 0.025 * one.source
    found = estimate(output, one, one.full)
    assert found.found == pytest.approx((0.05, -0.025))
    assert found.limits == (LEAST, LEAST) and not found.ok
    assert "1.050 times their result and -0.025 times their input" in str(found)


def test_noise_in_other_directions_is_no_coefficient() -> None:
    """A thousand models with independent noise ten times as large as the effect of a coefficient of 0.1."""
    one = effect()
    generator = torch.Generator().manual_seed(1)

    def noisy() -> Tensor:
        return one.full + torch.randn(one.full.shape, generator=generator, dtype=torch.float64)

    rounded = noisy()
    estimates = [estimate(noisy(), one, rounded) for _ in range(1000)]
    assert sum(not found.ok for found in estimates) == 0
    assert max(*estimates[0].limits) < 0.5


def test_directions_that_are_one_leave_no_coefficient_undefined() -> None:
    """An operator that computes the identity: only the sum of both coefficients matters, and it is found."""
    one = effect()
    same = Effect("output", 0, one.full, one.removal, one.result, one.result, one.known)
    found = estimate(one.full + 0.1 * one.result, same, one.full)
    assert sum(found.found) == pytest.approx(0.1)


def test_the_derivatives_are_those_of_hand_written_operators() -> None:
    """Each operator is a child module of the ViT, so its formula can be changed there."""
    right, x = edited(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    (found,) = Operators(Reference(capture(right))).effect({"x": x})
    module = copy.deepcopy(right.module).double()

    class Changed(CB):
        a, b = 0.0, 0.0

        def _mix(self, x: Tensor, hidden: Tensor | None) -> Tensor:
            return (1.0 + self.a) * (0.5 * x + 0.5 * x.mean(1, keepdim=True)) + self.b * x

    for part in module.modules():
        if isinstance(part, CB):
            part.__class__ = Changed

    def run(a: float, b: float) -> Tensor:
        Changed.a, Changed.b = a, b
        with torch.no_grad():
            return module(x.double())

    step = 1e-4
    assert torch.allclose(found.full, run(0.0, 0.0), atol=1e-12)
    assert torch.allclose(found.full + found.removal, run(-1.0, 1.0), atol=1e-12)
    for derivative, (a, b) in ((found.result, (step, 0.0)), (found.source, (0.0, step))):
        exact = (run(a, b) - run(-a, -b)) / (2 * step)
        # The package's derivative is a difference over a step of 0.01: its error is of that size.
        assert (derivative - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_operators_that_are_off_by_five_per_cent_are_found(dtype: str, tmp_path: Path) -> None:
    right = export_onnx(edited(), tmp_path / "right.onnx", dtype=dtype).path
    found = verify(edited(), right)
    assert found.ok, str(found)
    found = verify(edited(), cast(capture(edited(TooMuchMean)), DTYPES[dtype]))
    assert not found.ok
    assert len(found.failures) == 1 and "in output 'output', the inserted operators compute 1.0" in found.failures[0]
    if dtype == "bfloat16":
        assert all(row.ok for row in found.rows), "nothing else shows it"


def test_what_rounding_hides_is_noted() -> None:
    """Ten numbers per sample do not tell a coefficient from the noise of bfloat16."""
    right = faults.planted("vit")
    found = verify(right, cast(capture(right), DTYPES["bfloat16"]), batches=(2,))
    assert found.ok
    assert any("cannot be told from rounding in bfloat16" in note for note in found.notes)


def test_an_output_that_overflows_has_no_coefficients() -> None:
    one = effect()
    infinite = torch.full_like(one.full, float("inf"))
    assert _estimated(one.full, one, infinite) is None
    assert _estimated(one.full, one, one.full) is not None


def test_an_unclear_result_is_settled_by_more_samples() -> None:
    assert Estimate((0.04, 0.0), (0.05, 0.05)).ok and not Estimate((0.04, 0.0), (0.05, 0.05)).clear
    assert Estimate((0.02, -0.02), (0.05, 0.05)).clear, "rounding explains less than half of the limit"
    assert Estimate((0.06, 0.0), (0.05, 0.05)).clear, "it fails"
    assert not Estimate((0.0, -0.026), (0.05, 0.05)).clear


@pytest.mark.parametrize(("value", "settled"), [(0.04, False), (0.02, True), (0.06, True)])
def test_more_samples_are_asked_for_if_one_output_is_unclear(
    value: float, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = effect()
    answers = iter([Estimate((value, 0.0), (0.05, 0.05)), Estimate((0.0, 0.0), (0.05, 0.05))])
    monkeypatch.setattr(comparing, "_estimated", lambda *_: next(answers))
    reference = SimpleNamespace(run=lambda dtype, inputs: {"output": one.full})
    operators: Any = SimpleNamespace(reason="", effect=lambda inputs: [one], reference=reference)
    sides = [(Side(name, "eager", "cpu", "float32"), {"output": one.full}) for name in "AB"]
    found = comparing.compare_operators(operators, {}, sides, {})
    assert found.settled == settled and bool(found.failures) == (value > 0.05)
