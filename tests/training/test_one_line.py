"""``insert_`` in one line on any module: its mode, device, type and wrappers stay; what comes too late is refused.

The reference is the same network with the token mean in hooks written here.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from tests.training.networks import build, images, logits, recipe

pytest.importorskip("timm", reason="the architectures are timm's")

CLOSE = 1e-5


def answer(module: nn.Module, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return logits(module(images() if x is None else x))


def by_hand(name: str) -> nn.Module:
    """CB at the end of the upper half of the blocks, which is the second of two."""
    module = build(name).eval()
    last = {
        "vit": lambda: module.blocks[1].mlp,
        "swin": lambda: module.layers[1].blocks[0].mlp,
        "mixer": lambda: module.blocks[1].mlp_channels,
        "hf vit": lambda: module.vit.layers[1].mlp,
    }[name]()
    last.register_forward_hook(lambda _, args, y: (y + y.mean(1, keepdim=True)) / 2)
    return module


@pytest.mark.parametrize("name", ["vit", "swin", "mixer", "hf vit"])
def test_the_inputs_come_from_the_module(name: str) -> None:
    module = build(name).train()
    assert cbs.insert_(module, op="cb", layers="upper") is module
    assert module.training and all(part.training for part in module.modules())
    assert (answer(module.eval()) - answer(by_hand(name))).abs().max() < CLOSE


def test_torchvision_and_inputs_by_hand() -> None:
    vision = pytest.importorskip("torchvision.models", reason="the architecture is torchvision's")
    module = vision.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
    assert len(cbs.summary(cbs.insert_(module, layers="all"))) == 2
    for inputs in (torch.zeros(2, 9, 16), (torch.zeros(2, 9, 16),), {"x": torch.zeros(2, 9, 16)}):
        assert len(cbs.summary(cbs.insert_(Residuals(), layers="all", inputs=inputs))) == 2
    with pytest.raises(cbs.CBSurgeonError, match="CB-INPUT-02") as refused:
        cbs.insert_(Residuals(), layers="all")
    assert "inputs=x" in refused.value.do


class Residuals(nn.Module):
    """It has no configuration of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict(self.layers()) for _ in range(2)])

    @staticmethod
    def layers() -> dict[str, nn.Module]:
        return {"norm": nn.LayerNorm(16), "up": nn.Linear(16, 32), "down": nn.Linear(32, 16)}

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block["down"](nn.functional.gelu(block["up"](block["norm"](x))))  # type: ignore[index]
        return x


def test_a_choice_and_a_recipe() -> None:
    chosen = cbs.insert_(build("vit"), cbs.Choice(op="cb_s", layers="0"), initial=0.5)
    assert [(each.index, each.op) for each in cbs.summary(chosen).operators] == [(0, "cb_s")]
    with pytest.raises(cbs.CBSurgeonError, match="CB-OPTION-01"):
        cbs.insert_(build("vit"), recipe("vit"), layers="all")
    module = build("vit")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(cbs.CBSurgeonError):
        cbs.insert_(module, layers="7")
    assert not cbs.summary(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(("dtype", "op"), [(torch.bfloat16, "cb"), (torch.float16, "cb_s")])
def test_other_types(dtype: torch.dtype, op: str) -> None:
    module = cbs.insert_(build("vit").to(dtype), op=op, layers="all")
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    assert answer(module.eval(), images().to(dtype)).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the module lives on a GPU")
def test_on_a_gpu() -> None:
    module = cbs.insert_(build("vit").cuda(), op="cb_s", layers="all")
    assert {parameter.device.type for parameter in module.parameters()} == {"cuda"}
    assert answer(module.eval(), images().cuda()).isfinite().all()


def compiled(module: nn.Module) -> nn.Module:
    other: Any = torch.compile(module, backend="eager")
    answer(other)
    return other  # type: ignore[no-any-return]


def checkpointing(module: nn.Module) -> nn.Module:
    module.set_grad_checkpointing(True)  # type: ignore[operator]
    return module


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": compiled,
    "checkpointing": checkpointing,
    "DataParallel": nn.DataParallel,
}


