"""DDP and FSDP2 on two real processes: the operator's parameters are everyone's, gathered and saved like any other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cbsurgeon as cbs
from tests.training import ranks
from tests.training.networks import edited, recipe, scales

ORDER = 2e-6
"""Two ranks average two sums that one process adds in one go: some float32 roundings of gradients below one."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes report."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    pytest.importorskip("timm", reason="the architecture is timm's")
    folder = tmp_path_factory.mktemp("ranks")
    recipes = {op: recipe("vit", op).to_json() for op in ("cb_s", "cb_retrofit")}
    torch.multiprocessing.spawn(ranks.run, (str(folder), recipes), nprocs=ranks.WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks.WORLD)]


@pytest.fixture(scope="module")
def alone() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and state after the same step by one process on the joined batch."""
    module = edited("vit", "cb_s")
    return ranks.step(module), module.state_dict()


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-5, atol=ORDER, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.wide
def test_ddp_gradients_are_those_of_the_joined_batch(found: list[dict[str, Any]], alone: Any) -> None:
    first, second = (report["ddp"]["grads"] for report in found)
    assert sum(key.endswith("context_broadcast.scale") for key in first) == 2
    assert all(torch.equal(first[key], second[key]) for key in first)
    close(first, alone[0])


def test_ddp_checkpoints_load_with_their_recipe(found: list[dict[str, Any]], alone: Any, tmp_path: Path) -> None:
    close(found[0]["ddp"]["state"], alone[1])
    keys = found[0]["ddp"]["keys"]
    assert keys == [f"module.{key}" for key in alone[1]]
    torch.save({key: found[0]["ddp"]["state"][key.removeprefix("module.")] for key in keys}, tmp_path / "ddp.pt")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    how = {"arch": "timm:vit_tiny_patch16_224", "options": options, "recipe": recipe("vit", "cb_s")}
    loaded = cbs.load(str(tmp_path / "ddp.pt"), **how)
    assert loaded.module is not None
    assert len(scales(loaded.module)) == 2
    close(loaded.module.state_dict(), alone[1])


def test_ddp_keeps_the_strength_of_a_schedule(found: list[dict[str, Any]]) -> None:
    for report in found:
        wanted = torch.tensor([[0.1, 0.1], [0.3, 0.3], [0.5, 0.5]])
        assert torch.equal(torch.tensor(report["retrofit"]["strengths"]), wanted)


def test_fsdp_state_is_that_of_the_unsharded_step(found: list[dict[str, Any]], alone: Any) -> None:
    for report in found:
        assert set(report["fsdp"]["kinds"].values()) == {"DTensor"}
        assert len(report["fsdp"]["kinds"]) == 2
    close(found[0]["fsdp"]["state"], alone[1])
    copy.deepcopy(edited("vit", "cb_s")).load_state_dict(found[0]["fsdp"]["state"], strict=True)


def test_inserting_into_shards_is_refused(found: list[dict[str, Any]]) -> None:
    for report in found:
        assert report["fsdp"]["too_late"] == "CB-SURGERY-08"


def test_shards_are_not_written_as_if_they_were_the_weights(found: list[dict[str, Any]]) -> None:
    for report in found:
        assert "CB-SAVE-02" in report["fsdp"]["late"]
        assert "gather" in report["fsdp"]["late"]
