"""Inspection lists the attentions that run, for some models of the zoo; ``benchmarks/attention.py`` tests all of
them."""

from __future__ import annotations

import pytest

pytest.importorskip("timm", reason="the zoo has models of timm")
pytest.importorskip("transformers", reason="the zoo has models of transformers")

from benchmarks.attention import compared
from benchmarks.zoo import entries
from benchmarks.zoo.attention_truth import attentions

SAMPLE = {
    "timm/cait_xxs24_224": 5,  # talking heads, class attention
    "timm/xcit_nano_12_p16_224": 2,  # class attention; three more weigh channels
    "torchvision/swin": 8,  # windows, shifted
    "transformers/t5": 6,  # cross-attention, a bias by position
    "transformers/bert": 2,
}
"""Models → attentions that run, counted in their source."""


@pytest.mark.thin(5)
@pytest.mark.parametrize("name", SAMPLE)
def test_inspection_lists_what_runs(name: str) -> None:
    (entry,) = (entry for entry in entries() if entry.name == name)
    ran = [[seen.path, seen.keys] for seen in attentions(entry)]
    assert len(ran) == SAMPLE[name]
    found = compared(entry, ran)
    assert (found["found"], found["missed"], found["extra"]) == (SAMPLE[name], [], [])
