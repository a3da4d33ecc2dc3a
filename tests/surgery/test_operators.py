"""Every operator and form on real models, both ways, against its formula; what cannot stand is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cbsurgeon.errors import NothingMatched, SurgeryError
from cbsurgeon.graph import capture
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.operators import Operator, build, names, set_strength
from cbsurgeon.surgery import insert_module, insert_program, plan, remove
from cbsurgeon.surgery.attachment import attached
from tests.surgery import architectures, arms, by_hand

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("cb_gate", {}),
    ("cb_hybrid", {}),
    ("se", {"reduction": 8}),
    ("cb_retrofit", {"strength": 0.3}),
    ("cb", {"tokens": "1:"}),
    ("cb_s", {"tokens": ":-1", "initial": 0.4}),
    ("cb", {"causal": True}),
    ("cb_s", {"causal": True, "tokens": "1:", "initial": 0.4}),
    (f"mod:{__name__}:Bent", {"by": 2}),
]
SEQUENCES = ("deit", "hf vit", "torchvision vit", "xcit")
PICTURES = ("swin", "torchvision swin")


class Bent(Operator):
    """A user's own operator: adds a bent copy of every token, scaled by a learned vector."""

    name = "shifted"

    def __init__(self, channels: int, channel_axis: int, token_axes: Any, *, by: float = 1.0) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.by = torch.nn.Parameter(torch.full((channels,), float(by)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.per_channel(self.by, x) * x.tanh()


def reference(op: str, options: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """The operator on [B, N, C] from its formula, in double precision."""

    def span(x: Tensor, f: Any) -> Tensor:
        start, stop = (int(part) if part else None for part in options.get("tokens", ":").split(":"))
        result = x.double().clone()
        result[:, start:stop] = f(result[:, start:stop].clone())
        return result.to(x.dtype)

    def context(x: Tensor) -> Tensor:
        if not options.get("causal"):
            return by_hand.average(x, (1,))
        return torch.cat([by_hand.average(x[:, : i + 1], (1,)) for i in range(x.shape[1])], dim=1)

    def squeeze(x: Tensor) -> Tensor:
        hidden = (context(x) @ state["fc1.weight"].double().T + state["fc1.bias"]).clamp_min(0)
        return x * (hidden @ state["fc2.weight"].double().T + state["fc2.bias"]).sigmoid()

    formulas = {
        "cb": lambda x: (x + context(x)) / 2,
        "cb_s": lambda x: x + 0.4 * context(x),
        "cb_gate": lambda x: x * (x[:, :1] + 1),
        "cb_hybrid": lambda x: x * x[:, :1] + (x + context(x)) / 2,
        "cb_retrofit": lambda x: x + 0.3 * (context(x) - x),
        "se": squeeze,
    }
    formula = formulas.get(op, lambda x: x + 2 * x.tanh())
    return lambda x: span(x, formula)


@pytest.mark.parametrize(("op", "options"), FORMS)
@pytest.mark.parametrize("name", SEQUENCES)
def test_both_ways(name: str, op: str, options: dict[str, Any]) -> None:
    found, model, program = architectures.inspection(name), architectures.model(name), architectures.program(name)
    recipe = plan(found, op=op, layers="0", **options)
    edited, rewritten = insert_module(model, recipe), insert_program(architectures.as_program(name), recipe)
    added = set(edited.module.state_dict()) - set(model.module.state_dict())
    assert added == set(rewritten.program.state_dict) - set(program.exported.state_dict)
    for key in added:  # SE starts from random numbers: give both the same
        rewritten.program.state_dict[key].data.copy_(edited.module.state_dict()[key])
    by_program = by_hand.run(capture(rewritten), {}, program.example)
    assert arms.same(by_program, arms.run_module(edited.module, model), arms.SHARE)
    state = {key.rpartition("context_broadcast.")[2]: edited.module.state_dict()[key].detach() for key in added}
    (site,) = recipe.active
    there = found.blocks[site.index].sites["end"]
    wanted = by_hand.run(program, {"0": (there, reference(op, options, state))}, program.example)
    assert arms.same(by_program, wanted, arms.SHARE), arms.distance(by_program, wanted)
    assert not arms.same(by_program, by_hand.run(program, {}, program.example), arms.SHARE)
    assert str(remove(rewritten).program.graph) == str(program.exported.graph)
    assert list(remove(rewritten).program.state_dict) == list(program.exported.state_dict)
    with pytest.raises(SurgeryError, match="CB-SURGERY-03"):
        insert_program(rewritten, plan(found, op="cb", layers="0"))
    with pytest.raises(SurgeryError, match="CB-SURGERY-03"):
        insert_module(edited, plan(found, op="cb", layers="0"))


@pytest.mark.parametrize("op", ["se", "cb_retrofit"])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str, op: str) -> None:
    model, recipe = architectures.model(name), plan(architectures.inspection(name), op=op)
    edited, rewritten = insert_module(model, recipe), insert_program(architectures.as_program(name), recipe)
    for key in set(edited.module.state_dict()) - set(model.module.state_dict()):
        rewritten.program.state_dict[key].data.copy_(edited.module.state_dict()[key])
    by_program = by_hand.run(capture(rewritten), {}, architectures.program(name).example)
    assert arms.same(by_program, arms.run_module(edited.module, model), arms.SHARE)


@pytest.mark.parametrize(
    ("op", "options", "why"),
    [
        ("cb_gate", {}, "class token"),
        ("cb_hybrid", {}, "class token"),
        ("cb", {"tokens": "1:"}, "a slice of tokens"),
        ("cb", {"causal": True}, "causal"),
    ],
)
def test_no_single_token_axis(op: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(SurgeryError, match="CB-SURGERY-06") as refused:
        plan(architectures.inspection("torchvision swin"), op=op, **options)
    assert why in refused.value.why
    assert "single token axis" in refused.value.why


def test_a_slice_past_the_tokens() -> None:
    with pytest.raises(SurgeryError, match="CB-SURGERY-06") as refused:
        plan(architectures.inspection("deit"), op="cb", tokens="40:")
    assert "17 tokens" in refused.value.why


def test_gradients_reach_every_new_parameter() -> None:
    model = architectures.model("deit")
    for op in names():
        recipe = plan(architectures.inspection("deit"), op=op, layers="all")
        edited = insert_module(model, recipe)
        edited.module.train()(*model.example_inputs).square().sum().backward()
        own = [p for _, _, _, operator in attached(edited.module) for p in operator.parameters()]
        assert len(own) == {"cb_s": 2, "se": 8}.get(op, 0)
        assert all(bool((p.grad != 0).any()) for p in own)


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


def test_attention_branches() -> None:
    model, found = architectures.model("deit"), architectures.inspection("deit")
    for op in ("cb", "cb_s", "cb_gate"):
        recipe = plan(found, op=op, at="both", layers="all")
        assert [site.kind for site in recipe.active] == ["mlp", "mlp", "attention", "attention"]
        edited, rewritten = insert_module(model, recipe), insert_program(architectures.as_program("deit"), recipe)
        by_program = by_hand.run(capture(rewritten), {}, architectures.program("deit").example)
        assert arms.same(by_program, arms.run_module(edited.module, model), arms.SHARE)
    with pytest.raises(NothingMatched):
        plan(architectures.inspection("mixer"), at="msa")


def test_extra_options_are_shown() -> None:
    assert "tokens='1:'" in repr(build("cb", 4, 2, (1,), {"tokens": "1:"}))
