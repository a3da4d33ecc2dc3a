"""Correct exports pass the parity check; an error of one per cent does not."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from cbsurgeon.checks import verify
from cbsurgeon.checks.parity import reference
from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.reference import Reference
from cbsurgeon.deploy import export_onnx
from cbsurgeon.deploy.overflow import LARGE_MAGNITUDE
from cbsurgeon.errors import CheckFailed, InputFileError, UsageError
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.checks import faults
from tests.deploy import networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@cache
def exported(name: str, folder: Path, dtype: str | None = None) -> Path:
    return export_onnx(networks.edited(name), folder / f"{name}-{dtype}.onnx", dtype=dtype).path


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", ["vit", "swin", "bert"])
def test_a_correct_export_passes(name: str, folder: Path) -> None:
    found = verify(networks.edited(name), exported(name, folder))
    assert found.ok, str(found)
    assert found
    assert found.raise_if_failed() is found
    assert found.batches == (1, 2, 7)
    assert found.tolerance.source == "measured"
    assert found.reference == "float64 program"


@pytest.mark.thin(2)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_correct_typed_export_passes(name: str, dtype: str, folder: Path) -> None:
    found = verify(networks.edited(name), exported(name, folder, dtype), batches=(1, 2))
    assert found.ok, str(found)
    assert found.b.dtype == dtype
    assert (
        found.tolerance.atol > 100 * verify(networks.edited(name), exported(name, folder), batches=(1,)).tolerance.atol
    )


@pytest.mark.parametrize("fault", ["axis", "scale", "absent"])
def test_a_wrong_graph_fails(fault: str, folder: Path) -> None:
    right, wrong = faults.planted("vit"), faults.planted("vit", 1, faults.FAULTS[fault])
    path = export_onnx(wrong, folder / f"{fault}.onnx").path
    found = verify(right, path, batches=(1, 2))
    assert not found.ok
    assert not found
    assert not any(row.ok for row in found.rows if row.inputs == "generated")
    with pytest.raises(CheckFailed) as caught:
        found.raise_if_failed()
    assert caught.value.code == "CB-VERIFY-01"
    assert caught.value.exit_code == 1


def test_the_stated_tolerance_would_pass(folder: Path) -> None:
    right, wrong = faults.planted("vit"), faults.planted("vit", 1, faults.OnePerCent)
    found = verify(right, wrong, batches=(2,))
    assert not found.ok
    needed = found.would_pass_at
    assert verify(right, wrong, batches=(2,), atol=needed, rtol=found.tolerance.rtol).ok
    assert not verify(right, wrong, batches=(2,), atol=needed * 0.99, rtol=found.tolerance.rtol).ok


def test_a_fault_does_not_widen_its_own_tolerance() -> None:
    right = faults.planted("vit")
    wrong = faults.planted("vit", 0, faults.Absent)
    allowed = [[row.tolerance for row in verify(right, other, batches=(2,)).rows] for other in (right, wrong)]
    assert allowed[0] == allowed[1]


def test_a_large_input_is_among_the_generated(folder: Path) -> None:
    found = verify(networks.edited("vit"), exported("vit", folder))
    assert [row.inputs for row in found.rows].count("large") == 1
    program = networks.program("vit")
    drawn = program.with_batch(2, seed=2)["x"]
    assert LARGE_MAGNITUDE * float(drawn.abs().max()) > 200


def test_token_ids_stay_valid(folder: Path) -> None:
    found = verify(networks.edited("bert"), exported("bert", folder))
    assert {row.inputs for row in found.rows} == {"generated", "vocabulary"}, "there is nothing to enlarge in token ids"


def test_an_overflow_in_float16_is_seen(folder: Path) -> None:
    model = faults.planted("vit", 1, faults.Overflowing)
    assert verify(faults.planted("vit"), model, batches=(1,)).ok, "in float32 it is the same function"
    path = export_onnx(faults.overflowing(model), folder / "overflow.onnx", fold=False).path
    found = verify(faults.planted("vit"), path, batches=(1, 2))
    assert not found.ok, str(found)


def test_classifiers_report_top1(folder: Path) -> None:
    found = verify(networks.edited("vit"), exported("vit", folder), batches=(7,))
    assert all(row.top1 == 1.0 for row in found.rows)
    assert all(
        row.top1 is None
        for row in verify(networks.edited("bert"), exported("bert", folder)).rows
        if "hidden" in row.output
    )


def test_users_inputs_from_a_file(folder: Path, tmp_path: Path) -> None:
    numpy.savez(tmp_path / "real.npz", x=numpy.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype("float32"))
    found = verify(networks.edited("vit"), exported("vit", folder), inputs=tmp_path / "real.npz", batches=(2, 5))
    assert found.ok
    assert {(row.inputs, row.batch) for row in found.rows} == {("real.npz", 2), ("real.npz", 5)}


def test_bad_inputs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(InputFileError):
        verify(networks.edited("vit"), exported("vit", folder), inputs=tmp_path / "x.npz")
    with pytest.raises(UsageError) as caught:
        verify(
            networks.edited("vit"),
            exported("vit", folder),
            inputs={"y": numpy.zeros((2, 3, 64, 64), "float32"), "z": numpy.zeros(2)},
        )
    assert caught.value.code == "CB-RUN-01"
    with pytest.raises(UsageError) as caught:
        verify(networks.edited("vit"), exported("vit", folder), batches=())
    assert caught.value.code == "CB-VERIFY-04"


def test_different_output_shapes_are_an_error(folder: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        verify(
            networks.plain("vit"),
            Model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3)).eval(), (torch.randn(2, 3, 64, 64),)),
        )
    assert caught.value.code == "CB-VERIFY-03"


def test_two_files_are_judged_by_an_estimate(folder: Path) -> None:
    found = verify(exported("vit", folder), exported("vit", folder))
    assert found.ok
    assert found.tolerance.source == "estimated"
    assert found.reference.startswith("none:")
    wrong = export_onnx(faults.planted("vit", 1, faults.WrongAxis), folder / "estimated.onnx").path
    right = export_onnx(faults.planted("vit"), folder / "right.onnx").path
    assert not verify(right, wrong).ok


class Quiet(nn.Module):
    """A head that starts at zero, as timm's Mixer has: its output says nothing about the rest."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.head, self.factor = nn.Linear(8, 8), nn.Linear(8, 3), factor
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.factor * self.fc(x).tanh())


