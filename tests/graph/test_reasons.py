"""The parts of an MLP branch that a rejected candidate has; the expected parts are written beside each network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.graph.reasons import Part, Reason
from cbsurgeon.report import render_text

NORM, UP, ACTIVATION, DOWN, ADD = Part


class Candidate(nn.Module):
    """An ordinary MLP block, and a parallel branch whose parts can be left out."""

    def __init__(self, *parts: Part, tokens: int = 5) -> None:
        super().__init__()
        self.parts, self.tokens = parts, tokens
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.only = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : self.tokens]
        y = self.norm(x) if NORM in self.parts else x
        if UP in self.parts:
            y = self.up(y)
            y = nn.functional.gelu(y) if ACTIVATION in self.parts else y
            y = self.down(y)
        else:
            y = self.only(y)
        return x + y if ADD in self.parts else y


@pytest.mark.parametrize(
    ("reason", "parts", "tokens"),
    [
        (Reason.NO_ACTIVATION, (NORM, UP, DOWN, ADD), 5),
        (Reason.NO_ACTIVATION, (UP, DOWN, ADD), 5),
        (Reason.SINGLE_PROJECTION, (DOWN, ADD), 5),
        (Reason.SINGLE_PROJECTION, (NORM, DOWN, ADD), 5),
        (Reason.NO_RESIDUAL, (NORM, UP, ACTIVATION, DOWN), 5),
        (Reason.NO_RESIDUAL, (UP, ACTIVATION, DOWN), 5),
        (Reason.ONE_TOKEN, (NORM, UP, ACTIVATION, DOWN, ADD), 1),
        (Reason.ONE_TOKEN, (UP, ACTIVATION, DOWN, ADD), 1),
    ],
)
def test_the_parts_of_a_candidate(reason: Reason, parts: tuple[Part, ...], tokens: int) -> None:
    found = cbs.inspect(cbs.Model(Candidate(*parts, tokens=tokens).eval(), (torch.randn(2, 5, 8),)))
    assert not found.blocks
    (candidate,) = found.rejected
    assert candidate.reason is reason
    assert candidate.reached == parts
    document = candidate.to_dict()
    assert document["reason"] == str(reason) and document["sentence"] == reason.sentence
    assert document["reached"] == [str(part) for part in parts]
    text = render_text({**found.to_dict(), "show_rejected": True}, width=160)
    assert f"{reason}: {reason.sentence}" in text and ", ".join(parts) in text


def test_every_reason_has_a_sentence_of_its_own() -> None:
    sentences = [reason.sentence for reason in Reason]
    assert len(set(sentences)) == len(sentences) and all(len(sentence.split()) > 4 for sentence in sentences)
    assert all(str(reason) == reason.value == reason.value.lower() for reason in Reason)
