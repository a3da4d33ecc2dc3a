"""Outputs that prove nothing are failures, and no tolerance is wide enough to hide a different model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.checks import verify
from cbsurgeon.checks.parity import difference as compare
from cbsurgeon.checks.parity import reference
from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.inputs.feed import Source
from cbsurgeon.checks.parity.inputs.tables import tables
from cbsurgeon.checks.parity.inputs.vocabulary import covered
from cbsurgeon.checks.parity.inserted.comparing import share_removed
from cbsurgeon.deploy import export_onnx
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.checks import faults


def model(module: nn.Module, *inputs: Tensor) -> Model:
    return Model(module.eval(), inputs or (torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),))


class Body(nn.Module):
    """Two layers with seeded weights and a function of the result."""

    def __init__(self, last: object, weight: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.out, self.last, self.weight = nn.Linear(8, 8), nn.Linear(8, 10), last, weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(x + self.weight * self.fc(x).tanh())
        return self.last(y)  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (lambda y: y * float("nan"), "NaN"),
        (lambda y: torch.where(y > 0, y, torch.full_like(y, float("nan"))), "NaN"),
        (lambda y: y[:, :0], "empty"),
    ],
    ids=["all nan", "some nan", "empty"],
)
def test_values_that_are_no_numbers_fail_by_name(last: object, word: str) -> None:
    same = model(Body(last))
    found = verify(same, same, batches=(2,))
    assert not found.ok
    assert word in str(found)
    with pytest.raises(cbs.errors.CheckFailed, match=word):
        found.raise_if_failed()


def test_an_overflow_that_both_share_fails_by_name(tmp_path: Path) -> None:
    """The float64 program is finite, so infinity is a fault of the dtype and not the model's own value."""
    squares = model(Body(lambda y: (y * 400.0) ** 2 + 70000.0))
    path = export_onnx(faults.overflowing(squares), tmp_path / "half.onnx").path
    found = verify(path, path, batches=(2,))
    assert not found.ok
    assert "infinite" in str(found)


def test_infinite_scores_that_the_model_masks_itself_pass() -> None:
    mask = torch.zeros(10)
    mask[3:5] = float("-inf")
    same = model(Body(lambda y: y + mask))
    found = verify(same, same, batches=(2,))
    assert found.ok, str(found)


class ZeroWeight(Body):
    """The head has a bias and no weight: its output is the same for all samples and differs between elements."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(lambda y: y, weight)
        nn.init.zeros_(self.out.weight)


class Saturated(Body):
    """The largest class is always the first."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(lambda y: (y + 1e3 * torch.eye(10)[0]).argmax(1), weight)


@pytest.mark.parametrize("kind", [ZeroWeight, Saturated])
@pytest.mark.parametrize("batches", [(1, 2), (1, 3)])
def test_outputs_equal_for_all_samples_are_compared_inside_the_model(
    kind: type[nn.Module], batches: tuple[int, ...]
) -> None:
    right, wrong = model(kind()), model(kind(1.01))
    with torch.no_grad():
        x = torch.randn(4, 8)
        assert torch.equal(right.module(x), wrong.module(x)), "the outputs cannot tell the two apart"
    assert verify(right, right, batches=batches).ok
    assert not verify(right, wrong, batches=batches).ok


def test_a_model_whose_outputs_and_stream_are_constant_fails() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1) * 0.0

    same = model(Nothing())
    found = verify(same, same, batches=(1, 2))
    assert not found.ok
    assert "are the same for all samples" in str(found)


@pytest.mark.parametrize("offset, noted", [(0.0, False), (1e8, True)])
def test_scores_that_rounding_almost_hides_are_noted(offset: float, noted: bool) -> None:
    """Near a hundred million, float32 has steps of 8; the scores of two samples differ by about 150 at most."""
    same = model(Body(lambda y: y + offset))
    assert math.ulp(1e8) * 2**29 == 8.0, "one step of float32"
    found = verify(same, same, batches=(1, 7))
    assert found.ok and any("% of the largest difference between samples" in note for note in found.notes) is noted