def test_constant_outputs_are_compared_inside_the_model() -> None:
    x = torch.randn(2, 8)
    right, wrong = Model(Quiet().eval(), (x,)), Model(Quiet(1.01).eval(), (x,))
    assert verify(right, right).ok
    found = verify(right, wrong)
    assert found.max_abs > 0
    assert not found.ok, str(found)


def test_without_a_reference_the_reason_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "LARGEST_REFERENCE", 10)
    found = verify(networks.edited("vit"), networks.edited("vit"), batches=(2,))
    assert "in float64 would take" in found.reference
    assert found.tolerance.source == "estimated"


def test_noise_grows_with_the_machine_epsilon() -> None:
    program = networks.program("vit")
    inputs = program.with_batch(2)
    measured = Reference(program)
    floors = [measured.floors(inputs, (dtype, dtype))["output"].rel_l2 for dtype in ("float32", "float16", "bfloat16")]
    assert floors[0] * 100 < floors[1] < floors[2]


def test_a_small_output_has_the_noise_of_larger_ones() -> None:
    """One logit near zero carries the rounding of the products that cancelled in it."""
    floor = policy.Floor(max_abs=1e-6, rel_l2=1e-7, rms=1.0)
    assert policy.measured(floor, "float32", "generated", 1.0).rel_l2 == pytest.approx(policy.SAFETY * 1e-7)
    assert policy.measured(floor, "float32", "generated", 0.1).rel_l2 == pytest.approx(policy.SAFETY * 1e-6)
    assert policy.measured(floor, "float32", "generated", 2.0).rel_l2 == pytest.approx(policy.SAFETY * 1e-7)
    assert policy.measured(floor, "float32", "generated", 0.1).atol == pytest.approx(policy.SAFETY * 1e-6)


def test_the_document_is_json(folder: Path) -> None:
    found = verify(networks.edited("vit"), exported("vit", folder), batches=(1,))
    document = json.loads(json.dumps(found.to_dict()))
    assert document["schema"] == "cbsurgeon.verify/1"
    assert document["ok"] is True
    assert set(document["tolerance"]) >= {"atol", "rtol", "source", "reason"}
    assert document["first_bad_block"] is None
    assert "allowed" in str(found)


def test_infinities_fail_and_stay_out_of_json() -> None:
    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0.0

    class Holds(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1.5

    x = torch.rand(2, 4) + 1.0
    found = verify(Model(Holds().eval(), (x,)), Model(Breaks().eval(), (x,)), batches=(2,))
    assert not found.ok
    assert math.isinf(found.max_abs)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["max_abs"] is None


def test_inputs_are_not_touched(folder: Path) -> None:
    model = networks.plain("vit")
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    example = model.example_inputs[0].clone()
    verify(model, model, batches=(1,))
    assert torch.equal(model.example_inputs[0], example)
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    assert capture(model).batch_axes == {"x": 0}


class TwoAnswers(nn.Module):
    """A second model with one more head than the first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fc(x), x


def test_a_different_number_of_outputs_is_an_error() -> None:
    x = (torch.randn(2, 4),)
    with pytest.raises(CheckFailed) as caught:
        verify(Model(TwoAnswers().eval(), x), Model(nn.Linear(4, 4).eval(), x))
    assert caught.value.code == "CB-VERIFY-02"
