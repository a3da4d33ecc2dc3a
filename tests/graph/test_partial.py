"""Models that cannot be captured whole: their largest parts are, and what was left out is listed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.errors import CaptureError
from cbsurgeon.graph import Inspection, inspect
from cbsurgeon.graph.capture.parts import capture_parts
from cbsurgeon.models.model import Model
from cbsurgeon.operators import Operator
from cbsurgeon.surgery import insert_, insert_module, insert_program, plan, remove
from tests.graph.expectations import WIDTH
from tests.graph.parts import Block, CrossAttention, Mlp, Stack

BATCH, LENGTH = 2, 6


def runs(model: Model) -> list[int]:
    """How often each inserted operator runs in one eager pass."""
    assert model.module is not None
    counted: dict[str, int] = {}

    def counter(path: str) -> Any:
        def count(*_: Any) -> None:
            counted[path] += 1

        return count

    for path, part in model.module.named_modules():
        if isinstance(part, Operator):
            counted[path] = 0
            part.register_forward_hook(counter(path))
    with torch.no_grad():
        output = model.module(*model.example_inputs, **model.example_kwargs)
        if isinstance(output, Iterator):
            list(output)
    return list(counted.values())


def without_masks(found: Inspection) -> Inspection:
    return replace(found, masks=())


def assert_edits(model: Model, found: Inspection, expected: list[int]) -> None:
    """Every operator runs, weights stay, and removing gives the original's keys back."""
    assert model.module is not None
    edited = insert_module(model, plan(without_masks(found), op="cb_s", layers="all"))
    assert edited.module is not None
    assert runs(edited) == expected
    added = edited.module.state_dict().keys() - model.module.state_dict().keys()
    assert len(added) == len(expected)
    assert all(key.endswith(".scale") for key in added)
    removed = remove(edited).module
    assert removed is not None
    assert removed.state_dict().keys() == model.module.state_dict().keys()


def assert_program_is_refused(model: Model, found: Inspection) -> None:
    """A program of a part would not be the model: the error is the one of capture, which says what to do."""
    with pytest.raises(CaptureError) as error:
        insert_program(model, plan(without_masks(found), op="cb", layers="all"))
    assert error.value.code == "CB-CAPTURE-03"
    assert error.value.do


@cache
def vilt() -> Model:
    from transformers import ViltConfig, ViltForQuestionAnswering

    torch.manual_seed(0)
    config = ViltConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=64,
        max_position_embeddings=16, image_size=32, patch_size=16,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.randint(5, 64, (BATCH, LENGTH)),
        "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long),
        "pixel_values": torch.randn(BATCH, 3, 32, 32),
        "pixel_mask": torch.ones(BATCH, 32, 32, dtype=torch.long),
    }
    return Model(ViltForQuestionAnswering(config).eval(), example_kwargs=inputs)


@cache
def vilt_found() -> Inspection:
    return inspect(vilt())


def test_vilt_is_read_behind_its_patch_selection() -> None:
    found = vilt_found()
    assert [(block.fc1, block.fc2) for block in found.blocks] == [
        ((f"vilt.encoder.layer.{i}.intermediate.dense",), (f"vilt.encoder.layer.{i}.output.dense",)) for i in range(2)
    ]
    assert found.stacks == ("vilt.encoder.layer",)
    assert [block.index for block in found.blocks] == [0, 1]
    assert [block.token_axes for block in found.blocks] == [(1,), (1,)]


def test_vilt_lists_what_was_left_out() -> None:
    """The selection, and what holds it; not the encoder, and not what could be captured inside the embeddings."""
    left_out = vilt_found().left_out
    assert set(left_out) == {"vilt", "vilt.embeddings"}
    assert all("data-dependent" in reason for reason in left_out.values())


def test_vilt_parts_are_the_largest_ones() -> None:
    parts = [program.prefix for program in capture_parts(vilt()).programs]
    assert "vilt.encoder" in parts
    assert not any(path.startswith("vilt.encoder.") for path in parts)


def test_vilt_is_edited_as_a_module_only() -> None:
    assert_edits(vilt(), vilt_found(), [1, 1])
    assert_program_is_refused(vilt(), vilt_found())


@dataclass
class Request:
    """What torch.export cannot take: an object of a class of one's own."""

    tokens: Tensor
    lengths: list[int]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = CrossAttention(), Mlp()

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), bias=hidden)
        return x + self.mlp(self.norm2(x))


