"""The memory of a run is estimated before it starts, and a batch that needs more than there is, is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon import Model, cli
from cbsurgeon.checks import bench, memory, verify
from cbsurgeon.deploy import export_onnx
from cbsurgeon.errors import UsageError
from cbsurgeon.graph.capture import capture
from cbsurgeon.models import memory as limits

FLOAT = 4
TERABYTE = 10**12
IMPOSSIBLE = 10**12 // (8 * FLOAT)
"""Samples of eight numbers that take a terabyte: allocating them would fail at once with another error."""


def wide() -> Model:
    """8 -> 1000 -> 1000 -> 4: the two wide values exist at the same time, and nothing larger ever does."""
    torch.manual_seed(0)
    return Model(nn.Sequential(nn.Linear(8, 1000), nn.ReLU(), nn.Linear(1000, 4)).eval(), (torch.randn(2, 8),))


class Views(nn.Module):
    """Views of one value take no memory of their own."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2.0
        return y.view(-1, 2, 4).transpose(1, 2).flip(0)


@pytest.mark.parametrize("batch", [1, 100, 5000])
def test_a_module_and_its_program_need_what_a_person_adds_up(batch: int) -> None:
    model = wide()
    for target in (model, capture(model)):
        assert memory.need(target, batch) == memory.Need(batch * 8 * FLOAT, 2 * batch * 1000 * FLOAT)


def test_a_file_needs_the_same(tmp_path: Path) -> None:
    export_onnx(wide(), tmp_path / "m.onnx")
    assert memory.need(tmp_path / "m.onnx", 300) == memory.Need(300 * 8 * FLOAT, 2 * 300 * 1000 * FLOAT)


def test_views_are_counted_once() -> None:
    found = memory.need(Model(Views(), (torch.randn(2, 8),)), 50)
    assert found.values == 2 * 50 * 8 * FLOAT, "the product and its flipped copy"


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ([("a", 3, ("x",)), ("b", 4, ("a",)), ("c", 1, ("b",))], 7),
        ([("a", 3, ()), ("b", 4, ("a",)), ("c", 1, ("b", "a"))], 8),
        ([("a", 3, ()), ("b", 4, ()), ("c", 5, ())], 5),
        ([], 0),
    ],
    ids=["a chain", "a skip connection", "values that nothing reads", "nothing"],
)
def test_values_exist_until_their_last_reader(steps: list[tuple[str, int, tuple[str, ...]]], most: int) -> None:
    assert memory.largest_sum(steps) == most


@pytest.mark.parametrize("compare", [verify, bench])
def test_a_batch_that_cannot_fit_is_refused_before_it_is_allocated(compare: Any, tmp_path: Path) -> None:
    export_onnx(wide(), tmp_path / "m.onnx")
    how = {"batches": (1, IMPOSSIBLE)} if compare is verify else {"batch": IMPOSSIBLE}
    for target in (wide(), tmp_path / "m.onnx"):
        with pytest.raises(UsageError, match="are free") as refused:
            compare(target, target, **how)
        assert refused.value.code == "CB-RUN-14" and str(IMPOSSIBLE) in refused.value.where


def test_the_limit_of_the_user_counts_and_the_message_names_both_figures() -> None:
    batch = 1000
    needed = batch * (8 + 2000) * FLOAT
    with pytest.raises(UsageError, match=r"the limit is 4\.0 MB") as refused:
        bench(wide(), wide(), batch=batch, max_memory=4_000_000)
    assert f"{needed / 1e6:.1f} MB" in refused.value.why
    assert f"at most {batch * 4_000_000 // needed}" in refused.value.do
    assert verify(wide(), wide(), batches=(1, 64), max_memory=4_000_000).ok


def test_a_given_batch_is_refused_whatever_the_order_of_the_sizes() -> None:
    for sizes in ((IMPOSSIBLE, 1, 2), (1, 2, IMPOSSIBLE)):
        with pytest.raises(UsageError, match="CB-RUN-14"):
            verify(wide(), wide(), batches=sizes)


def test_the_flag_reaches_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export_onnx(wide(), tmp_path / "m.onnx").path
    for words in (["verify", "--batches", "4000"], ["bench", "--batch", "4000"]):
        assert cli.main([words[0], str(path), str(path), *words[1:], "--max-memory", "20MB"]) == 2
        assert "CB-RUN-14" in capsys.readouterr().err


def test_the_memory_that_is_free_is_limited_by_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    before = limits.free()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, 0))
    assert limits.free() == 0 < before < TERABYTE