@pytest.mark.parametrize("first", ["wrapper", "insertion"])
@pytest.mark.parametrize("wrapper", list(WRAPPERS))
def test_before_and_after_a_wrapper(wrapper: str, first: str) -> None:
    if wrapper == "DataParallel" and torch.cuda.is_available():
        pytest.skip("with a GPU the wrapper moves its inputs there")
    module = build("vit").eval()
    if first == "wrapper":
        whole = WRAPPERS[wrapper](module)
        assert cbs.insert_(whole, op="cb", layers="upper") is whole
    else:
        whole = WRAPPERS[wrapper](cbs.insert_(module, op="cb", layers="upper"))
    assert (answer(whole) - answer(by_hand("vit"))).abs().max() < CLOSE
    whole.train()
    whole(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


class TestTooLate:
    @pytest.fixture(autouse=True)
    def nothing_is_left(self) -> Iterator[None]:
        gc.collect()
        yield
        gc.collect()

    @pytest.mark.wide
    def test_an_optimizer(self) -> None:
        module = build("vit")
        optimizer = torch.optim.AdamW(cbs.parameter_groups(module, 0.05))
        cbs.insert_(copy.deepcopy(module), op="cb_s", layers="all")  # another module
        for what in ({"op": "cb_s", "layers": "all"}, recipe("vit", "cb_s")):
            with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-13") as refused:
                cbs.insert_(module, what) if isinstance(what, cbs.Recipe) else cbs.insert_(module, **what)
            assert "AdamW" in refused.value.where
            assert not cbs.summary(module)
        cbs.insert_(module, op="cb", layers="all")  # nothing that an optimizer could miss
        del optimizer, refused
        gc.collect()
        cbs.insert_(build("vit"), op="cb_s", layers="all")

    @pytest.mark.wide
    def test_ddp(self, tmp_path: Any) -> None:
        if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
            pytest.skip("this torch is built without gloo")
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'x'}", rank=0, world_size=1)
        try:
            module = build("vit").eval()
            wrapped = nn.parallel.DistributedDataParallel(module)
            for each in (wrapped, module):
                for op in ("cb_s", "cb_retrofit"):
                    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-14"):
                        cbs.insert_(each, op=op, layers="upper")
            assert cbs.insert_(wrapped, op="cb", layers="upper") is wrapped
            assert (answer(wrapped) - answer(by_hand("vit"))).abs().max() < CLOSE
        finally:
            del wrapped
            torch.distributed.destroy_process_group()


class TestSummary:
    def test_table_html_and_json(self) -> None:
        module = cbs.insert_(build("vit"), op="cb_s", layers="all", initial=0.5)
        cbs.insert_(module, op="cb", layers="1", pos="mid")
        found = cbs.summary(module)
        rows = [each.split() for each in str(found).splitlines()]
        assert str(found).splitlines()[0] == "3 x cb_s, cb, 64 parameters added"
        assert rows[1] == ["block", "operator", "at", "layer", "parameters", "options"]
        assert ["0", "cb_s", "end", "blocks.0.mlp", "32", "initial=0.5"] in rows
        assert ["1", "cb", "mid", "blocks.1.mlp.fc2", "0"] in rows
        assert "<td>blocks.1.mlp.fc2</td>" in found._repr_html_()
        assert found.to_dict()["operators"][0]["parameters"] == 32
        with cbs.disable(module):
            assert str(cbs.summary(module)).count("(disabled)") == 3
        assert cbs.summary(nn.ModuleDict({"net": module})).operators[0].path == "net.blocks.0.mlp"
        assert len(cbs.summary(module)) == 3

    def test_nothing_is_inserted(self) -> None:
        found = cbs.summary(build("vit"))
        assert not found and str(found) == "no operator is inserted"
        assert "<table>" not in found._repr_html_()
