"""Preprocessing: equal to what timm, torchvision and transformers do, kept in every file, and never guessed."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cbsurgeon import models
from cbsurgeon.deploy import export
from cbsurgeon.deploy.stated import preprocessing_in
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models import Model, Preprocessing, preprocessing_of
from cbsurgeon.models.imaging import to_input
from cbsurgeon.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, changed, cropped, from_dict, resized
from tests.data.pictures import noise, photographs

LOOK: dict[str, Any] = {"interpolation": "bicubic", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
SHAPES = ((301, 450), (450, 304), (67, 67), (64, 99), (225, 224))

# Families that differ in interpolation, crop share, crop mode, mean or size.
TIMM = (
    "vit_base_patch16_clip_224",
    "deit3_small_patch16_224",
    "resnet18",
    "efficientnet_b3",
    "vit_base_patch16_siglip_224",
    "mixer_b16_224",
    "vit_base_patch32_plus_256",
    "davit_tiny",
)

# transformers fuses the scaling by 255 into mean and standard deviation: the same numbers in another order of rounding.
FUSED = 1e-6


@pytest.mark.parametrize("name", TIMM)
def test_tensors_are_bit_for_bit_those_of_timms_validation(name: str) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    with torch.device("meta"):
        module = timm.create_model(name)
    config = resolve_data_config({}, model=module)
    transform = create_transform(**config, is_training=False)
    ours = preprocessing_of(Model(module, (torch.zeros(1, *config["input_size"]),)))
    assert ours is not None and ours.size == config["input_size"][1:]
    pictures = [*photographs(8), *(noise(*shape) for shape in SHAPES)]
    for picture in pictures:
        assert torch.equal(to_input(picture, ours), transform(picture))


@pytest.mark.parametrize(
    "given",
    [
        {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 1.0, "interpolation": "bilinear"},
        {"mean": [0.5], "std": [0.5], "crop_pct": None, "interpolation": ""},
        {"mean": None, "std": None, "crop_pct": 0.75, "interpolation": "random"},
        {"mean": None, "std": None, "crop_pct": None, "interpolation": ""},
    ],
)
def test_a_checkpoint_of_timms_training_script_keeps_the_preprocessing_of_its_arguments(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    """timm's script gives its arguments to ``resolve_data_config``, and saves them in the checkpoint."""
    import timm
    from timm.data import create_transform, resolve_data_config

    module = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64)
    arguments = argparse.Namespace(model="vit_tiny_patch16_224", img_size=64, model_kwargs={"depth": 1}, **given)
    payload = {"arch": "vit_tiny_patch16_224", "state_dict": module.state_dict(), "args": arguments}
    torch.save(payload, tmp_path / "last.pth.tar")
    known = {**vars(arguments), "interpolation": given["interpolation"].replace("random", "")}
    transform = create_transform(**resolve_data_config(known, model=module), is_training=False)
    for path in (tmp_path / "last.pth.tar", models.save(models.load(tmp_path / "last.pth.tar"), tmp_path / "again.pt")):
        ours = preprocessing_of(models.load(path))
        assert ours is not None and ours.size == (64, 64)
        for picture in photographs(4):
            assert torch.equal(to_input(picture, ours), transform(picture))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(96, 96), (64, 96)])
def test_every_crop_mode_of_timm(mode: str, size: tuple[int, int]) -> None:
    from timm.data import create_transform

    transform = create_transform((3, *size), crop_pct=0.9, crop_mode=mode, is_training=False, **LOOK)
    ours = cropped(size, 0.9, resize={"center": "shortest", "squash": "squash", "border": "pad"}[mode], **LOOK)
    for shape in SHAPES:
        picture = noise(*shape)
        assert torch.equal(to_input(picture, ours), transform(picture))


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "mobilenet_v3_small"])
def test_tensors_are_bit_for_bit_those_of_torchvisions_weights(name: str) -> None:
    import torchvision.models

    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    with torch.device("meta"):
        module = torchvision.models.get_model(name)
    edge = transform.crop_size[0]
    model = Model(module, (torch.zeros(1, 3, edge, edge),), models.Provenance(architecture=f"torchvision:{name}"))
    ours = preprocessing_of(model)
    assert ours is not None and "Weights" in ours.source
    for picture in (*photographs(5), *(noise(*shape) for shape in SHAPES)):
        assert torch.equal(to_input(picture, ours), transform(picture))


@pytest.mark.parametrize(
    ("kind", "small"),
    [
        ("ViTForImageClassification", {"image_size": 224}),
        ("DeiTForImageClassification", {"image_size": 224}),
        ("ConvNextForImageClassification", {"image_size": 384}),
        ("MobileViTForImageClassification", {"image_size": 256}),
        ("BeitForImageClassification", {"image_size": 224}),
        ("MobileNetV2ForImageClassification", {"image_size": 224}),
        ("PvtForImageClassification", {"image_size": 224}),
    ],
)
def test_tensors_are_those_of_transformers_image_processor(kind: str, small: dict[str, int]) -> None:
    import transformers

    config = getattr(transformers, kind).config_class(**small)
    with torch.device("meta"):
        module = getattr(transformers, kind)(config)
    edge = small["image_size"]
    ours = preprocessing_of(Model(module, example_kwargs={"pixel_values": torch.zeros(1, 3, edge, edge)}))
    assert ours is not None
    processor = getattr(transformers, ours.source.split()[1])()
    for picture in (*photographs(4), *(noise(*shape) for shape in SHAPES)):
        theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(to_input(picture, ours), theirs, atol=FUSED, rtol=FUSED)


