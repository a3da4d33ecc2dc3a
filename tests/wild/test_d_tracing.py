"""Edited modules can be traced symbolically, taken apart for features, and scripted as far as the originals can.

The reference is the edited module itself, run eagerly, and for features the output of a module in its forward pass.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn

import cbsurgeon as cbs
from tests.training.networks import build, images, logits

pytest.importorskip("timm", reason="the architectures are timm's and torchvision's")
torchvision = pytest.importorskip("torchvision", reason="the architectures are timm's and torchvision's")
from torchvision.models.feature_extraction import create_feature_extractor  # noqa: E402

CLOSE = 2e-6
"""float32: scripted and traced code adds in another order at most."""
SEEN = 1e-3
"""The operators move outputs and features by more than this."""


def _torchvision(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "vit":
            module = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
        else:
            module = torchvision.models.SwinTransformer([2, 2], 16, [1, 1], [2, 2], [4, 4], num_classes=5)
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
    return module.eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    # how to build it, a node of torchvision's feature extractor, and the module whose output that is
    "timm vit": (lambda: build("vit").eval(), "blocks.1.norm1", "blocks.1.norm1"),
    "timm mixer": (lambda: build("mixer").eval(), "blocks.1.norm1", "blocks.1.norm1"),
    "torchvision vit": (lambda: _torchvision("vit"), "encoder.ln", "encoder.ln"),
    "torchvision swin": (lambda: _torchvision("swin"), "features.3.0.norm1", "features.3.0.norm1"),
}
CASES = [
    (name, pos, op)
    for name in NETWORKS
    for pos, op in (("end", "cb"), ("mid", "cb_s"), ("front", "cb"), ("end", "cb_retrofit"))
]
cases = pytest.mark.parametrize(("name", "pos", "op"), CASES)
OPTIONS = {"cb_s": {"initial": 0.5}, "cb_retrofit": {"strength": 0.4}}


@cache
def recipe(name: str, pos: str, op: str, **options: object) -> cbs.Recipe:
    found = found_in(name)
    return cbs.plan(found, op=op, layers="all", pos=pos, options={**OPTIONS.get(op, {}), **options})


@cache
def found_in(name: str) -> cbs.Inspection:
    return cbs.inspect(cbs.Model(NETWORKS[name][0](), (images(),)))


def edited(name: str, pos: str, op: str) -> nn.Module:
    return cbs.insert_(NETWORKS[name][0](), recipe(name, pos, op))


def answer(module: nn.Module, count: int = 2) -> Tensor:
    with torch.no_grad():
        return logits(module(images(count)))


@pytest.mark.thin(5)
@cases
def test_symbolic_trace(name: str, pos: str, op: str) -> None:
    module = edited(name, pos, op)
    traced = fx.symbolic_trace(module)
    for count in (2, 3):
        assert (answer(traced, count) - answer(module, count)).abs().max() < CLOSE
    assert (answer(traced) - answer(NETWORKS[name][0]())).abs().max() > SEEN
    before = {key: value for key, value in traced.state_dict().items() if "context_broadcast" not in key}
    assert before.keys() <= NETWORKS[name][0]().state_dict().keys()


@pytest.mark.thin(5)
@cases
def test_torchvisions_feature_extractor(name: str, pos: str, op: str) -> None:
    module, (_, node, path) = edited(name, pos, op), NETWORKS[name]
    seen: list[Tensor] = []
    handle = module.get_submodule(path).register_forward_hook(lambda _, args, output: seen.append(output))
    answer(module)
    handle.remove()
    with torch.no_grad():
        features = create_feature_extractor(module, return_nodes={node: "y"})(images())["y"]
        plain = create_feature_extractor(NETWORKS[name][0](), return_nodes={node: "y"})(images())["y"]
    assert (features - seen[0]).abs().max() < CLOSE
    assert (features - plain).abs().max() > SEEN


@pytest.mark.parametrize("method", ["fx", "hook"])
def test_timms_attention_maps(method: str) -> None:
    from timm.utils import AttentionExtract

    module = edited("timm vit", "end", "cb")
    for each in (module, plain := NETWORKS["timm vit"][0]()):
        for block in each.blocks:
            block.attn.fused_attn = False
    with torch.no_grad():
        maps, others = (list(AttentionExtract(each, method=method)(images()).values()) for each in (module, plain))
    assert [each.shape for each in maps] == [each.shape for each in others] == [(2, 2, 17, 17)] * 2
    assert torch.equal(maps[0], others[0])  # before the first operator
    assert (maps[1] - others[1]).abs().max() > 1e-4
    assert (maps[1].sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.thin(5)
@cases
def test_script(name: str, pos: str, op: str) -> None:
    module = edited(name, pos, op)
    before = [(path, type(part)) for path, part in module.named_modules()]
    scripted = torch.jit.script(cbs.scriptable(module))
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for each in (scripted, torch.jit.load(file)):
        for count in (2, 3):
            assert (answer(each, count) - answer(module, count)).abs().max() < CLOSE
    assert [(path, type(part)) for path, part in module.named_modules()] == before
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-12") as refused:
        torch.jit.script(module)
    assert "cbs.scriptable" in refused.value.do
    assert [(path, type(part)) for path, part in module.named_modules()] == before


def test_two_operators_on_a_layer_and_a_slice() -> None:
    module = edited("timm vit", "mid", "cb_s")
    cbs.insert_(module, recipe("timm vit", "end", "cb").without(0))
    cbs.insert_(module, cbs.plan(found_in("timm vit"), op="cb", layers="0", pos="end", options={"tokens": "1:"}))
    copied = copy.deepcopy(module)
    assert (answer(torch.jit.script(cbs.scriptable(module)), 3) - answer(module, 3)).abs().max() < CLOSE
    assert (answer(fx.symbolic_trace(copied), 3) - answer(module, 3)).abs().max() < CLOSE


class Masked(nn.Module):
    """An encoder with a padding mask as an input."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=padding)  # type: ignore[no-any-return]


def test_a_masked_operator_is_not_scripted() -> None:
    module = Masked().eval()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    found = cbs.inspect(cbs.Model(copy.deepcopy(module), (torch.randn(2, 6, 16), padding)))
    cbs.insert_(module, cbs.plan(found, op="cb", layers="all", options={"masked": True}))
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-12") as refused:
        cbs.scriptable(module)
    assert "padding mask" in refused.value.why
