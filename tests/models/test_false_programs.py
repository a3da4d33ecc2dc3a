"""A ``.pt2`` file that records other shapes or types than its program computes is refused, also with ``trust``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon import cli, load
from cbsurgeon.errors import InputFileError

Edit = Callable[[dict[str, Any]], object]


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Counting(Block):
    """The same, with a buffer that every run increases."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.runs, Tensor)
        self.runs.add_(1.0)
        return super().forward(x) + 0.0 * self.runs


def written(path: Path, module: nn.Module) -> Path:
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(module.eval(), (torch.randn(2, 5, 8),), dynamic_shapes=shapes, strict=False)
    torch.export.save(program, path)
    return path


def edited(source: Path, path: Path, edit: Edit) -> Path:
    """Copy an archive and change the description of its graph."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json"):
                document = json.loads(content)
                edit(document["graph_module"]["graph"])
                content = json.dumps(document).encode()
            new.writestr(name, content)
    return path


def size(value: str, axis: int, number: int) -> Edit:
    def edit(graph: dict[str, Any]) -> None:
        graph["tensor_values"][value]["sizes"][axis] = {"as_int": number}

    return edit


def another_operator(graph: dict[str, Any]) -> None:
    node = next(node for node in graph["nodes"] if "gelu" in node["target"])
    node["target"] = "torch.ops.aten.flatten.using_ints"


EDITS: dict[str, Edit] = {
    "tokens of a value": size("gelu", 1, 4),
    "channels of a value": size("gelu", 2, 7),
    "size of an input": size("x", 1, 4),
    "size of a weight": size("p_up_weight", 0, 31),
    "size of the output": size("add", 1, 6),
    "type of a value": lambda graph: graph["tensor_values"]["gelu"].update(dtype=5),
    "type of an input": lambda graph: graph["tensor_values"]["x"].update(dtype=5),
    "all tokens": lambda graph: [size(name, 1, 4)(graph) for name in ("x", "linear", "gelu", "linear_1", "add")],
    "operator": another_operator,
}


@pytest.mark.parametrize("name", EDITS)
def test_a_program_with_false_records_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    false = edited(written(tmp_path / "m.pt2", Block()), tmp_path / "false.pt2", EDITS[name])
    with pytest.raises(InputFileError) as refused:
        load(false, trust=True)
    assert refused.value.code == "CB-LOAD-14" and str(false) in refused.value.where
    assert cli.main(["inspect", str(false), "--trust", "--no-cache"]) == 2
    assert "CB-LOAD-14" in capsys.readouterr().err


def test_the_file_as_it_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "m.pt2", Block())
    same = edited(path, tmp_path / "same.pt2", lambda graph: None)
    assert [load(one, trust=True).program is not None for one in (path, same)] == [True, True]


def test_reading_does_not_run_up_the_state_of_a_program(tmp_path: Path) -> None:
    program = load(written(tmp_path / "m.pt2", Counting()), trust=True).program
    assert program is not None
    assert torch.equal(program.state_dict["runs"], torch.zeros(1))


@pytest.mark.parametrize(
    ("emptied", "said"),
    [("data/weights/weight_0", "lost weights"), ("data/sample_inputs/model.pt", "no example inputs")],
)
def test_a_member_that_lost_its_bytes_is_named(tmp_path: Path, emptied: str, said: str) -> None:
    """torch reads both without a word: such a weight is whatever is in memory."""
    source, path = written(tmp_path / "good.pt2", Block()), tmp_path / "bad.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        assert any(name.endswith(emptied) for name in old.namelist())
        for name in old.namelist():
            new.writestr(name, b"" if name.endswith(emptied) else old.read(name))
    torch.export.load(path)
    with pytest.raises(InputFileError, match=said) as error:
        load(str(path), trust=True)
    assert error.value.code == "CB-LOAD-14"


def test_a_weight_without_elements_needs_no_bytes(tmp_path: Path) -> None:
    class Empty(Block):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(0))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.none.sum()

    assert load(str(written(tmp_path / "good.pt2", Empty())), trust=True).program is not None