def test_a_folder_of_transformers_has_its_own_numbers(tmp_path: Path) -> None:
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.ViTForImageClassification(transformers.ViTConfig(**small, image_size=32)).save_pretrained(tmp_path)
    own = {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    transformers.ViTImageProcessor(**own).save_pretrained(tmp_path)
    found = models.load(f"hf:{tmp_path}").preprocessing
    assert found is not None and found.size == (32, 32)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert "preprocessor_config.json" in found.source


def test_a_processor_that_does_more_than_we_describe_is_not_described() -> None:
    import transformers

    config = transformers.EfficientNetConfig(image_size=64)
    with torch.device("meta"):
        module = transformers.EfficientNetForImageClassification(config)
    # It may rescale with an offset, and its resize leaves out antialiasing.
    assert preprocessing_of(Model(module, (torch.zeros(1, 3, 64, 64),))) is None


def test_inputs_of_a_users_own_module_are_not_guessed() -> None:
    assert preprocessing_of(Model(nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),))) is None
    with pytest.raises(UsageError) as caught:
        changed(None, where="mine.onnx", size=(224, 224), mean="imagenet")
    assert caught.value.code == "CB-DATA-01"
    assert caught.value.why == "the model does not define it, and --crop, --interpolation, --std are not given"


def test_it_is_in_every_file_that_is_written(tmp_path: Path) -> None:
    small = {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
    model = models.build("timm:vit_tiny_patch16_224", options=small)
    stated = replace(model, preprocessing=cropped((32, 32), 0.8, resize="squash", **LOOK))
    for name in ("m.safetensors", "m.pt"):
        assert models.load(models.save(stated, tmp_path / name)).preprocessing == stated.preprocessing
    export(stated, tmp_path / "m.pt2")
    assert models.load(tmp_path / "m.pt2", trust=True).preprocessing == stated.preprocessing
    export(stated, tmp_path / "m.onnx")
    assert preprocessing_in(tmp_path / "m.onnx") == stated.preprocessing


def test_an_engines_manifest_repeats_it(tmp_path: Path) -> None:
    from cbsurgeon.deploy import manifest

    engine = tmp_path / "m.engine"
    found = cropped((32, 32), 0.8, **LOOK)
    manifest.write(manifest.beside(engine), {"model": {"preprocessing": found.to_dict()}})
    assert preprocessing_in(engine) == found
    manifest.write(manifest.beside(engine), {"model": {}})
    assert preprocessing_in(engine) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"std": [1.0, 0.0, 1.0]}, "not above 0"),
        ({"mean": [0.5]}, "1 numbers for 3 channels"),
        ({"mean": ["a", 0, 0]}, "not a list of numbers"),
        ({"size": [0, 32]}, "edges are from 1"),
        ({"size": [1 << 20, 32]}, "edges are from 1"),
        ({"resize": "stretch"}, "'stretch'"),
        ({"interpolation": "random"}, "'random'"),
    ],
)
def test_preprocessing_in_a_file_is_checked(change: dict[str, Any], why: str) -> None:
    document = {**cropped((32, 32), 0.8, **LOOK).to_dict(), **change}
    with pytest.raises(InputFileError, match=why) as caught:
        from_dict(document, "m.onnx")
    assert caught.value.code == "CB-DATA-02" and caught.value.where == "m.onnx"


def test_the_json_form_reads_back() -> None:
    found = Preprocessing((32, 48), (0.1,), (0.2,), "pad", (40, 50), "lanczos", "grey", "torch", "mine")
    assert from_dict(json.loads(json.dumps(found.to_dict())), "x") == found


def test_flags_change_one_thing_and_the_two_spellings_of_a_crop_are_one() -> None:
    base = cropped((224, 224), 0.875, **LOOK)
    assert base.resize_to == (256, 256)
    assert not base.differences(cropped((256, 256), 224, **LOOK))
    assert changed(base, std="0.5").differences(base) == {"std": ((0.5, 0.5, 0.5), IMAGENET_STD)}
    assert changed(base, crop=1.0).resize_to == (224, 224)
    assert changed(base, size=(384, 384)).resize_to == (438, 438)
    assert changed(base, size=None) is base
    assert resized(base, (112, 112)).resize_to == (128, 128)
    with pytest.raises(UsageError, match="--mean imagine"):
        changed(base, mean="imagine")


def test_bgr_grey_and_names_of_differences() -> None:
    base = cropped((32, 32), 1.0, **LOOK)
    picture = noise(32, 32)
    plain = replace(base, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert torch.equal(to_input(picture, replace(plain, channels="bgr")), to_input(picture, plain).flip(0))
    grey = replace(base, mean=(0.5,), std=(0.5,), channels="grey")
    assert to_input(picture.convert("L"), grey).shape == (1, 32, 32)
    assert set(base.differences(grey)) == {"mean", "std", "channels"}


def test_flags_that_change_nothing_are_not_named() -> None:
    """``ship`` applies the same flags twice: to the model, and to the dataset."""
    flags: dict[str, Any] = {"size": (64, 64), "crop": 1.0, "interpolation": "bilinear", "mean": 0.5, "std": "0.5"}
    once = changed(None, **flags)
    assert once.source == "flags" and once.mean == (0.5, 0.5, 0.5)
    assert changed(once, **flags) == once
    assert changed(once, mean="0.1").source == "flags, changed by --mean"
