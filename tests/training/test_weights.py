"""Keys, optimizer groups, averaged copies and pickles: what holds a model's weights holds the insertion."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.models.checkpoints.fitting import advice
from tests.training.networks import NETWORKS, build, edited, images, logits, recipe, scales

ROOT = Path(__file__).parents[2]
every = pytest.mark.parametrize("name", list(NETWORKS))
DECAY = 0.05


def outputs(module: nn.Module, x: Tensor | None = None) -> Tensor:
    module.eval()
    with torch.no_grad():
        return logits(module(images() if x is None else x))


@every
def test_an_old_checkpoint_loads(name: str) -> None:
    old = build(name).state_dict()
    with_cb = edited(name, "cb")
    assert list(with_cb.state_dict()) == list(old)
    with_cb.load_state_dict(old, strict=True)
    with_scale = edited(name, "cb_s")
    loaded = with_scale.load_state_dict(old, strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == list(scales(with_scale))
    assert len(loaded.missing_keys) == 2


def groups_of(optimizer_groups: list[dict[str, object]], module: nn.Module) -> dict[str, float]:
    """Weight decay by parameter name."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {names[id(p)]: float(g["weight_decay"]) for g in optimizer_groups for p in g["params"]}  # type: ignore
    assert len(found) == len(names)  # every parameter is in exactly one group
    assert sum(len(g["params"]) for g in optimizer_groups) == len(names)  # type: ignore[arg-type]
    return found


@every
def test_scale_is_not_decayed(name: str) -> None:
    module = edited(name, "cb_s")
    decay = groups_of(cbs.parameter_groups(module, DECAY), module)
    own = getattr(module, "no_weight_decay", set)()
    for key, parameter in module.named_parameters():
        assert decay[key] == (0.0 if parameter.dim() <= 1 or key in own else DECAY)
    assert all(decay[key] == 0.0 for key in scales(module))


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("hf")])
def test_grouped_as_timm_groups(name: str) -> None:
    optim = pytest.importorskip("timm.optim", reason="compared with timm's own grouping")
    module = edited(name, "cb_s")
    own = module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()
    theirs = optim.param_groups_weight_decay(module, DECAY, no_weight_decay_list=own)
    assert groups_of(cbs.parameter_groups(module, DECAY), module) == groups_of(theirs, module)


def test_frozen_parameters_are_in_no_group() -> None:
    module = edited("vit", "cb_s")
    module.requires_grad_(False)
    for scale in scales(module).values():
        scale.requires_grad_(True)
    first, second = cbs.parameter_groups(module, DECAY)
    assert first["params"] == []
    assert {id(p) for p in second["params"]} == {id(p) for p in scales(module).values()}


@every
def test_an_averaged_copy_is_a_model_of_its_own(name: str) -> None:
    module = edited(name, "cb_s")
    before = outputs(module)
    averaged = copy.deepcopy(module)
    assert torch.equal(outputs(averaged), before)
    with torch.no_grad():
        for scale in scales(averaged).values():
            scale.fill_(2.0)
    assert not torch.equal(outputs(averaged), before)  # the copy's hooks read the copy's scale
    assert torch.equal(outputs(module), before)  # and nobody else's


def test_timms_averaging_follows_scale() -> None:
    pytest.importorskip("timm", reason="the averaging is timm's")
    from timm.utils import ModelEmaV3

    module = edited("vit", "cb_s")
    averaged = ModelEmaV3(module, decay=0.75)
    with torch.no_grad():
        for scale in scales(module).values():
            scale.fill_(1.3)
    averaged.update(module, step=2)  # the first step copies
    # decay * 0.3 + (1 - decay) * 1.3
    for scale in scales(averaged.module).values():
        torch.testing.assert_close(scale, torch.full_like(scale, 0.55))
    reference = edited("vit", "cb_s")
    with torch.no_grad():
        for scale in scales(reference).values():
            scale.copy_(next(iter(scales(averaged.module).values())))
    assert torch.equal(outputs(averaged.module), outputs(reference))


READ = """
import sys, torch
module = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    out = module.eval()(torch.load(sys.argv[2]))
torch.save(out if isinstance(out, torch.Tensor) else out.logits, sys.argv[3])
"""


@pytest.mark.parametrize("op", ["cb", "cb_s", "cb_retrofit"])
def test_pickled_here(op: str) -> None:
    module = edited("vit", op)
    if op == "cb_retrofit":
        cbs.set_strength(module, 0.25)
    expected = outputs(module)
    assert torch.equal(outputs(pickle.loads(pickle.dumps(module))), expected)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    assert torch.equal(outputs(torch.load(stream, weights_only=False)), expected)


