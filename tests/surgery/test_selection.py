"""Which blocks a selector names, written down by hand for one stack, several stages, and encoder with decoder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cbsurgeon.errors import NothingMatched, UsageError
from cbsurgeon.graph.block import Block, Rejected
from cbsurgeon.graph.blocks.assembly import EXPERT
from cbsurgeon.graph.reasons import Reason
from cbsurgeon.surgery import select, spans
from cbsurgeon.surgery.planning import _absent


def block(index: int, stack: str, kind: str = "mlp") -> Block:
    default = kind in ("mlp", "glu", "conv-mlp")
    return Block(index, stack, kind, f"{stack}.{index}", (), (), (1,), 5, 8, 12, default, 1, {})  # type: ignore[arg-type]


ONE = [block(i, "blocks") for i in range(12)]
# PiT-B: three stages of 3, 6 and 4 blocks on one residual stream, hence one stack; the upper half is 6 .. 12.
PIT = [block(i, "transformers") for i in range(13)]
# An encoder of 4 and a decoder of 6 blocks: the upper half of each.
TWO = [block(i, "encoder") for i in range(4)] + [block(i, "decoder") for i in range(4, 10)]
# Mixer: token MLPs and channel MLPs in turn.
MIXER = [block(i, "blocks", "token-mlp" if i % 2 == 0 else "mlp") for i in range(8)]


@pytest.mark.parametrize(
    ("blocks", "layers", "wanted"),
    [
        (ONE, "all", range(12)),
        (ONE, "upper", range(6, 12)),
        (ONE, "lower", range(6)),
        (ONE, "first:3", [0, 1, 2]),
        (ONE, "last:3", [9, 10, 11]),
        (ONE, "6-11", range(6, 12)),
        (ONE, "0,2,4", [0, 2, 4]),
        (ONE, "4,2,2-3", [2, 3, 4]),
        (ONE, " 1 , last:1 ", [1, 11]),
        (ONE, "blocks", range(12)),
        (ONE, "blocks:upper", range(6, 12)),
        (PIT, "upper", range(6, 13)),
        (PIT, "lower", range(6)),
        (TWO, "upper", [2, 3, 7, 8, 9]),
        (TWO, "lower", [0, 1, 4, 5, 6]),
        (TWO, "last:1", [3, 9]),
        (TWO, "encoder", [0, 1, 2, 3]),
        (TWO, "decoder:upper", [7, 8, 9]),
        (TWO, "decoder:0-1", [4, 5]),
        (TWO, "decoder:last:2", [8, 9]),
        (TWO, "encoder,decoder:5", [0, 1, 2, 3, 9]),
        (MIXER, "all", [1, 3, 5, 7]),
        (MIXER, "upper", [5, 7]),
        (MIXER, "0-3", [1, 3]),
        (MIXER, "2", [2]),
        ([block(0, "blocks")], "upper", [0]),
        (ONE[:5], "upper", [2, 3, 4]),
    ],
)
def test_selector(blocks: list[Block], layers: str, wanted: object) -> None:
    assert [chosen.index for chosen in select(blocks, layers)] == list(wanted)  # type: ignore[call-overload]


def test_kinds() -> None:
    assert [chosen.index for chosen in select(MIXER, "all", ["token-mlp"])] == [0, 2, 4, 6]
    assert [chosen.index for chosen in select(MIXER, "all", ["token-mlp", "mlp"])] == list(range(8))


@pytest.mark.parametrize("layers", ["12", "11-12", "0,40", "first:13", "last:0", "blocks:12"])
def test_absent_blocks(layers: str) -> None:
    with pytest.raises(NothingMatched, match="CB-LOCATE-03") as refused:
        select(ONE, layers)
    assert "0-11" in refused.value.why
    assert refused.value.exit_code == 1


@pytest.mark.parametrize("layers", ["", ",", "uper", "1.5", "-1", "first", "first:x", "blocks:sideways", "head:all"])
def test_unreadable(layers: str) -> None:
    with pytest.raises(UsageError, match="CB-SELECT-01"):
        select(ONE, layers)


def test_near_miss_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        select(ONE, "uper")
    assert "upper" in refused.value.do


def test_a_range_backwards_names_nothing() -> None:
    with pytest.raises(UsageError, match="CB-SELECT-01"):
        select(ONE, "5-3")


@pytest.mark.parametrize(("blocks", "kinds"), [([], None), (MIXER, ["conv-mlp"]), ([block(0, "b", "token-mlp")], None)])
def test_nothing_to_choose_from(blocks: list[Block], kinds: list[str] | None) -> None:
    with pytest.raises(NothingMatched, match="CB-LOCATE-01"):
        select(blocks, "all", kinds)


def test_the_nearest_candidate_is_named() -> None:
    near = Rejected(Reason.ONE_TOKEN, "add has shape [b, 1, 16]", ("add",), "blocks.0.mlp")
    far = Rejected(Reason.NO_RESIDUAL, "its result is not added", ("linear",), "head")
    with pytest.raises(NothingMatched) as raised:
        select([], "all", None, [near, far])
    why = "the nearest candidate at blocks.0.mlp is one-token (add has shape [b, 1, 16])"
    assert why in raised.value.why and "head" not in raised.value.why
    assert "inspect REF --why" in raised.value.do


def test_blocks_that_are_chosen_on_request_only_are_offered() -> None:
    """Experts that are added one by one: the model has MLPs, and none of them is chosen by default."""
    experts = [replace(block(index, "b", "mlp"), default=False, notes=(EXPERT,)) for index in range(2)]
    with pytest.raises(NothingMatched) as raised:
        select(experts, "all")
    assert raised.value.why == f"the model has blocks of kind mlp only, which are not chosen by default ({EXPERT})"
    assert "--kinds mlp" in raised.value.do
    assert select(experts, "all", ["mlp"]) == experts


@pytest.mark.parametrize(
    ("kinds", "named"), [(None, "MLP"), (["attention"], "attention"), (["attention", "mlp"], "MLP"), (["glu"], "MLP")]
)
def test_what_is_missing_is_named(kinds: list[str] | None, named: str) -> None:
    with pytest.raises(NothingMatched, match=f"no {named} block to choose from"):
        select([], "all", kinds)


def test_another_position_is_offered_where_there_is_one() -> None:
    """An operator on attention weights has no other position."""
    absent = [(ONE[3], "it has none")]
    for pos, offered in (("front", True), ("mid", True), ("end", True), ("weights", False)):
        refused = _absent(absent, pos, ONE[:5])
        assert (refused.what, refused.why) == (f"1 of 5 requested blocks have no {pos} position", "it has none")
        assert "block 3 (blocks.3)" in refused.where
        assert ("another --pos" in refused.do) is offered
        assert "other --layers, or --allow-partial" in refused.do


def test_spans() -> None:
    assert spans([0, 1, 2, 3, 6, 8, 9]) == "0-3, 6, 8-9"
    assert spans([]) == ""
