"""Capture: what is refused and with which code, and what survives it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError
from cbsurgeon.graph import Program, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.batch.axis import batch_of
from cbsurgeon.models.model import Model
from tests.graph.networks import CASES
from tests.graph.parts import Block, Mlp, Stack
from tests.graph.readings import program

WIDTH = 8

# fp32 kernels of one machine on tensors of order one: a captured graph groups a few sums differently, no more.
SAME_OUTPUT = 1e-5


def sample(batch: int = 2) -> Tensor:
    return torch.randn(batch, 5, WIDTH)


def code(model: Model) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(model)
    error = caught.value
    assert error.what and error.why and error.do
    assert error.exit_code == 2
    return error.code


class Scaled(nn.Module):
    """A linear layer and a dropout, with optional additions for a test."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return self.drop(self.linear(x))


def test_training_mode_is_refused() -> None:
    module = Scaled()
    assert code(Model(module, (sample(),))) == "CB-CAPTURE-02"
    assert module.training, "the module keeps its mode"


def test_one_training_part_is_enough_and_is_named() -> None:
    module = Scaled().eval()
    module.drop.train()
    with pytest.raises(CaptureError) as caught:
        capture(Model(module, (sample(),)))
    assert caught.value.code == "CB-CAPTURE-02"
    assert "drop" in caught.value.where


@pytest.mark.parametrize("model", [Model(Scaled().eval()), Model(None, (sample(),)), Model(None)])
def test_no_example_inputs_or_no_module_is_refused(model: Model) -> None:
    assert code(model) == "CB-CAPTURE-01"


def test_one_sample_is_doubled() -> None:
    """torch.export would treat a batch of one as a constant; the user's tensor is not changed."""
    x = sample(1)
    captured = capture(Model(Scaled().eval(), (x,)))
    assert x.shape[0] == 1
    assert captured.batch_axes == {"x": 0}
    assert captured.example["x"].shape[0] == 2


def test_doubling_reaches_keywords_and_nested_inputs_only_where_the_batch_is_one() -> None:
    class Takes(nn.Module):
        def forward(self, x: torch.Tensor, rest: list, mask: torch.Tensor, n: torch.Tensor) -> None:
            """Only its parameters count."""

    inputs = ((torch.zeros(1, 3), [torch.zeros(1), 7]), {"mask": torch.ones(1, 3), "n": torch.ones(4)})
    args, kwargs = batch_of(Takes(), inputs, None).resized(inputs, 2)
    assert args[0].shape == (2, 3)
    assert (args[1][0].shape, args[1][1]) == ((2,), 7)
    assert (kwargs["mask"].shape, kwargs["n"].shape) == ((2, 3), (4,))


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_captured_program_serves_every_batch(batch: int) -> None:
    """One capture, any batch, the module's own numbers."""
    case = CASES["VisionTransformer"]
    captured, module = program("VisionTransformer"), case.module()
    inputs = captured.with_batch(batch, seed=3)
    with torch.no_grad():
        expected = module(*inputs.values())
    (got,) = captured.run(inputs).values()
    assert got.shape == expected.shape == (batch, 3)
    assert torch.allclose(got, expected, rtol=SAME_OUTPUT, atol=SAME_OUTPUT)


class BakedReshape(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).reshape(2, -1)


