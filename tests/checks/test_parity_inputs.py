"""Faults that only some inputs or some kinds of numbers show: each pair differs by a plain forward pass here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.checks import verify
from cbsurgeon.checks.parity.inputs.tables import tables
from cbsurgeon.deploy import export_onnx
from cbsurgeon.errors import CheckFailed
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

ROWS, WIDTH, SPOILT = 500, 16, 400
"""Rows of the table, their width, and the row that one of the two models has wrong; the examples never use it."""

Lookup = Callable[[Tensor, Tensor], Tensor]

LOOKUPS: dict[str, Lookup] = {
    "index": lambda table, ids: table[ids],
    "index_select": lambda table, ids: table.index_select(0, ids.flatten()).reshape(*ids.shape, WIDTH),
    "gather": lambda table, ids: table.gather(0, ids.reshape(-1, 1).expand(-1, WIDTH)).reshape(*ids.shape, WIDTH),
    "one hot": lambda table, ids: nn.functional.one_hot(ids, ROWS).float() @ table,
    "bag": lambda table, ids: nn.functional.embedding_bag(ids, table, mode="sum")[:, None],
    "clamped": lambda table, ids: nn.functional.embedding(ids.clamp(0, ROWS - 1), table),
    "chosen": lambda table, ids: nn.functional.embedding(torch.where(ids < 0, 0, ids), table),
    "cut": lambda table, ids: nn.functional.embedding(ids[:, 1:], table),
    "joined": lambda table, ids: nn.functional.embedding(torch.cat([ids[:, :1] * 0, ids], 1), table),
    "shifted": lambda table, ids: nn.functional.embedding(ids + 2, torch.cat([table[:2], table])),
}


class Words(nn.Module):
    """Rows of a table, looked up in some spelling, and a linear layer of their mean."""

    def __init__(self, lookup: Lookup, wrong: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lookup, self.table, self.fc = lookup, nn.Parameter(torch.randn(ROWS, WIDTH)), nn.Linear(WIDTH, 4)
        if wrong:
            with torch.no_grad():
                self.table[SPOILT] += 1.0

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.lookup(self.table, ids).mean(1))


def words(lookup: str, wrong: bool = False) -> Model:
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    return Model(Words(LOOKUPS[lookup], wrong).eval(), (ids,))


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_every_row_of_a_table_is_compared_however_it_is_looked_up(lookup: str) -> None:
    right, wrong = words(lookup), words(lookup, True)
    ids = torch.full((1, 12), SPOILT)
    assert not torch.allclose(right.module(ids), wrong.module(ids)), "the row is read"
    assert tables(capture(right)) == {"ids": range(ROWS)}
    assert verify(right, right, batches=(2,)).ok
    found = verify(right, wrong, batches=(2,))
    assert not found.ok and found.worst.inputs == "vocabulary"


def test_an_index_that_is_computed_is_no_token_id() -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor, length: Tensor) -> Tensor:
            return x[torch.arange(x.shape[0]), (length * 3).remainder(5)]

    found = capture(Model(Last().eval(), (torch.randn(2, 5, 4), torch.tensor([1, 2]))))
    assert tables(found) == {}


@pytest.mark.parametrize("metadata", [True, False])
def test_two_files_are_compared_on_every_row(metadata: bool, tmp_path: Path) -> None:
    paths = []
    for wrong in (False, True):
        paths.append(export_onnx(words("clamped", wrong), tmp_path / f"{wrong}.onnx").path)
        if not metadata:
            proto = onnx.load(str(paths[-1]))
            del proto.metadata_props[:]
            onnx.save(proto, str(paths[-1]))
    found = verify(paths[0], paths[0], batches=(2,))
    assert found.ok and f"ids: all {ROWS} token ids compared" in found.notes
    assert not verify(*paths, batches=(2,)).ok


class Attending(nn.Module):
    """Attention over words with a padding mask; or the same that ignores its mask."""

    def __init__(self, ignores: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.query, self.fc, self.ignores = (
            nn.Embedding(50, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
            ignores,
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids)
        scores = self.query(x) @ x.mT
        tokens = mask.bool() | self.ignores
        return self.fc(scores.masked_fill(~tokens[:, None], float("-inf")).softmax(-1) @ x)[:, 0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("batches", [(1,), (1, 2, 7)])
def test_a_mask_that_is_ignored_is_a_difference(dtype: torch.dtype, batches: tuple[int, ...], tmp_path: Path) -> None:
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    inputs = (ids, torch.ones(2, 12, dtype=dtype))
    right, wrong = Model(Attending().eval(), inputs), Model(Attending(True).eval(), inputs)
    assert torch.allclose(right.module(*inputs), wrong.module(*inputs)), "without padding they are the same"
    found = verify(right, export_onnx(right, tmp_path / "right.onnx").path, batches=batches)
    assert found.ok and any(row.inputs == "padded" for row in found.rows)
    found = verify(right, wrong, batches=batches)
    assert not found.ok and found.worst.inputs == "padded"


def test_a_model_that_takes_no_padding_is_compared_without_it() -> None:
    class Full(Attending):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            if not torch.compiler.is_exporting() and not mask.all():
                raise ValueError("every token must count")
            return super().forward(ids, mask)

    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    full = Model(Full().eval(), (ids, torch.ones(2, 12, dtype=torch.bool)))
    found = verify(full, full, batches=(2,))
    assert found.ok
    assert any("not compared on padded inputs" in note and "every token must count" in note for note in found.notes)


def test_an_integer_that_had_one_value_is_named() -> None:
    class Timed(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x * t[:, None].sin()

    timed = Model(Timed().eval(), (torch.randn(2, 8), torch.tensor([7, 7])))
    assert "t: only the value 7 was compared; give others with inputs of your own" in verify(timed, timed).notes


def small(forward: Callable[[Tensor], object]) -> Model:
    """A linear layer and a function of its result."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> object:
            return forward(self.fc(x))

    return Model(Net().eval(), (torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),))


