"""Uniform heads (Table 1 A, B, C): the map itself is uniform, with either editor, in every form of attention."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.deploy.folding.folds import fold
from cbsurgeon.graph.capture import capture

ROUNDING = 1e-6
"""Outputs of order one: the same products in another order differ by some units in the last place of float32."""

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit(**changes: Any) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    keywords = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return VisionTransformer(**(keywords | changes)).eval()


def hf_vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48
    )
    return ViTModel(config, add_pooling_layer=False).eval()


def rope() -> nn.Module:
    from timm.models.eva import Eva

    torch.manual_seed(0)
    keywords: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    module = Eva(img_size=32, patch_size=8, use_rot_pos_emb=True, qkv_fused=False, **keywords).eval()
    for parameter in module.parameters():  # its own start gives outputs of almost zero
        nn.init.normal_(parameter, std=0.3)
    return module


def unfused() -> nn.Module:
    """The same attention spelled out: scale, product, softmax, product."""
    module = vit(qk_norm=True, norm_layer=nn.RMSNorm)
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    return module


NETWORKS: dict[str, Callable[[], nn.Module]] = {"fused": vit, "unfused": unfused, "separate": hf_vit, "rope": rope}


def edited(module: nn.Module, **keywords: Any) -> tuple[cbs.Model, cbs.Recipe]:
    model = cbs.Model(module, (X,))
    return model, cbs.plan(cbs.inspect(model), op="uniform_head", layers="all", **keywords)


def run(model: cbs.Model) -> Tensor:
    module = model.module if model.module is not None else model.program.module()
    with torch.no_grad():
        out = module(*model.example_inputs)
    return out if isinstance(out, Tensor) else out[0]


@pytest.mark.thin(4)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_of_a_chosen_head_is_uniform_and_no_other(name: str) -> None:
    """Softmax of equal scores is 1/N to the bit, and both editors and the folded program give the same output."""
    model, recipe = edited(NETWORKS[name](), heads=[0, -1])
    assert len(recipe) == 2
    by_module, by_program = cbs.insert(model, recipe), cbs.insert(model, recipe, on="program")
    for one in (by_module, by_program):
        for before, (attention, weights) in zip(
            (weights for _, weights in cbs.attention_maps(model, X)), cbs.attention_maps(one, X), strict=True
        ):
            assert torch.equal(weights[:, [0, 2]], torch.full_like(weights[:, [0, 2]], 1 / attention.keys))
            assert float((before[:, [0, 2]] - 1 / attention.keys).abs().max()) > 10 * ROUNDING
            assert float((weights[:, 1] - 1 / attention.keys).abs().max()) > 10 * ROUNDING
    outcome = run(by_module)
    assert float((outcome - run(model)).abs().max()) > 10 * ROUNDING
    assert float((outcome - run(by_program)).abs().max()) <= ROUNDING
    folded, sites = fold(capture(by_module))
    assert [site.form for site in sites] == ["projection", "projection"]
    assert float((run(cbs.Model(None, (X,), program=folded.exported)) - outcome).abs().max()) <= ROUNDING


def test_it_is_the_model_with_zero_rows_for_the_queries() -> None:
    module = vit()
    by_hand = copy.deepcopy(module)
    for block in by_hand.blocks:  # q, k, v in this order, eight channels a head
        block.attn.qkv.weight.data[8:16] = 0
        block.attn.qkv.bias.data[8:16] = 0
    model, recipe = edited(module, heads=1)
    assert torch.equal(run(cbs.insert(model, recipe)), by_hand(X))


def test_no_key_changes_and_removal_restores_the_bits() -> None:
    model, recipe = edited(vit())
    result = cbs.insert(model, cbs.Recipe.from_json(recipe.to_json()))
    assert list(result.module.state_dict()) == list(model.module.state_dict())
    assert torch.equal(run(cbs.remove(result)), run(model))
    program = cbs.insert(model, recipe, on="program")
    assert set(program.program.state_dict) == set(model.module.state_dict())
    assert str(cbs.remove(program).program.graph) == str(capture(model).exported.graph)


def test_the_mask_survives_a_move_without_values() -> None:
    model, recipe = edited(vit(), heads=2)
    module = cbs.insert(model, recipe).module
    empty = copy.deepcopy(module).to_empty(device="cpu")
    empty.load_state_dict(module.state_dict())
    assert torch.equal(empty(X), module(X))


def test_the_weights_of_the_queries_and_keys_of_a_head_get_no_gradient() -> None:
    """What (A) counts as dropped: 2 d (D + 1) values a layer no longer matter (the values of the head still do)."""
    model, recipe = edited(vit(), heads=1)
    module = cbs.insert(model, recipe).module
    module(X).square().sum().backward()
    for block in module.blocks:
        still = ~block.attn.qkv.weight.grad.bool().any(1)
        assert still.nonzero().flatten().tolist() == [*range(8, 16), *range(24 + 8, 24 + 16)]


def test_a_causal_head_is_uniform_over_what_it_sees() -> None:
    """Uniform over visible keys only: no token sees its future, so that nothing is refused."""

    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind()
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return x + self.out(y.transpose(1, 2).flatten(2))

    x = torch.randn(2, 7, 16)
    model = cbs.Model(Causal().eval(), (x,))
    result = cbs.insert(model, cbs.plan(cbs.inspect(model), op="uniform_head", layers="all"))
    ((_, weights),) = cbs.attention_maps(result, x)
    seen = torch.ones(7, 7).tril()
    torch.testing.assert_close(weights[:, 0], (seen / seen.sum(1, keepdim=True)).expand(2, 7, 7), rtol=0, atol=ROUNDING)


def test_refusals() -> None:
    from timm.models.swin_transformer import SwinTransformer

    swin = cbs.Model(
        SwinTransformer(img_size=32, patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4).eval(),
        (X,),
    )
    with pytest.raises(cbs.CBSurgeonError, match="CB-LOCATE-04") as refused:
        cbs.plan(cbs.inspect(swin), op="uniform_head", layers="all")
    assert "bias is added to its scores" in refused.value.why
    with pytest.raises(cbs.CBSurgeonError, match="CB-PLAN-02"):
        edited(vit(), pos="mid")
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-06") as refused:
        edited(vit(), heads=3)
    assert "3 heads" in refused.value.why
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-06"):
        edited(vit(), heads="first")
    model, recipe = edited(vit())
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-03"):
        cbs.insert(cbs.insert(model, recipe), recipe)


def test_a_projection_without_a_module_is_edited_in_the_program_only() -> None:
    """``nn.MultiheadAttention`` makes queries, keys and values inside one forward()."""
    torchvision = pytest.importorskip("torchvision", reason="the architecture is torchvision's")
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(module.heads.head.weight)
    model, recipe = edited(module)
    with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-02"):
        cbs.insert(model, recipe)
    result = cbs.insert(model, recipe, on="program")
    for attention, weights in cbs.attention_maps(result, X):
        assert torch.equal(weights[:, 0], torch.full_like(weights[:, 0], 1 / attention.keys))