def test_pickled_and_read_in_a_fresh_process(tmp_path: Path) -> None:
    module = edited("vit", "cb_s")
    torch.save(module, tmp_path / "m.pt")
    torch.save(images(), tmp_path / "x.pt")
    files = [str(tmp_path / name) for name in ("m.pt", "x.pt", "out.pt")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", READ, *files], check=True, cwd=ROOT)
    assert torch.equal(torch.load(tmp_path / "out.pt"), outputs(module))


@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_a_trained_module_knows_its_recipe(op: str, tmp_path: Path) -> None:
    """Inserted in a training script by ``insert_``, averaged, saved by name of architecture alone, and loaded whole."""
    pytest.importorskip("timm", reason="the architecture is timm's")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    fresh = cbs.load("timm:vit_tiny_patch16_224", options=options)
    assert fresh.recipes == ()
    trained = copy.deepcopy(cbs.insert_(copy.deepcopy(fresh.module), recipe("vit", op)))
    model = cbs.Model(trained, fresh.example_inputs, fresh.provenance)
    assert model.recipes == (recipe("vit", op).to_dict(),)
    again = cbs.load(str(cbs.save(model, tmp_path / "m.safetensors")))
    assert again.recipes == model.recipes
    assert torch.equal(outputs(again.module), outputs(trained))
    assert cbs.remove(again).recipes == ()
    # A model object made before the insertion is asked again when it is saved.
    cbs.insert_(fresh.module, recipe("vit", op))
    again = cbs.load(str(cbs.save(fresh, tmp_path / "later.safetensors")))
    assert again.recipes == model.recipes


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "model.", "net.backbone."])
@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_a_training_checkpoint_takes_its_recipe(op: str, wrapper: str, tmp_path: Path) -> None:
    """Keys with the prefixes of DDP, compile or a Lightning module; the other data of a trainer are stored beside the
    weights."""
    pytest.importorskip("timm", reason="the architecture is timm's")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    module = edited("vit", op)
    state = {wrapper + key: value for key, value in module.state_dict().items()}
    if wrapper in ("model.", "net.backbone."):
        state["criterion.weight"] = torch.ones(5)
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "pytorch-lightning_version": "2.5.0", "state_dict": state}, path)
    how = {"arch": "timm:vit_tiny_patch16_224", "options": options}
    loaded = cbs.load(str(path), recipe=recipe("vit", op), **how)
    assert torch.equal(outputs(loaded.module), outputs(module))
    assert loaded.recipes == (recipe("vit", op).to_dict(),)
    written = tmp_path / "recipe.json"
    written.write_text(recipe("vit", op).to_json())
    assert cbs.load(str(path), recipe=written, **how).recipes == loaded.recipes
    if op == "cb_s":
        with pytest.raises(cbs.CBSurgeonError, match="CB-FIT-01") as refused:
            cbs.load(str(path), **how)
        assert "--trained-with" in refused.value.do


def test_two_models_under_two_prefixes_are_not_guessed_between(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the architecture is timm's")
    state = build("vit").state_dict()
    both = {f"{prefix}.{key}": value for prefix in ("student", "teacher") for key, value in state.items()}
    torch.save({"state_dict": both}, tmp_path / "m.ckpt")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    with pytest.raises(cbs.CBSurgeonError, match="CB-FIT-01"):
        cbs.load(str(tmp_path / "m.ckpt"), arch="timm:vit_tiny_patch16_224", options=options)


def test_keys_its_authors_published(tmp_path: Path) -> None:
    """Swin's own files keep weights under ``model``, list two buffers timm computes, and have other names of layers."""
    pytest.importorskip("timm", reason="the architecture is timm's")
    module = build("swin")
    state = module.state_dict()
    old = {key.replace("head.fc.", "head."): value for key, value in state.items()}
    # Stage 1 downsamples at its end in the authors' code and at the start of stage 2 in timm's.
    old = {key.replace("layers.1.downsample", "layers.0.downsample"): value for key, value in old.items()}
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    old["layers.0.blocks.0.attn_mask"] = torch.zeros(4, 16, 16)
    torch.save({"model": old}, tmp_path / "swin.pth")
    options = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1)}
    options |= {"num_heads": (2, 2), "num_classes": 5}
    loaded = cbs.load(str(tmp_path / "swin.pth"), arch="timm:swin_tiny_patch4_window7_224", options=options)
    assert torch.equal(outputs(loaded.module), outputs(module))


def test_another_number_of_blocks_is_named_in_the_advice() -> None:
    own = {f"blocks.{number}.norm.weight": torch.ones(1) for number in range(12)}
    assert "--model-option depth=6" in advice(own, {key: own[key] for key in list(own)[:6]})
    assert "num_classes" in advice(own, {**own, "head.weight": torch.ones(3)})