class TakesAnObject(nn.Module):
    """A mask is made from the lengths of the request."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, request: Request) -> Tensor:
        place = torch.arange(request.tokens.shape[1])
        filler = place[None, :] >= torch.tensor(request.lengths)[:, None]
        hidden = torch.zeros(filler.shape).masked_fill(filler, -1e9)
        return self.encoder(request.tokens, hidden[:, None, None, :])


def test_a_forward_that_takes_a_python_object() -> None:
    model = Model(TakesAnObject().eval(), (Request(torch.randn(BATCH, LENGTH, WIDTH), [LENGTH, LENGTH - 2]),))
    found = inspect(model)
    assert [block.path for block in found.blocks] == ["encoder.mlp"]
    assert found.left_out == {}
    # The mask is made from Python numbers, which no input tensor shows: it keeps the name it has in the part.
    assert found.masks == ("hidden of encoder (not traced to an input of the model)",)
    assert_edits(model, found, [1])
    assert_program_is_refused(model, found)


class TakesAList(nn.Module):
    """One dictionary per sample, each run on its own, as detection models take pictures of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Linear(3, WIDTH), Stack(Block(), Block())

    def forward(self, samples: list[dict[str, Tensor]]) -> list[Tensor]:
        outputs = []
        for sample in samples:
            x = self.embed(sample["points"]).unsqueeze(0)
            outputs.append(self.encoder(x.flip(1) if sample["mirrored"].item() else x))
        return outputs


def test_a_forward_that_takes_a_list_of_dictionaries() -> None:
    samples = [{"points": torch.randn(LENGTH + i, 3), "mirrored": torch.tensor(i == 1)} for i in range(3)]
    model = Model(TakesAList().eval(), (samples,))
    found = inspect(model)
    assert [block.path for block in found.blocks] == ["encoder.blocks.0.mlp", "encoder.blocks.1.mlp"]
    assert [block.token_axes for block in found.blocks] == [(1,), (1,)]
    # The part runs once per sample, and so do its blocks and whatever is inserted there.
    assert [block.calls for block in found.blocks] == [len(samples)] * 2
    assert_edits(model, found, [len(samples)] * 2)


class Generator(nn.Module):
    """Yields after every block; nothing runs until a value is requested."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        for block in self.blocks:
            x = block(x)
            yield x


class Collected(nn.Module):
    """A generator inside a model that returns a tensor, on a condition only data can decide."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Generator(), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for y in self.body(x):
            if y.mean().item() > 1e9:
                break
        return self.head(y)


def test_a_generator_inside_a_model() -> None:
    model = Model(Collected().eval(), (torch.randn(BATCH, LENGTH, WIDTH),))
    found = inspect(model)
    assert [block.path for block in found.blocks] == ["body.blocks.0.mlp", "body.blocks.1.mlp"]
    assert found.stacks == ("body.blocks",)  # captured one by one, they are still layers of one stack
    assert set(found.left_out) == {"body"}
    assert_edits(model, found, [1, 1])
    assert_program_is_refused(model, found)


def test_a_generator_as_the_model() -> None:
    model = Model(Generator().eval(), (torch.randn(BATCH, LENGTH, WIDTH),))
    found = inspect(model)
    assert [block.path for block in found.blocks] == ["blocks.0.mlp", "blocks.1.mlp"]
    edited = insert_(copy.deepcopy(model.module), plan(found, op="cb", layers="all"))
    assert runs(replace(model, module=edited)) == [1, 1]


class Fixed(nn.Module):
    """The whole fixes the batch to the example's; the encoder does not."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Stack(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x) + torch.arange(BATCH).view(BATCH, 1, 1)


def test_a_batch_that_the_whole_fixes_is_free_in_its_parts() -> None:
    found = inspect(Model(Fixed().eval(), (torch.randn(BATCH, LENGTH, WIDTH),)))
    assert [block.path for block in found.blocks] == ["encoder.blocks.0.mlp", "encoder.blocks.1.mlp"]
    assert found.stacks == ("encoder.blocks",)


class Shared(nn.Module):
    """One block under two names, in a model that looks at its data: it is captured once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.again = nn.ModuleList([self.first])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.again[0](x) if x.mean().item() < 1e9 else x


def test_a_module_with_two_names_is_captured_once() -> None:
    parts = capture_parts(Model(Shared().eval(), (torch.randn(BATCH, LENGTH, WIDTH),)))
    assert [program.prefix for program in parts.programs] == ["first"]
    assert parts.left_out == {}
    assert parts.runs["first"] == 2


class Opaque(nn.Module):
    """Every module looks at its data, so no part can be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if x.sum().item() > 0 else x - self.weight


def test_when_nothing_can_be_captured_the_error_is_that_of_the_whole() -> None:
    with pytest.raises(CaptureError) as error:
        inspect(Model(nn.Sequential(Opaque(), Opaque()).eval(), (torch.randn(BATCH, LENGTH, WIDTH),)))
    assert error.value.code == "CB-CAPTURE-03"
    assert "data-dependent" in error.value.why
    assert error.value.do


def test_a_model_that_does_not_run_is_an_error() -> None:
    with pytest.raises(CaptureError) as error:
        inspect(Model(TakesAnObject().eval(), (torch.randn(BATCH, LENGTH, WIDTH),)))
    assert error.value.code == "CB-CAPTURE-06"
    assert "lengths" in error.value.why or "tokens" in error.value.why
