"""torchvision: all of its transformers, and pure convolutional networks as negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.zoo.entry import Built, Entry, image


def _vit() -> Built:
    from torchvision.models.vision_transformer import VisionTransformer

    module = VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=2, hidden_dim=64, mlp_dim=128, num_classes=10
    )
    return module, (image(64),), {}


def _swin(version: int) -> Callable[[], Built]:
    def build() -> Built:
        from torchvision.models import swin_transformer as swin

        options: dict[str, Any] = (
            {} if version == 1 else {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
        )
        module = swin.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=24,
            depths=[2, 2, 2, 2],
            num_heads=[1, 2, 4, 8],
            window_size=[4, 4],
            num_classes=10,
            **options,
        )
        return module, (image(64),), {}

    return build


def _maxvit() -> Built:
    from torchvision.models.maxvit import MaxVit

    module = MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=2,
        block_channels=[16, 24, 32, 48],
        block_layers=[2, 2, 2, 2],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=10,
    )
    return module, (image(64),), {}


# (registered name, picture size); all of them without attention or token mixing.
NETWORKS: tuple[tuple[str, int], ...] = (
    ("alexnet", 96),
    ("convnext_tiny", 64),
    ("densenet121", 64),
    ("efficientnet_b0", 64),
    ("efficientnet_v2_s", 64),
    ("googlenet", 64),
    ("inception_v3", 96),
    ("mnasnet0_5", 64),
    ("mobilenet_v2", 64),
    ("mobilenet_v3_small", 64),
    ("regnet_x_400mf", 64),
    ("regnet_y_400mf", 64),
    ("resnet18", 64),
    ("resnet50", 64),
    ("resnext50_32x4d", 64),
    ("shufflenet_v2_x0_5", 64),
    ("squeezenet1_1", 64),
    ("vgg11_bn", 64),
    ("wide_resnet50_2", 64),
)


def _network(name: str, size: int) -> Callable[[], Built]:
    def build() -> Built:
        import torchvision

        options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        return torchvision.models.get_model(name, weights=None, num_classes=10, **options), (image(size),), {}

    return build


def entries() -> Iterator[Entry]:
    """The four transformers, then the negatives."""
    for name, factory in (("vit", _vit), ("swin", _swin(1)), ("swin_v2", _swin(2)), ("maxvit", _maxvit)):
        yield Entry(f"torchvision/{name}", "torchvision", name, factory)
    for name, size in NETWORKS:
        yield Entry(f"torchvision/{name}", "negative", name, _network(name, size))