def test_a_large_channel_does_not_hide_the_others() -> None:
    """Ten scores and one constant of a million: the rounding error of the constant is 0.06, that of the scores 1e-7."""

    def beside(y: Tensor) -> Tensor:
        return torch.cat([y, torch.full_like(y[:, :1], 1e6)], 1)

    right, wrong = model(Body(beside)), model(Body(beside, 1.01))
    assert verify(right, right, batches=(2,)).ok
    found = verify(right, wrong, batches=(2,))
    assert 1e-5 < found.max_abs < 0.5
    assert found.rel_l2 < 1e-6, "over the whole output the fault is invisible"
    assert not found.ok, str(found)


def test_a_large_channel_does_not_hide_the_others_between_two_files(tmp_path: Path) -> None:
    def beside(y: Tensor) -> Tensor:
        return torch.cat([y, torch.full_like(y[:, :1], 1e6)], 1)

    right = export_onnx(model(Body(beside)), tmp_path / "right.onnx").path
    wrong = export_onnx(model(Body(beside, 1.01)), tmp_path / "wrong.onnx").path
    assert verify(right, right, batches=(2,)).ok
    assert not verify(right, wrong, batches=(2,)).ok


def test_the_tolerance_of_a_channel_follows_its_own_noise() -> None:
    tolerance = policy.Tolerance(4.0, 0.0, None, "measured", "")
    limit = policy.allowed(tolerance, {1: torch.tensor([1e-3] * 9 + [1.0])}, torch.zeros(2, 10))
    assert limit.shape == (1, 10)
    assert limit[0, 9] == pytest.approx(4.0)
    assert limit[0, 0] == pytest.approx(4.0 * policy.MEDIAN_SHARE * 1e-3)


def test_the_ceiling_limits_every_measured_tolerance() -> None:
    loud = policy.Floor(max_abs=1.0, rel_l2=1.0, rms=1.0)
    for dtype, ceiling in policy.CEILING.items():
        assert policy.measured(loud, dtype, "generated", 1.0).rel_l2 == ceiling


