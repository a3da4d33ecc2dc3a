"""Single rules of the reader on graphs of a few nodes, for what no whole network distinguishes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, fx, nn

from cbsurgeon.graph import aten, inspect
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH, Dims, Evidence
from cbsurgeon.graph.blocks import taps
from cbsurgeon.graph.blocks.assembly import common_prefix
from cbsurgeon.graph.branches import body, experts, steps
from cbsurgeon.graph.capture import image_size, parts
from cbsurgeon.graph.capture.batch import axis as batch_axis
from cbsurgeon.models.model import Model
from tests.graph.small_graphs import B, C, N, axes, read


@cache
def plain() -> tuple[Flow, Dims]:
    flow, (x, *_) = read(lambda x: x + 1)
    return flow, flow.of(x)


RESULTS: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], tuple[int | None, ...]]] = {
    # what is computed, its parameters, and for each axis of the result the axis of the input that it is (None: new)
    "select": (lambda x: x.select(1, 0), {}, (0, 2)),
    "select from the end": (lambda x: x.select(-2, 0), {}, (0, 2)),
    "mean without the axis": (lambda x: x.mean(1), {}, (0, 2)),
    "unbind": (lambda x: x.unbind(1)[0] + 0, {}, (0, 2)),
    "a matrix in front": (lambda x, w: torch.matmul(w, x), {"w": (3, N)}, (0, None, 2)),
    "a matrix behind": (lambda x, w: torch.matmul(x, w), {"w": (C, 3)}, (0, 1, None)),
    "einsum": (lambda x, w: torch.einsum("bnc,cd->bnd", x, w), {"w": (C, 3)}, (0, 1, None)),
    "a parameter joined": (lambda x, w: torch.cat([w.expand(x.shape[0], -1, -1), x], 1), {"w": (1, 1, C)}, (0, 1, 2)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_axes_of_a_result(name: str) -> None:
    forward, parameters, expected = RESULTS[name]
    flow, (x, *_, result) = read(forward, **parameters)
    own, found = axes(flow, x), axes(flow, result)
    assert len(found) == len(expected)
    for place, origin in enumerate(expected):
        if origin is None:
            assert not any(found[place] & other for other in own)
        else:
            assert found[place] == own[origin] and found[place]
    assert own[0] == {BATCH}


def test_a_mean_that_keeps_its_axis_has_nothing_along_it() -> None:
    flow, (x, result) = read(lambda x: x.mean(1, keepdim=True))
    assert axes(flow, result) == [axes(flow, x)[0], set(), axes(flow, x)[2]]


def test_an_axis_starts_without_evidence() -> None:
    flow, dims = plain()
    seen = flow.table.evidence(dims[2][0].axis)
    assert (seen.normalised, seen.contracted, seen.slid) == (0, 0, 0)
    assert Evidence() == Evidence(normalised=0, contracted=0, scaled=0, slid=0)


STEPS = {
    "gelu": (lambda x: nn.functional.gelu(x), "activation"),
    "clamp to both sides": (lambda x: x.clamp(-100.0, 100.0), "scale"),
    "clamp at zero": (lambda x: x.clamp(0.0, 6.0), "activation"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_clamp_to_two_sides_is_no_activation(name: str) -> None:
    forward, kind = STEPS[name]
    flow, (_, node) = read(forward)
    found = steps.step(flow, node)
    assert found is not None and found.kind == kind


def test_a_sum_with_a_broadcast_tensor_has_no_two_full_operands() -> None:
    flow, (x, *_, total) = read(lambda x: x + x.mean(1, keepdim=True))
    assert steps.operands(flow, total) == []
    flow, (x, other, total) = read(lambda x: x + x.sin())
    assert steps.operands(flow, total) == [x, other]


@pytest.mark.parametrize(("width", "spatial"), [(1, False), (3, True)])
def test_a_convolution_over_one_axis_is_spatial_if_it_is_wider_than_one(width: int, spatial: bool) -> None:
    flow, (_, node) = read(lambda x, w: nn.functional.conv1d(x, w, padding="same", groups=N), w=(N, 1, width))
    assert steps.is_spatial(flow, node) == spatial


@pytest.mark.parametrize(
    ("forward", "attention"),
    [
        (lambda x: (x * x.sin()).sum(1), True),
        (lambda x: (x / x.exp()).sum(1), False),
        (lambda x: (x * x.sin()).sum(2), False),
        (lambda x: (x * 3.0).sum(1), False),
    ],
    ids=["product over tokens", "quotient", "over channels", "one activation"],
)
def test_a_weighted_sum_over_tokens(forward: Callable[[Tensor], Tensor], attention: bool) -> None:
    flow, (x, *_, node) = read(forward)
    tokens = axes(flow, x)[1]
    assert body._weighted_sum(flow, node, tokens) == attention


@pytest.mark.parametrize(("axis", "attention"), [(1, True), (2, False)])
def test_a_softmax_mixes_tokens_only_along_them(axis: int, attention: bool) -> None:
    flow, (x, node) = read(lambda x: x.softmax(axis))
    found = body.Body()
    body._note(flow, node, axes(flow, x)[1], found)
    assert found.attention == attention and found.activation


@pytest.mark.parametrize("constant", [False, True])
def test_a_product_of_two_computed_tensors_in_a_region_is_attention(constant: bool) -> None:
    graph = fx.Graph()
    first = graph.placeholder("x")
    second = graph.get_attr("w") if constant else graph.placeholder("y")
    graph.output(graph.call_function(torch.ops.aten.matmul.default, (first, second)))
    found = body.Body()
    body._note_region(graph, found)
    assert found.attention != constant


def test_a_projection_of_one_token_is_pooled() -> None:
    flow, (x, pooled, *_) = read(lambda x, w: x.mean(1) @ w, w=(C, C))
    for source, expected in ((pooled, True), (x, False)):
        found = SimpleNamespace(source=source, contracted=flow.of(source)[-1])
        assert body.is_pooled(flow, found) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "expected"), [((4, C, 3), True), ((C, 3), False)])
def test_weights_of_experts_have_three_axes(shape: tuple[int, ...], expected: bool) -> None:
    flow, nodes = read(lambda x, w: torch.matmul(x[:, None] if w.dim() == 3 else x, w), w=shape)
    (product,) = [node for node in nodes if aten.name(node) in aten.MATMUL]
    assert experts._has_expert_weights(flow, product) == expected


def test_the_common_part_of_paths() -> None:
    assert common_prefix(["encoder.layers.0.mlp", "encoder.layers.1.mlp"]) == "encoder.layers"
    assert common_prefix(["encoder.a.0", "encoder.b.0"]) == "encoder"
    assert common_prefix(["a.0", "b.0"]) == common_prefix([]) == ""


def test_which_inputs_have_an_open_size() -> None:
    assert image_size._open(3) is None and image_size._open(torch.tensor(1.0)) is None
    assert set(image_size._open(torch.ones(2, 3)) or ()) == {0}
    assert set(image_size._open(torch.ones(2, 3, 8, 8)) or ()) == {0, 2, 3}


def test_a_batch_axis_is_counted_from_the_front() -> None:
    x = torch.ones(2, 3)
    assert [axis for axis in range(-3, 4) if batch_axis._has(x, axis)] == [0, 1]
    assert not batch_axis._has(3, 0)


class Wide(nn.Module):
    """An MLP whose hidden width is that of the stream, with dropout as a function call and a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(C), nn.Linear(C, C), nn.Linear(C, C)
        self.scale = nn.Parameter(torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        return x + self.scale * nn.functional.dropout(y, 0.1, self.training)


def test_an_mlp_as_wide_as_its_stream_is_no_adapter() -> None:
    found = inspect(Model(Wide().eval(), (torch.randn(B, N, C),)))
    (block,) = found.blocks
    assert block.default and block.hidden == block.channels
    (note,) = block.notes
    assert note.startswith("dropout is a function call")
    (use,) = block.sites["end"].uses
    assert use.value.startswith("dropout"), "End is after the dropout and before the layer scale"
    assert "(only on request)" not in str(found)


ENDS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "scale": (lambda y, scale: scale * y, "linear_1"),
    "scale, dropout": (lambda y, scale: nn.functional.dropout(scale * y, 0.1, False), "linear_1"),
    "dropout, scale": (lambda y, scale: scale * nn.functional.dropout(y, 0.1, False), "dropout"),
}


@pytest.mark.parametrize("name", ENDS)
def test_end_is_before_the_layer_scale(name: str) -> None:
    class Net(Wide):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x).clamp(-100.0, 100.0)
            return x + ENDS[name][0](self.fc2(nn.functional.gelu(self.fc1(y))), self.scale)

    (block,) = inspect(Model(Net().eval(), (torch.randn(B, N, C),))).blocks
    assert [use.value for use in block.sites["end"].uses] == [ENDS[name][1]]
    assert [use.value for use in block.sites["front"].uses] == ["layer_norm"], "a clamp for the number format is passed"


def test_an_output_is_found_behind_other_readers() -> None:
    flow, (_, _, total, *_) = read(lambda x: ((total := x + x.sin()).mean(), total))  # type: ignore[arg-type, return-value]
    assert [user.op for user in total.users] == ["call_function", "output"]
    assert taps._is_output(flow, total)


def test_the_batch_axes_of_a_part_beside_a_number() -> None:
    class Plus(nn.Module):
        def forward(self, x: Tensor, number: int) -> Tensor:
            return x + number

    assert parts._batch_axes(Model(Plus().eval(), (torch.randn(B, N, C), 3)), {}) == {}
