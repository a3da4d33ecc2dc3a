"""Operators on real models, in addition to ``test_table.py``: schedules, causal models, both branches at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cbsurgeon.errors import NothingMatched, SurgeryError
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.graph.occupants import ON_OUTPUT
from cbsurgeon.models.model import Model
from cbsurgeon.operators import build, names, set_strength
from cbsurgeon.surgery import insert_, insert_module, insert_program, plan
from cbsurgeon.surgery.module.attachment import count_calls
from cbsurgeon.surgery.module.carrying import broadcast_output
from tests.surgery import architectures, arms, by_hand


def test_a_slice_past_the_tokens() -> None:
    with pytest.raises(SurgeryError, match="CB-SURGERY-06") as refused:
        plan(architectures.inspection("deit"), op="cb", tokens="40:")
    assert "17 tokens" in refused.value.why


def test_one_call_moves_every_retrofit() -> None:
    model, found = architectures.model("deit"), architectures.inspection("deit")
    edited = insert_module(model, plan(found, op="cb_retrofit", layers="all"))
    assert arms.same(arms.run_module(edited.module, model), arms.run_module(model.module, model)), "bit-equal at 0"
    assert set_strength(edited.module, 0.5) == 2
    cb = insert_module(model, plan(found, op="cb", layers="all"))
    assert arms.same(arms.run_module(edited.module, model), arms.run_module(cb.module, model), arms.SHARE)


def _causal_model() -> Model:
    transformers = pytest.importorskip("transformers", reason="the architecture is that of transformers")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16, "use_cache": False}
    module = transformers.GPT2Model(transformers.GPT2Config(**sizes)).eval()
    words = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(2))
    return Model(module, (), example_kwargs={"input_ids": words})


def test_causal_models_take_the_causal_form_only() -> None:
    model = _causal_model()
    found = inspect(model)
    with pytest.raises(SurgeryError, match="CB-LEAK-01") as refused:
        plan(found, layers="all")
    assert "causal" in refused.value.do
    recipe = plan(found, layers="all", causal=True)
    assert recipe.options == {"causal": True}
    edited = insert_module(model, recipe)
    plain, words = arms.run_module(model.module, model), model.example_kwargs["input_ids"]
    mixed = arms.run_module(edited.module, model)
    assert not arms.same(mixed, plain, arms.SHARE)
    changed = words.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    with torch.no_grad():
        after = arms.tensors(edited.module(input_ids=changed))
    assert torch.equal(after[0][:, :-1], mixed[0][:, :-1]), "a change of the last token moves no earlier one"
    assert not torch.equal(after[0], mixed[0])
    by_program = by_hand.run(capture(insert_program(model, recipe)), {}, capture(model).example)
    assert arms.same(by_program, mixed, arms.SHARE)


def test_mlp_and_attention_at_once() -> None:
    model, found = architectures.model("deit"), architectures.inspection("deit")
    recipe = plan(found, op="cb_gate", at="both", layers="all")
    assert [site.kind for site in recipe.active] == ["mlp", "mlp", "attention", "attention"]
    edited, rewritten = insert_module(model, recipe), insert_program(architectures.as_program("deit"), recipe)
    by_program = by_hand.run(capture(rewritten), {}, architectures.program("deit").example)
    assert arms.same(by_program, arms.run_module(edited.module, model), arms.SHARE)
    with pytest.raises(NothingMatched, match="CB-LOCATE-04") as refused:
        plan(found, at="both", pos="mid")
    assert "only its End" in refused.value.why
    assert len(plan(found, at="both", pos="mid", layers="all", allow_partial=True)) == 2


def test_parameters_on_vit_small() -> None:
    """Done on the real ViT-S, all 12 layers, without memory for its weights: what each operator adds (section 3.2)."""
    timm = pytest.importorskip("timm", reason="the architecture is timm's")
    with torch.device("meta"):
        module = timm.create_model("deit_small_patch16_224").eval()
        model = Model(module, (torch.empty(2, 3, 224, 224),))
    found = inspect(model)
    before = sum(parameter.numel() for parameter in module.parameters())
    assert (before, len(found)) == (22_050_664, 12)
    added = {}
    for op in names():
        edited = insert_(copy.deepcopy(module), plan(found, op=op, layers="all"))
        added[op] = sum(parameter.numel() for parameter in edited.parameters()) - before
    hidden = 384 // 16
    assert added == {
        **dict.fromkeys(("cb", "cb_gate", "cb_hybrid", "cb_retrofit", "uniform_head"), 0),
        "cb_s": 4_608,
        "se": 12 * (2 * 384 * hidden + hidden + 384),
    }
    assert f"{added['cb_s'] / before:+.2%}" == "+0.02%"
    assert f"{added['se'] / before:+.2%}" == "+1.03%"


class Streaming(torch.nn.Module):
    """Its forward is a generator: nothing runs until the next result is requested."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        yield x
        yield self.layer(x)


def test_calls_are_counted_in_a_generator() -> None:
    module = Streaming()
    module.layer.add_module(ON_OUTPUT, build("cb", 4, 2, (1,)))
    module.layer.register_forward_hook(broadcast_output)
    assert count_calls(module, (torch.randn(2, 3, 4),), {}) == {f"layer.{ON_OUTPUT}": 1}


def test_extra_options_are_shown() -> None:
    assert "tokens='1:'" in repr(build("cb", 4, 2, (1,), {"tokens": "1:"}))
