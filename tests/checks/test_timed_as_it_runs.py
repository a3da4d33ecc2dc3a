"""``bench`` times the requested model: the candidate's own graph, compiled if requested, in the baseline's mode."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import cbsurgeon as cbs
from cbsurgeon.checks.latency.benchmark import bench
from cbsurgeon.checks.latency.running import distance, require_comparable
from cbsurgeon.checks.latency.sampling import Timed
from cbsurgeon.deploy import open_runtime
from cbsurgeon.deploy.runtimes import torch_runtimes
from cbsurgeon.errors import CheckFailed
from cbsurgeon.models import Model
from tests.cli.running import tiny_vit


def _edited() -> tuple[Model, Model]:
    model = Model(*tiny_vit())
    return model, cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all", pos="end"))


@pytest.fixture
def quick_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without its C++ compiler: Dynamo, which decides what runs, is the same."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()


def test_distance_is_relative_and_needs_equal_shapes() -> None:
    a = {"output": torch.tensor([3.0, 4.0]), "ids": torch.tensor([1])}
    assert distance(a, {"output": torch.tensor([3.0, 4.5]), "ids": torch.tensor([2])}) == pytest.approx(0.1)
    assert distance([np.array([2.0])], [np.array([2.0])]) == 0.0
    assert distance(a, {"output": torch.zeros(3)}) is None
    assert distance(None, None) is None and distance([np.array([np.nan])], [np.array([1.0])]) is None


@pytest.mark.parametrize(("apart", "expected", "refused"), [(0.5, 0.5, False), (0.0, 0.5, True), (0.0, 1e-5, False)])
def test_a_candidate_that_computes_the_baseline_is_refused(apart: float, expected: float, refused: bool) -> None:
    a = Timed(lambda: np.array([1.0]), mode="compile on cpu")
    b = Timed(lambda: np.array([1.0 + apart]), mode="compile on cpu", expected=expected)
    if refused:
        with pytest.raises(CheckFailed, match="CB-BENCH-04"):
            require_comparable(a, b)
    else:
        require_comparable(a, b)


def test_two_modes_are_not_compared() -> None:
    with pytest.raises(CheckFailed, match="CB-BENCH-05") as caught:
        require_comparable(
            Timed(lambda: None, mode="eager on cuda, recorded"), Timed(lambda: None, mode="eager on cuda")
        )
    assert "recorded" in caught.value.where


def test_bench_notices_that_the_baseline_runs_in_place_of_the_candidate(
    quick_compile: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates reused graphs: every compiled module runs the module without CB."""
    plain, edited = _edited()
    bench(plain, edited, backend="compile", budget=0.5)
    monkeypatch.setattr(torch_runtimes.CompiledRuntime, "_compiled", lambda self: plain.module)
    with pytest.raises(CheckFailed, match="CB-BENCH-04"):
        bench(plain, edited, backend="compile", budget=0.5)


def test_compiled_models_never_go_on_eagerly(quick_compile: None) -> None:
    """Beyond the limit of compiled variants Dynamo runs eagerly and writes a line to the log; here it is an error."""
    model = Model(*tiny_vit())
    with torch._dynamo.config.patch(recompile_limit=1), open_runtime(model, "compile") as runtime:
        (port,) = runtime.inputs
        shape: list[Any] = [1, *port.dims[1:]]
        runtime.run({port.name: torch.randn(shape)})
        with pytest.raises(CheckFailed, match="CB-RUN-12"):
            for batch in (2, 3, 5):
                runtime.run({port.name: torch.randn([batch, *shape[1:]])})
