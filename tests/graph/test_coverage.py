"""Inspection compared with the ground truth of the zoo, which is made from classes and attributes and does not use
inspection."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # `benchmarks` is a folder beside the package, not part of it
    sys.path.insert(0, str(ROOT))

from benchmarks.coverage import read_truth  # noqa: E402
from benchmarks.zoo import entries, entry  # noqa: E402
from benchmarks.zoo.measure import measure  # noqa: E402
from benchmarks.zoo.truth import truth  # noqa: E402

EXPECTED = read_truth()
EVERY = [candidate.name for candidate in entries()]

# One of each kind, the quick ones: plain, distilled, layer-scaled, packed and split gates, windows, depthwise inside,
# mixers, parallel branches, class attention, one module called several times, two streams, grouped 1x1 convolutions,
# encoder and decoder, causal, NCHW; and four that hold no block.
TWENTY = [
    "timm/deit_tiny_distilled_patch16_224",
    "timm/deit3_small_patch16_224",
    "timm/eva02_base_patch16_clip_224",
    "timm/mixer_s32_224",
    "timm/pvt_v2_b2_li",
    "timm/swin_tiny_patch4_window7_224",
    "timm/tnt_s_legacy_patch16_224",
    "timm/vit_base_patch16_xp_224",
    "timm/cait_xxs24_224",
    "timm/test_convnext2",
    "timm/test_efficientnet",
    "torchvision/vit",
    "torchvision/mobilenet_v2",
    "torchvision/resnet18",
    "transformers/albert",
    "transformers/lilt",
    "transformers/squeezebert",
    "transformers/t5",
    "transformers/llama",
    "transformers/opt",
    "transformers/poolformer",
]

# Families of timm without attention or token mixing, which the sweep leaves out. A family that is in neither list is
# new, and somebody has to look at it.
WITHOUT_MIXING = frozenset(
    "cspnext densenet hardcorenas hrnet inception_resnet_v2 inception_v3 inception_v4 nasnet pnasnet resnetv2 selecsls "
    "vgg xception".split()
)


def agrees(name: str) -> None:
    result = measure(entry(name), EXPECTED[name])
    assert not result.get("error"), f"{result['error']} {result['why']}"
    assert not result["missed"], f"missed {result['missed']}"
    assert not result["extra"], f"extra {result['extra']}"
    assert not result["fc1_differs"]
    assert not result["calls_differ"]
    assert not result["order_differs"]


@pytest.mark.thin(4)
@pytest.mark.parametrize("name", TWENTY)
def test_default_blocks_are_the_expected_ones(name: str) -> None:
    agrees(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERY if name not in TWENTY])
def test_default_blocks_are_the_expected_ones_everywhere(name: str) -> None:
    agrees(name)


@pytest.mark.parametrize("name", TWENTY)
def test_truth_is_reproduced(name: str) -> None:
    assert truth(entry(name)) == EXPECTED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERY if name not in TWENTY])
def test_truth_is_reproduced_everywhere(name: str) -> None:
    assert truth(entry(name)) == EXPECTED[name]


def test_truth_covers_the_zoo_and_nothing_else() -> None:
    assert sorted(EXPECTED) == sorted(EVERY)
    assert len(set(EVERY)) == len(EVERY)


def test_zoo_is_as_wide_as_promised() -> None:
    families = {group: set() for group in ("timm", "torchvision", "transformers", "negative")}
    for candidate in entries():
        families[candidate.group].add(candidate.family)
    assert len(families["transformers"]) >= 45
    assert len(families["torchvision"]) == 4
    assert len(families["negative"]) >= 15


def test_negatives_hold_no_block() -> None:
    assert not any(EXPECTED[candidate.name]["blocks"] for candidate in entries() if candidate.group == "negative")


@pytest.mark.slow
def test_every_family_of_timm_is_in_the_zoo_or_known_to_mix_no_tokens() -> None:
    from timm.models import _registry

    registered = set(_registry._module_to_models)
    covered = {candidate.family for candidate in entries() if candidate.name.startswith("timm/")}
    assert registered == covered | WITHOUT_MIXING


def test_no_block_is_expected_twice() -> None:
    for name, model in EXPECTED.items():
        places = Counter(tuple(block["fc2"]) for block in model["blocks"])
        assert not [place for place, times in places.items() if times > 1], name