class Chaotic(nn.Module):
    """Each step doubles a difference: in float16 what remains after fifty of them is noise."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sigmoid()
        for _ in range(50):
            y = 3.99 * y * (1 - y)
        return y


def test_a_float16_file_that_computes_noise_is_not_the_same(tmp_path: Path) -> None:
    chaotic = model(Chaotic())
    path = export_onnx(chaotic, tmp_path / "noise.onnx", dtype="float16").path
    found = verify(chaotic, path, batches=(2,))
    assert found.rel_l2 > 0.1
    assert not found.ok, str(found)


@pytest.mark.thin(2)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_file_without_the_operators_is_not_the_same(dtype: str, tmp_path: Path) -> None:
    """Against the original in a low precision, the inserted operators must be there, however coarse the dtype."""
    plain = Model(faults.BUILDERS["vit"]().eval(), (torch.randn(2, 3, faults.SIZE, faults.SIZE),))
    edited = cbs.insert(plain, cbs.plan(cbs.inspect(plain), op="cb", layers="all", pos="end"))
    bare = export_onnx(plain, tmp_path / "bare.onnx", dtype=dtype).path
    right = export_onnx(edited, tmp_path / "right.onnx", dtype=dtype).path
    assert verify(edited, right, batches=(2,)).ok
    found = verify(edited, bare, batches=(2,))
    assert not found.ok
    assert any("without its inserted operators" in failure for failure in found.failures), str(found)


def test_operators_without_effect_are_noted_as_no_evidence() -> None:
    plain = Model(faults.BUILDERS["vit"]().eval(), (torch.randn(2, 3, faults.SIZE, faults.SIZE),))
    edited = cbs.insert(plain, cbs.plan(cbs.inspect(plain), op="cb_s", layers="all", pos="end"))
    found = verify(edited, plain, batches=(2,))
    assert found.ok, "CB_S starts as the identity"
    assert any("not change any output by more than rounding" in note for note in found.notes)


def test_the_share_removed_is_a_projection() -> None:
    full, effect = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    for share in (0.0, 0.3, 1.0):
        assert share_removed(full + share * effect, full, effect) == pytest.approx(share)


def test_clear_disagreements_are_counted() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.99], [0.0, 2.0]])
    b = torch.tensor([[0.0, 1.0], [0.99, 1.0], [0.0, 2.0]])
    assert compare.clear_disagreements(a, b, 0.1) == 1
    assert compare.clear_disagreements(a, b, 0.001) == 2


class Words(nn.Module):
    """An embedding of 5,000 words, one layer and a mean over the positions."""

    def __init__(self, corrupted: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.fc = nn.Embedding(5000, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.table.weight[1000 : 1000 + corrupted] += 1.0

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.table(ids).mean(1))


def test_every_token_id_is_compared() -> None:
    ids = torch.randint(0, 100, (2, 12))
    right, wrong = model(Words(), ids), model(Words(10), ids)
    program = capture(right)
    assert tables(program) == {"ids": range(5000)}
    assert covered(Source(program, (), {}, tables(program)), 7) == {"ids": (5000, 5000)}
    found = verify(right, right)
    assert found.ok, str(found)
    assert "ids: all 5,000 token ids compared" in found.notes
    found = verify(right, wrong)
    assert not found.ok
    assert found.worst.inputs == "vocabulary"


def test_partial_coverage_is_printed() -> None:
    ids = torch.randint(0, 100, (1, 2))
    found = verify(model(Words(), ids), model(Words(), ids), batches=(1,))
    assert "ids: 256 of 5,000 token ids compared" in found.notes


def test_a_bisection_runs_on_the_token_ids_that_differed() -> None:
    """The first batch of ids does not contain the corrupted rows, so a bisection on it would find nothing."""

    class Stream(Words):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            x = x + x.tanh()
            return self.fc(x)

    ids = torch.randint(0, 100, (2, 12))
    found = verify(model(Stream(), ids), model(Stream(1), ids), bisect=True)
    assert found.worst.inputs == "vocabulary"
    assert found.first_bad_block is not None, str(found)


def test_models_with_other_names_are_still_compared_without_their_operators(tmp_path: Path) -> None:
    """Only the second model's program has operators, and its input and output have other names."""

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = faults.BUILDERS["vit"]()

        def forward(self, picture: Tensor) -> dict[str, Tensor]:
            return {"scores": self.inner(picture)}

    torch.manual_seed(0)
    plain = faults.BUILDERS["vit"]().eval()
    other = Renamed().eval()
    other.inner.load_state_dict(plain.state_dict())
    example = torch.randn(2, 3, faults.SIZE, faults.SIZE)
    second = Model(other, (example,))
    edited = cbs.insert(second, cbs.plan(cbs.inspect(second), op="cb", layers="all", pos="end"))
    found = verify(Model(plain, (example,)), edited, batches=(2,))
    assert not found.ok
    assert any("without its inserted operators" in failure for failure in found.failures), str(found)


def test_a_model_too_large_for_float64_is_not_cast_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "LARGEST_REFERENCE", 10)
    plain = Model(faults.BUILDERS["vit"]().eval(), (torch.randn(2, 3, faults.SIZE, faults.SIZE),))
    edited = cbs.insert(plain, cbs.plan(cbs.inspect(plain), op="cb", layers="all", pos="end"))
    ran: list[str] = []
    monkeypatch.setattr(reference, "run_in", lambda program, dtype: ran.append(dtype))
    found = verify(edited, edited, batches=(2,))
    assert found.ok and not ran
    assert any("in float64 would take" in note for note in found.notes)