class BakedInteger(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        rows = int(x.shape[0])
        return self.linear(x) + torch.zeros([rows, 1, 1]) + torch.tensor([float(i) for i in range(rows)]).sum()


class BakedTable(Scaled):
    """State of one batch size in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.randn(2, 5, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.cache


@pytest.mark.parametrize("module", [BakedReshape, BakedInteger, BakedTable])
def test_fixed_batch_is_refused(module: type[nn.Module]) -> None:
    """torch.export (03) or the check after it (04) detects it; there is never a program for one batch size only."""
    assert code(Model(module().eval(), (sample(),))) in {"CB-CAPTURE-03", "CB-CAPTURE-04"}


class NoisyNetwork(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.randn_like(x)


class CountingNetwork(Scaled):
    """State that changes between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.linear(x) * self.calls


class AlwaysDropping(Scaled):
    """Dropout that ignores the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, training=True)


@pytest.mark.parametrize("module", [NoisyNetwork, CountingNetwork, AlwaysDropping])
def test_forward_that_differs_between_calls_is_refused(module: type[nn.Module]) -> None:
    assert code(Model(module().eval(), (sample(),))) == "CB-CAPTURE-05"


def test_an_untraceable_model_is_refused_with_the_reason() -> None:
    class Branching(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if float(x.sum()) > 0 else x

    with pytest.raises(CaptureError) as caught:
        capture(Model(Branching().eval(), (sample(),)))
    assert caught.value.code == "CB-CAPTURE-03"
    assert caught.value.__cause__ is not None


def test_hooks_survive_on_the_root_too() -> None:
    """Forward and pre-hooks of sub-modules and of the model itself are in the graph."""
    module = Stack(Block(), Block()).eval()
    x = sample()
    with torch.no_grad():
        bare = module(x)
        module.register_forward_hook(lambda _, __, output: output * 3.0)
        module.register_forward_pre_hook(lambda _, args: (args[0] + 1.0,))
        module.blocks[0].mlp.fc2.register_forward_hook(lambda _, __, output: output - 2.0)
        expected = module(x)
        captured = capture(Model(module, (x,)))
    (got,) = captured.run({"x": x}).values()
    assert torch.allclose(got, expected, rtol=SAME_OUTPUT, atol=SAME_OUTPUT)
    assert not torch.allclose(got, bare, rtol=SAME_OUTPUT, atol=SAME_OUTPUT)


def encoder(norm_first: bool = False) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.mark.parametrize("norm_first", [False, True])
def test_fast_path_does_not_hide_the_mlp(norm_first: bool) -> None:
    """``nn.TransformerEncoder`` in evaluation would run one fused operator per layer."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    found = inspect(Model(encoder(norm_first), (sample(),)))
    assert [block.fc1 for block in found.blocks] == [("layers.0.linear1",), ("layers.1.linear1",)]
    assert [block.fc2 for block in found.blocks] == [("layers.0.linear2",), ("layers.1.linear2",)]
    assert len(found.attention) == 2
    assert torch.backends.mha.get_fastpath_enabled() == enabled, "the process-wide switch is put back"


def test_fast_path_switch_is_put_back_after_a_failure() -> None:
    enabled = torch.backends.mha.get_fastpath_enabled()
    code(Model(BakedReshape().eval(), (sample(),)))
    assert torch.backends.mha.get_fastpath_enabled() == enabled


class Masked(nn.Module):
    """Positional and keyword tensors, and a keyword that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor, *, mask: Tensor | None = None, double: bool = False) -> Tensor:
        y = x + self.mlp(self.norm(x))
        y = y if mask is None else y * mask.unsqueeze(-1)
        return y * 2 if double else y


def test_keyword_inputs() -> None:
    """Keyword tensors are inputs with names and a batch; constants are part of the graph."""
    x, mask = sample(), torch.ones(2, 5)
    captured = capture(Model(Masked().eval(), (x,), example_kwargs={"mask": mask, "double": True}))
    assert captured.input_names == ("x", "mask")
    assert captured.batch_axes == {"x": 0, "mask": 0}
    inputs = captured.with_batch(3)
    (got,) = captured.run(inputs).values()
    (masked,) = captured.run({**inputs, "mask": torch.zeros(3, 5)}).values()
    assert got.shape == (3, 5, WIDTH)
    assert masked.abs().max() == 0


def test_keywords_in_another_order_than_the_signature() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
            return self.linear(first) - 2 * second

    first, second = sample(), sample()
    module = Two().eval()
    captured = capture(Model(module, example_kwargs={"second": second, "first": first}))
    assert set(captured.input_names) == {"first", "second"}
    for name, value in (("first", first), ("second", second)):
        assert torch.equal(captured.example[name], value)
    (got,) = captured.run({"first": first, "second": second}).values()
    with torch.no_grad():
        assert torch.allclose(got, module(first, second), rtol=SAME_OUTPUT, atol=SAME_OUTPUT)


def test_blocks_of_a_network_with_keywords() -> None:
    found = inspect(Model(Masked().eval(), (sample(),), example_kwargs={"mask": torch.ones(2, 5)}))
    assert [block.fc2 for block in found.blocks] == [("mlp.fc2",)]


class DictOutput(Scaled):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return OrderedDict(logits=y, hidden={"last": y * 2, "all": [y * 3, y * 4]})


class TupleOutput(Scaled):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return y, (y * 2, y * 3)


class PartlyNothing(Scaled):
    def forward(self, x: Tensor) -> Any:
        return {"logits": self.linear(x), "loss": None}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Scaled, ("output",)),
        (DictOutput, ("logits", "hidden_last", "hidden_all_0", "hidden_all_1")),
        (TupleOutput, ("output_0", "output_1_0", "output_1_1")),
        (PartlyNothing, ("logits",)),
    ],
)
def test_output_names(module: type[nn.Module], names: tuple[str, ...]) -> None:
    """Names are the keys of the model's output, or numbers if it has none; each name has the right value."""
    built, x = module().eval(), sample()
    captured = capture(Model(built, (x,)))
    assert captured.output_names == names
    with torch.no_grad():
        y = built.linear(x)
    for factor, value in enumerate(captured.run({"x": x}).values(), start=1):
        assert torch.allclose(value, factor * y, rtol=SAME_OUTPUT, atol=SAME_OUTPUT)


class Scores(OrderedDict[str, Any]):
    """An output that a library registers without a function for its keys, as diffusers does."""


class Pair:
    """The same without keys of its own."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second


pytree.register_pytree_node(
    Scores,
    lambda one: (list(one.values()), list(one)),
    lambda values, keys: Scores(zip(keys, values, strict=True)),
)
pytree.register_pytree_node(Pair, lambda one: ([one.first, one.second], None), lambda values, _: Pair(*values))


class KeylessOutput(Scaled):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return Scores(sample=y, parts=Pair(y * 2, [y * 3]))


def test_an_output_class_without_keys_is_named_by_its_own() -> None:
    built, x = KeylessOutput().eval(), sample()
    captured = capture(Model(built, (x,)))
    assert captured.output_names == ("sample", "parts_0", "parts_1_0")
    with torch.no_grad():
        y = built.linear(x)
    for factor, value in enumerate(captured.run({"x": x}).values(), start=1):
        assert torch.allclose(value, factor * y, rtol=SAME_OUTPUT, atol=SAME_OUTPUT)


def test_operators_are_not_taken_apart() -> None:
    """Linear, norm, GELU and attention stay single nodes: the rules read them so."""
    names = {node.target for node in program("VisionTransformer").exported.graph.nodes if node.op == "call_function"}
    aten = torch.ops.aten
    wanted = {
        aten.linear.default,
        aten.layer_norm.default,
        aten.gelu.default,
        aten.scaled_dot_product_attention.default,
    }
    assert wanted <= names


def test_a_program_is_taken_as_it_is() -> None:
    captured = program("VisionTransformer")
    again = capture(Model(None, program=captured.exported))
    assert isinstance(again, Program)
    assert again.exported is captured.exported
    assert again.input_names == captured.input_names


def test_inputs_without_a_batch_keep_their_shape() -> None:
    """A table given as an input has no axis of the batch's size at 0, so only the other one is symbolic."""

    class Table(nn.Module):
        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return x + table

    captured = capture(Model(Table().eval(), (sample(), torch.randn(5, WIDTH))))
    assert captured.batch_axes == {"x": 0}
    assert captured.with_batch(7)["table"].shape == (5, WIDTH)


def test_meta_weights_are_captured_without_memory() -> None:
    """A model whose weights are not materialised is captured without running it."""
    with torch.device("meta"):
        module = Stack(Block(), Block()).eval()
        captured = capture(Model(module, (torch.empty(2, 5, WIDTH),)))
    assert captured.batch_axes == {"x": 0}
    assert all(parameter.is_meta for parameter in captured.exported.state_dict.values())


@pytest.mark.parametrize("module", [NoisyNetwork, CountingNetwork, AlwaysDropping])
def test_random_numbers_in_the_graph_are_refused_without_a_comparison(module: type[nn.Module]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Model(module().eval(), (sample(),)), check=False)
    assert caught.value.code == "CB-CAPTURE-05"


def test_a_model_is_not_run_where_only_its_structure_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout that is off, fused attention included, is no random number."""

    class Attending(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = F.dropout(self.linear(x), 0.5, self.training)
            return F.scaled_dot_product_attention(y, y, y, dropout_p=0.5 if self.training else 0.0)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was compared")

    monkeypatch.setattr("cbsurgeon.graph.capture.whole.compare", never)
    capture(Model(Attending().eval(), (sample(),)), check=False)
    with pytest.raises(AssertionError, match="compared"):
        capture(Model(Attending().eval(), (sample(),)))


@pytest.mark.parametrize("run", [inspect, capture])
def test_weights_of_several_number_types_are_named(run: Any) -> None:
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH).half()).eval()
    with pytest.raises(CaptureError) as caught:
        run(Model(module, (sample(),)))
    assert "float32 (2 tensors) and float16 (2 tensors)" in caught.value.do
