"""A comparison of files with dynamic sizes says at which sizes the two were compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from cbsurgeon import Model
from cbsurgeon.checks import verify
from cbsurgeon.deploy import export_onnx


class Positions(nn.Module):
    """Adds a table of positions; an input of 16 x 16 reads its first 16 rows only."""

    def __init__(self, beyond: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        table = torch.randn(1, 8, 64, 64)
        table[:, :, 16:] += beyond
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) + self.table[:, :, : x.shape[2], : x.shape[3]]
        return self.head(torch.relu(y).mean((2, 3)))


def model(beyond: float = 0.0) -> Model:
    return Model(Positions(beyond).eval(), (torch.randn(2, 3, 16, 16),))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files with sizes from 1 to 64 that differ only above 16 rows."""
    found = []
    for name, beyond in (("a", 0.0), ("b", 100.0)):
        path = tmp_path_factory.mktemp(name) / "m.onnx"
        dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("h", max=64), 3: torch.export.Dim("w", max=64)}
        made = torch.onnx.export(
            Positions(beyond).eval(),
            (torch.randn(2, 3, 16, 16),),
            input_names=["x"],
            dynamic_shapes=(dims,),
            dynamo=True,
        )
        assert made is not None
        made.save(str(path))
        found.append(path)
    return found[0], found[1]


def about_sizes(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if "compared only at" in note]


def test_the_sizes_that_were_compared_are_named(files: tuple[Path, Path]) -> None:
    found = verify(model(), files[1])
    assert found.ok and about_sizes(found.notes) == [
        "x: compared only at h = 16, w = 16; give other sizes with --inputs"
    ]
    larger = Model(Positions().eval(), (torch.from_numpy(rows(40)),))
    assert not verify(larger, files[1]).ok and verify(larger, files[0]).ok, "the two files do differ"


def test_two_files_name_the_sizes_that_were_drawn(files: tuple[Path, Path]) -> None:
    (note,) = about_sizes(verify(*files, batches=(1, 3)).notes)
    assert note.startswith("x: compared only at h = 1 ") and "batch" not in note and ", w = 1 " in note


def rows(count: int) -> numpy.ndarray[Any, Any]:
    return numpy.random.default_rng(0).standard_normal((2, 3, count, 24)).astype(numpy.float32)


def test_the_advice_finds_the_difference(files: tuple[Path, Path]) -> None:
    found = verify(*files, inputs={"x": rows(40)})
    assert not found.ok and "h = " in about_sizes(found.notes)[0] and "40" in about_sizes(found.notes)[0]


def test_fixed_sizes_need_no_note(tmp_path: Path) -> None:
    export_onnx(model(), tmp_path / "m.onnx")
    assert not about_sizes(verify(model(), tmp_path / "m.onnx").notes)
