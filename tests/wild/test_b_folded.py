"""Samples and tokens that share an axis: the mean runs over the tokens of one sample, on the module and the program."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from tests.graph.test_leaks import CACHE, OPT, built, ids, mask

WIDTH, LENGTH = 16, 6
CLOSE = 2e-6
"""Absolute, on layer-normed outputs of magnitude 1 in float32: means of six tokens that are summed in another order."""


def mean(y: Tensor) -> Tensor:
    return (y + y.mean(1, keepdim=True)) / 2


def running(y: Tensor) -> Tensor:
    means = torch.stack([y[:, : last + 1].mean(1) for last in range(y.shape[1])], 1)
    return (y + means) / 2


class OutLoud(nn.Module):
    """A transformer block whose MLP works on ``[B * N, D]``; ``at`` is the operator written by hand, per position."""

    def __init__(self, sequence_first: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.sequence_first = sequence_first

    def forward(self, x: Tensor, at: str = "", by_hand: Callable[[Tensor], Tensor] = mean) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        b, n, d = x.shape
        if self.sequence_first:
            x = x.transpose(0, 1)

        def operator(position: str, y: Tensor) -> Tensor:
            if position != at:
                return y
            if self.sequence_first:
                return by_hand(y.view(n, b, -1).transpose(0, 1)).transpose(0, 1).reshape(n * b, -1)
            return by_hand(y.view(b, n, -1)).reshape(b * n, -1)

        x = x.reshape(-1, d)
        y = operator("front", self.norm2(x))
        y = operator("mid", F.gelu(self.fc1(y)))
        y = operator("end", self.fc2(y))
        return (x + y).view(n, b, d).transpose(0, 1) if self.sequence_first else (x + y).view(b, n, d)


class Folded(nn.Module):
    def __init__(self, sequence_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList([OutLoud(sequence_first), OutLoud(sequence_first)])

    def forward(self, x: Tensor, at: str = "") -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, at)
        return x


def noise(batch: int, length: int = LENGTH) -> Tensor:
    return torch.randn(batch, length, 8, generator=torch.Generator().manual_seed(batch))


@pytest.mark.thin(3)
@pytest.mark.parametrize("sequence_first", [False, True])
@pytest.mark.parametrize("position", ["front", "mid", "end"])
def test_the_mean_is_over_the_tokens_of_one_sample(position: str, sequence_first: bool) -> None:
    torch.manual_seed(0)
    module = Folded(sequence_first).eval()
    model = cbs.Model(module, (noise(2),))
    found = cbs.inspect(model)
    assert [(block.kind, block.tokens) for block in found.blocks] == [("mlp", LENGTH)] * 2
    recipe = cbs.plan(found, op="cb", layers="all", pos=position)
    recipe = type(recipe).from_json(recipe.to_json())
    edited, program = cbs.insert(model, recipe), cbs.insert(model, recipe, on="program")
    assert edited.module is not None and program.program is not None
    for batch, length in ((2, LENGTH), (3, LENGTH), (4, 9)):  # four samples of nine tokens: no multiple of the capture
        x = noise(batch, length)
        expected = module(x, position)
        assert not torch.allclose(expected, module(x), atol=100 * CLOSE)
        assert torch.allclose(edited.module(x), expected, atol=CLOSE)
        if length == LENGTH:
            assert torch.allclose(program.program.module()(x), expected, atol=CLOSE)


def test_samples_stay_independent() -> None:
    model = cbs.Model(Folded().eval(), (noise(2),))
    recipe = cbs.plan(cbs.inspect(model), op="cb", layers="all")
    x = noise(2)
    other = torch.cat([x[:1], x[1:] + 1])
    for edited in (cbs.insert(model, recipe).module, cbs.insert(model, recipe, on="program").program.module()):
        assert torch.equal(edited(x)[0], edited(other)[0])


def test_copies_files_and_removal() -> None:
    model = cbs.Model(Folded().eval(), (noise(2),))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb_s", layers="all", options={"initial": 0.5}))
    x = noise(3, 5)
    expected = edited.module(x)
    for other in (copy.deepcopy(edited.module), pickle.loads(pickle.dumps(edited.module))):
        assert torch.equal(other(x), expected)
    compiled = torch.compile(edited.module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    assert [site.occupied for block in cbs.inspect(edited).blocks for site in [block.sites["end"]]] == ["cb_s"] * 2
    bare = cbs.remove(edited).module
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in bare.modules())
    assert torch.equal(bare(x), model.module(x))


def test_a_part_called_by_itself_is_refused() -> None:
    model = cbs.Model(Folded().eval(), (noise(2),))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all")).module
    with pytest.raises(SurgeryError, match="cannot be separated") as error:
        edited.blocks[0].fc2(torch.randn(7, 32))
    assert error.value.code == "CB-SURGERY-10"


def test_nothing_that_shows_the_samples_means_the_program_alone() -> None:
    class AllFolded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x: Tensor, by_hand: bool = False) -> Tensor:
            b, n, _ = x.shape
            y = x.flatten(0, 1)
            z = self.fc2(F.gelu(self.fc1(self.norm(y))))
            z = mean(z.view(b, n, 8)).flatten(0, 1) if by_hand else z
            return (y + z).view(b, n, 8)

    module = AllFolded().eval()
    model = cbs.Model(module, (noise(2),))
    recipe = cbs.plan(cbs.inspect(model), op="cb", layers="all")
    with pytest.raises(SurgeryError, match="how many tokens a sample has"):
        cbs.insert(model, recipe)
    program = cbs.insert(model, recipe, on="program").program.module()
    assert torch.allclose(program(noise(3)), module(noise(3), True), atol=CLOSE)


def hand_edited_opt(module: nn.Module, given: dict[str, Any], change: Callable[[Tensor], Tensor]) -> Tensor:
    """OPT with the operator written into its forward by hand: the second projection's result, unfolded."""
    batch, length = given["input_ids"].shape

    def unfolded(_: nn.Module, args: Any, y: Tensor) -> Tensor:
        return change(y.view(batch, length, -1)).reshape(batch * length, -1)

    handles = [layer.fc2.register_forward_hook(unfolded) for layer in module.decoder.layers]
    try:
        return module(**given).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()


