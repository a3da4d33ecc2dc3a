"""The memory of a run is estimated before it starts, and a batch that needs more than there is, is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon import Model, cli
from cbsurgeon.checks import bench, memory, verify
from cbsurgeon.data import Indexed
from cbsurgeon.deploy import export_onnx
from cbsurgeon.errors import UsageError
from cbsurgeon.graph.capture import capture
from cbsurgeon.models import memory as limits
from tests.attention import small
from tests.evaluation import digits

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


def batches_refused(action: Any) -> UsageError:
    with pytest.raises(UsageError, match="CB-RUN-14") as refused:
        action()
    return refused.value


DIGIT = 3 * 16 * 16 * FLOAT
"""Bytes of one input of the network of the digits."""
CONVOLVED = 16 * 4 * 4 * FLOAT
"""Bytes of the output of its first layer. The activation behind it makes a second value of this size."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.save(tmp_path_factory.mktemp("digits"))


def test_evaluate_adds_what_a_person_adds_up(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 300 * (DIGIT + 2 * CONVOLVED)
    network = digits.trained()
    monkeypatch.setattr(Indexed, "unit", lambda *_: pytest.fail("a batch was read"))
    found = batches_refused(lambda: cbs.evaluate(network, data=pictures, batch=10**9, workers=0, max_memory=needed - 1))
    assert "batch size 300" in found.where and f"at least {needed / 1e6:.1f} MB" in found.why
    assert found.do.startswith("use a batch size of at most 299")
    monkeypatch.undo()
    assert cbs.evaluate(network, data=pictures, batch=10**9, workers=0, max_memory=needed).samples == 300


def test_evaluate_counts_a_picture_once_per_preprocessing(pictures: Path) -> None:
    other = digits.trained(view=replace(digits.VIEW, mean=(0.0, 0.0, 0.0)))
    needed = 300 * (2 * DIGIT + 2 * CONVOLVED)
    for limit, sides in ((needed - 1, (digits.trained(), other)), (needed - 300 * DIGIT - 1, (other, other))):
        assert batches_refused(
            lambda sides=sides, limit=limit: cbs.evaluate(*sides, data=pictures, batch=300, workers=0, max_memory=limit)
        )
    assert cbs.evaluate(other, other, data=pictures, batch=300, workers=0, max_memory=needed - 300 * DIGIT).samples


class Averaged(nn.Module):
    """Takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3))


def test_images_of_another_size_are_reported_as_that(pictures: Path) -> None:
    model = Model(Averaged().eval(), (torch.zeros(2, 3, 256, 256),), preprocessing=digits.VIEW)
    assert memory.need(model, 300).values > 10_000_000
    with pytest.raises(UsageError, match="wrong shape"):
        cbs.evaluate(model, data=pictures, batch=300, workers=0, max_memory=10_000_000)


def test_evaluate_and_analyze_estimate_arrays(tmp_path: Path) -> None:
    inputs = numpy.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(numpy.float32)
    numpy.savez(tmp_path / "a.npz", x=inputs, labels=numpy.arange(40) % 5)
    module, example = small.vit()
    model = Model(module, example)
    least = inputs.nbytes + 40 * small.WIDTH * 17 * FLOAT
    for verb in (cbs.evaluate, cbs.analyze):
        found = batches_refused(
            lambda verb=verb: verb(model, data=tmp_path / "a.npz", batch=40, workers=0, max_memory=least)
        )
        assert "batch size 40" in found.where
        assert verb(model, data=tmp_path / "a.npz", batch=40, workers=0, max_memory=50_000_000)
        assert verb(model, data=tmp_path / "a.npz", batch=2, workers=0, max_memory=least), "a batch that fits"


class Keeps(nn.Module):
    """Keeps a mask for the last batch size, as position tables and padding masks are often kept; scales by it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("seen", torch.zeros(1))
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None or len(self.mask) != len(x):
            self.mask = torch.full((len(x), 1), 2.0)
        self.seen += 1
        return self.module(x) * self.mask


def test_the_estimate_leaves_nothing_in_the_model(pictures: Path) -> None:
    model = digits.trained(Keeps)
    assert isinstance(model.module, Keeps)
    assert memory.need(model, 300).values > 300 * CONVOLVED
    assert model.module.mask is None and float(model.module.seen) == 0
    plain, kept = (cbs.evaluate(one, data=pictures, batch=30, workers=0) for one in (digits.trained(), model))
    assert kept.metrics["a"]["top1"] == plain.metrics["a"]["top1"]
    assert torch.equal(model.module.mask, torch.full((30, 1), 2.0)), "values of the last batch"
    assert bench(model, model, batch=30, budget=0.2)


def test_analyze_estimates_tensors_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    module, example = small.vit()
    model, images = Model(module, example), torch.zeros(64, 3, 32, 32)
    least = 64 * small.WIDTH * 17 * FLOAT
    for data in (images, {"x": images}, [images]):
        assert (
            "64" in batches_refused(lambda data=data: cbs.analyze(model, data=data, batch=64, max_memory=least)).where
        )
        assert cbs.analyze(model, data=data, batch=64, max_memory=100 * least).images == 64


def test_the_flag_reaches_evaluate_and_analyze(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numpy.savez(tmp_path / "a.npz", x=numpy.zeros((64, 3, 32, 32), numpy.float32), labels=numpy.arange(64) % 5)
    for verb in ("evaluate", "analyze"):
        words = [verb, f"mod:{small.__file__}:vit", "--trust", "--data", str(tmp_path / "a.npz"), "--batch", "64"]
        assert cli.main([*words, "--workers", "0", "--max-memory", "1MB"]) == 2
        assert "CB-RUN-14" in capsys.readouterr().err
