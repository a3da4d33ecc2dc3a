"""Axis roles where all sizes coincide on purpose: batch = tokens = channels = hidden, so no comparison can decide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cbsurgeon.graph import inspect
from cbsurgeon.models.model import Model
from tests.graph import networks_axes
from tests.graph.networks import CASES, of
from tests.graph.networks_axes import BareMixerBlock, SameNlc, SameStack
from tests.graph.readings import inspection, node_values
from tests.graph.test_hostile import check_blocks, check_end_axes

NAMES = [case.name for case in of(networks_axes)]
ALL_EQUAL = [name for name in NAMES if name.startswith("Same")]


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", NAMES)
def test_blocks(name: str) -> None:
    """Token MLPs and channel MLPs are distinguished, and each is found once."""
    check_blocks(name)


@pytest.mark.parametrize("name", NAMES)
def test_end_axes(name: str) -> None:
    check_end_axes(name)


@pytest.mark.parametrize("name", ALL_EQUAL)
def test_the_sizes_do_coincide(name: str) -> None:
    """The networks do what their file promises: every axis of every End tensor that is not folded has one size."""
    for block in inspection(name).blocks:
        for use in block.sites["end"].uses:
            shape = node_values(name)[use.value].shape
            unfolded = [size for axis, size in enumerate(shape) if axis not in block.sites["end"].batch_axes]
            assert set(unfolded) == {networks_axes.SAME}
            assert block.hidden == networks_axes.SAME


@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].blocks])
def test_roles_are_the_same_at_every_position(name: str) -> None:
    """Front, Mid and End of one block number the same tokens, because none of these MLPs changes the token count."""
    for block in inspection(name).blocks:
        if block.kind != "token-mlp":
            assert {site.tokens for site in block.sites.values()} == {block.tokens}
            assert {len(site.token_axes) for site in block.sites.values()} == {len(block.token_axes)}


def test_front_and_mid_of_a_token_mlp() -> None:
    """A token MLP's Front is (B, C, N) like its End; its hidden tensor has no token axis, and that is the reason."""
    token_mlps = [block for block in inspection("SameMixer").blocks if block.kind == "token-mlp"]
    assert len(token_mlps) == 2
    for block in token_mlps:
        assert (block.sites["front"].token_axes, block.sites["front"].channel_axis) == ((2,), 1)
        assert "token" in block.unavailable["mid"]


@pytest.mark.thin(3)
@pytest.mark.parametrize("tokens", [1, 2, 4, 7])
@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_roles_do_not_depend_on_sizes(batch: int, tokens: int) -> None:
    """The same blocks with any batch (a batch of one is doubled for capture) and any token count but one."""
    torch.manual_seed(0)
    module = SameNlc().eval()
    found = inspect(Model(module, (torch.randn(batch, tokens, networks_axes.SAME),)))
    if tokens == 1:
        assert not found.blocks
        assert {r.reason for r in found.rejected} >= {"one-token"}
        return
    ends = [block.sites["end"] for block in found.blocks]
    assert [(end.token_axes, end.channel_axis, end.batch_axes) for end in ends] == [((1,), 2, (0,))] * 2


def test_swapping_the_axes_of_an_undecidable_network_changes_nothing() -> None:
    """The bare Mixer and the same network with swapped axes are both rejected: the roles are not guessed."""
    sample = torch.randn(2, networks_axes.SAME, networks_axes.SAME)
    plain = SameStack(BareMixerBlock(6), BareMixerBlock(6)).eval()

    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.transpose(1, 2)).transpose(1, 2)

    for module in (plain, Mirrored().eval()):
        found = inspect(Model(module, (sample,)))
        assert not found.blocks
        assert [r.reason for r in found.rejected].count("axes-undecided") == 4


@pytest.mark.parametrize(("name", "groups"), [("SameFoldedWindows", 4), ("SameFoldedFrames", 4), ("SameNlc", 1)])
def test_groups_that_share_the_axis_of_the_samples_are_counted(name: str, groups: int) -> None:
    """(B, 4, 4, C) has 16 tokens per sample; a block that gets them as (B * 4, 4, C) averages over 4 of them."""
    for block in inspection(name).blocks:
        assert {site.groups for site in block.sites.values()} == {groups}
        said = [note for note in block.notes if "groups" in note]
        assert [f"{groups} groups of {block.tokens} tokens" in note for note in said] == [True] * (groups > 1)