def test_opt_is_found_and_edited_both_ways() -> None:
    module = built("OPTModel", OPT | CACHE)
    model = cbs.Model(module, example_kwargs={"input_ids": ids()})
    found = cbs.inspect(model)
    assert [block.path for block in found.blocks] == ["decoder.layers.0", "decoder.layers.1"]
    with pytest.raises(SurgeryError) as error:
        cbs.plan(found, op="cb", layers="all")
    assert error.value.code == "CB-LEAK-01"
    recipe = cbs.plan(found, op="cb", layers="all", options={"causal": True})
    edited, program = cbs.insert(model, recipe), cbs.insert(model, recipe, on="program")
    captured = {"input_ids": ids()}
    by_program = program.program.module()(**captured).last_hidden_state
    assert torch.allclose(by_program, hand_edited_opt(module, captured, running), atol=CLOSE)
    for given in (captured, {"input_ids": torch.cat([ids(9), ids(9)[:1]])}):
        got = edited.module(**given).last_hidden_state
        assert torch.allclose(got, hand_edited_opt(module, given, running), atol=CLOSE)
        assert not torch.allclose(got, module(**given).last_hidden_state, atol=100 * CLOSE)
    changed = ids().clone()
    changed[1] += 1
    assert torch.equal(edited.module(input_ids=changed).last_hidden_state[0], by_program[0])


def test_opt_with_padding_takes_the_causal_masked_form() -> None:
    module = built("OPTModel", OPT | CACHE)
    model = cbs.Model(module, example_kwargs={"input_ids": ids(), "attention_mask": mask()})
    found = cbs.inspect(model)
    assert found.masks == ("attention_mask",)
    recipe = cbs.plan(found, op="cb", layers="all", options={"causal": True, "masked": True})
    edited, program = cbs.insert(model, recipe), cbs.insert(model, recipe, on="program")
    other = ids().clone()
    other[-1, -2:] += 1  # what padding holds
    for run in (edited.module, program.program.module()):
        plain = run(input_ids=ids(), attention_mask=mask()).last_hidden_state
        moved = run(input_ids=other, attention_mask=mask()).last_hidden_state
        assert torch.equal(plain[mask().bool()], moved[mask().bool()])


@pytest.mark.wide
def test_an_export_is_verified_and_audited(tmp_path: Any) -> None:
    model = cbs.Model(Folded().eval(), (noise(2),))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"))
    cbs.export(edited, tmp_path / "folded.onnx")
    cbs.verify(edited, tmp_path / "folded.onnx").raise_if_failed()
    inserted = cbs.audit(model, edited).to_dict()["inserted"]["b"]
    assert [(one["tokens"], one["channels"]) for one in inserted] == [(LENGTH, WIDTH)] * 2