def test_imaginary_parts_are_compared() -> None:
    right, wrong = small(lambda y: torch.complex(y, y.cos())), small(lambda y: torch.complex(y, 1.01 * y.cos()))
    assert verify(right, right).ok
    assert not verify(right, wrong).ok


def test_whole_numbers_are_compared_exactly_beyond_float64() -> None:
    """2 ** 60 and 2 ** 60 + 1 are the same number in float64."""
    right, wrong = (small(lambda y, more=more: (y, (y * 9).long() * 0 + 2**60 + more)) for more in (0, 1))
    assert verify(right, right).ok
    found = verify(right, wrong)
    assert not found.ok and "integers differ" in str(found)


def test_outputs_of_another_kind_are_an_error() -> None:
    with pytest.raises(CheckFailed) as caught:
        verify(small(lambda y: y.round()), small(lambda y: y.round().long()))
    assert caught.value.code == "CB-VERIFY-08"
    assert "float32" in caught.value.why and "int64" in caught.value.why


def test_outputs_whose_names_collide_are_all_compared() -> None:
    def outputs(y: Tensor, factor: float) -> object:
        return {"a_b_2": factor * y, "a": {"b": y.sin()}, "a_b": y.cos()}

    right, wrong = (small(lambda y, factor=factor: outputs(y, factor)) for factor in (1.0, 1.1))
    found = verify(right, right, batches=(2,))
    assert found.ok and len({row.output for row in found.rows}) == 3
    assert not verify(right, wrong, batches=(2,)).ok


def test_one_tensor_given_for_two_parameters_becomes_two_inputs() -> None:
    class Both(nn.Module):
        def __init__(self, exchanged: bool) -> None:
            super().__init__()
            self.exchanged = exchanged

        def forward(self, p: Tensor, q: Tensor) -> Tensor:
            return q.sin() + p if self.exchanged else p.sin() + q

    x = torch.randn(2, 8)
    right, wrong = (Model(Both(exchanged).eval(), (x, x)) for exchanged in (False, True))
    assert verify(right, right).ok
    assert not verify(right, wrong).ok


def test_a_large_sample_does_not_hide_the_others() -> None:
    class Shifted(nn.Module):
        """An error of 0.01 in the samples with small numbers."""

        def __init__(self, error: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.error = nn.Linear(8, 8), error

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + self.error * (x.abs().amax(1, keepdim=True) < 1)

    right, wrong = (Model(Shifted(error).eval(), (torch.randn(2, 8),)) for error in (0.0, 0.01))
    own = {"x": torch.cat([torch.full((1, 8), 1e6), torch.full((3, 8), 0.1)])}
    assert verify(right, right, inputs=own, batches=(4,)).ok
    assert not verify(right, wrong, inputs=own, batches=(4,)).ok


def test_what_a_comparison_by_name_cannot_show_is_noted() -> None:
    right, turned = small(lambda y: {"a": y, "b": y.sin()}), small(lambda y: {"b": y.sin(), "a": y})
    assert any("as their order differs: a, b in A, b, a in B" in note for note in verify(right, turned).notes)
    constant = small(lambda y: (y, torch.zeros_like(y), 3))
    notes = verify(constant, constant).notes
    assert any("output_1: the same for all samples" in note for note in notes)
    assert any("not tensors are left out: 1 (int)" in note for note in notes)
