"""The probes find leaks that were planted on purpose, and report none in correct models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from cbsurgeon.checks.leaks import Leak, future_leak, leaks_of, padding_leak
from cbsurgeon.errors import CheckFailed, SurgeryError, UsageError
from cbsurgeon.graph import inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_module, insert_program, plan

BATCH, LENGTH, VOCABULARY = 2, 8, 64

# A leak worth the name moves outputs by far more than rounding; between the two there must be nothing to argue about.
CLEAR = 10

# Spread of fresh weights. The default of 0.02 makes networks of this width all but the identity: nothing would move.
SPREAD = 0.2


def ids() -> torch.Tensor:
    return torch.randint(5, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


@cache
def decoder() -> Model:
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=VOCABULARY, n_positions=LENGTH, use_cache=False,
        bos_token_id=1, eos_token_id=2, initializer_range=SPREAD,
    )  # fmt: skip
    return Model(GPT2Model(config).eval(), (ids(),))


@cache
def encoder() -> Model:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH, initializer_range=SPREAD,
    )  # fmt: skip
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[-1, -2:] = 0
    return Model(BertModel(config).eval(), example_kwargs={"input_ids": ids(), "attention_mask": mask})


def planted(model: Model, op: str, on: str = "module", **options: object) -> Model:
    """The operator in every block, although planning refuses it: the evidence is taken out of the inspection."""
    found = inspect(model)
    with pytest.raises(SurgeryError):
        plan(found, op=op, layers="all", **options)
    blind = replace(found, causal_stacks={}, masks=())
    recipe = plan(blind, op=op, layers="all", **options)
    return insert_module(model, recipe) if on == "module" else insert_program(model, recipe)


def leaking(leak: Leak, probe: str) -> bool:
    return any(gap.max_abs > CLEAR * gap.tolerance for gap in leak.gaps if gap.probe == probe)


def test_a_causal_model_passes_the_future_probe() -> None:
    leak = future_leak(decoder())
    assert leak.ok
    assert [gap.output for gap in leak.gaps] == ["last_hidden_state"]
    leak.raise_if_failed()


@pytest.mark.parametrize("on", ["module", "program"])
@pytest.mark.parametrize(("op", "options"), [("cb", {}), ("cb_s", {"initial": 0.5})])
def test_a_mean_planted_in_a_causal_model_is_caught(op: str, options: dict[str, float], on: str) -> None:
    leak = future_leak(planted(decoder(), op, on, **options))
    assert leaking(leak, "suffix")
    with pytest.raises(CheckFailed) as error:
        leak.raise_if_failed()
    assert error.value.code == "CB-LEAK-03"
    assert "the future" in str(error.value)


def test_an_insertion_in_causal_form_is_probed_and_a_planted_one_fails() -> None:
    plain, found = decoder(), inspect(decoder())
    recipe = plan(found, op="cb", layers="all", causal=True)
    (kept,) = leaks_of(plain, insert_module(plain, recipe), recipe)
    assert kept.kind == "future" and kept.probed and kept.ok
    (broken,) = leaks_of(plain, planted(decoder(), "cb"), recipe)
    assert broken.probed and not broken.ok


def test_an_insertion_in_masked_form_is_probed_and_a_planted_one_fails() -> None:
    plain, found = encoder(), inspect(encoder())
    recipe = plan(found, op="cb", layers="all", masked=True)
    (kept,) = leaks_of(plain, insert_module(plain, recipe), recipe)
    assert kept.kind == "padding" and kept.probed and kept.ok
    (broken,) = leaks_of(plain, planted(encoder(), "cb"), recipe)
    assert broken.probed and not broken.ok
    assert leaks_of(plain, plain, plan(replace(found, masks=()), op="cb", layers="all")) == ()


def test_a_probe_that_the_original_fails_is_not_run_on_the_edited_model() -> None:
    recipe = plan(inspect(decoder()), op="cb", layers="all", causal=True)
    (found,) = leaks_of(encoder(), encoder(), recipe)
    assert found.ok and not found.probed and "the original fails" in "".join(found.not_run.values())


def test_an_operator_that_is_the_identity_leaks_nothing() -> None:
    assert future_leak(planted(decoder(), "cb_s")).ok
    assert padding_leak(planted(encoder(), "cb_s"), mask="attention_mask").ok


def test_a_model_that_attends_to_all_tokens_is_reported_as_a_leak() -> None:
    assert leaking(future_leak(encoder(), sequence="input_ids"), "suffix")


def test_a_masked_model_passes_the_padding_probe() -> None:
    leak = padding_leak(encoder(), mask="attention_mask")
    assert leak.ok
    assert {(gap.probe, gap.output) for gap in leak.gaps} == {
        (probe, output) for probe in ("filler", "length", "alone") for output in ("last_hidden_state", "pooler_output")
    }
    leak.raise_if_failed()


@pytest.mark.parametrize(("op", "options"), [("cb", {}), ("cb_s", {"initial": 0.5})])
def test_a_mean_planted_in_a_padded_model_is_caught(op: str, options: dict[str, float]) -> None:
    leak = padding_leak(planted(encoder(), op, **options), mask="attention_mask")
    assert leaking(leak, "filler")
    assert leaking(leak, "length")
    assert leaking(leak, "alone")
    with pytest.raises(CheckFailed) as error:
        leak.raise_if_failed()
    assert "padding" in error.value.what


def test_a_program_is_probed_at_its_own_length() -> None:
    """A captured program accepts one number of tokens: hidden tokens can be changed but not cut off, and the result has
    a note about it."""
    program = Model(None, program=capture(encoder()).exported)
    leak = padding_leak(program, mask="attention_mask")
    assert leak.ok
    assert {gap.probe for gap in leak.gaps} == {"filler"}
    assert {"length", "alone"} <= set(leak.not_run)
    assert leaking(padding_leak(planted(encoder(), "cb", "program"), mask="attention_mask"), "filler")


class Zeroed(nn.Module):
    """Sets filler to zero and then takes the mean over every position: what is hidden is gone, its count is not."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = x * mask.unsqueeze(-1)
        return x + kept.mean(1, keepdim=True)


def test_only_the_number_of_hidden_tokens_leaks() -> None:
    """The filler's values are of no consequence here, so the first probe alone would be fooled."""
    x, mask = torch.randn(BATCH, LENGTH, 4), torch.ones(BATCH, LENGTH)
    leak = padding_leak(Model(Zeroed().eval(), (x, mask)), mask="mask")
    assert not leaking(leak, "filler")
    assert leaking(leak, "length")
    assert not leak.ok


class Infected(nn.Module):
    """One odd value anywhere makes every value of its sample not a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where((x == 1).all(), x, torch.nan)


def test_a_value_that_becomes_nan_counts_as_changed() -> None:
    leak = future_leak(Model(Infected().eval(), (torch.ones(BATCH, LENGTH, 4),)))
    assert leak.gaps[0].max_abs == float("inf")
    assert not leak.ok


@pytest.mark.parametrize("mask", ["nothing", "input_ids"])
def test_a_mask_that_is_none_is_refused(mask: str) -> None:
    with pytest.raises(UsageError) as error:
        padding_leak(encoder(), mask=mask)
    assert error.value.code == "CB-LEAK-04"
    assert "attention_mask" in error.value.where


def test_a_sequence_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        future_leak(decoder(), sequence="nothing")
    assert error.value.code == "CB-LEAK-04"


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class Pooled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


@pytest.mark.parametrize("module", [Constant(), Pooled()])
def test_a_probe_with_nothing_to_compare_is_an_error(module: nn.Module) -> None:
    """Nothing moved because nothing follows the tokens: that is no proof."""
    with pytest.raises(UsageError) as error:
        future_leak(Model(module.eval(), (torch.randn(BATCH, LENGTH, 4),)))
    assert error.value.code == "CB-LEAK-05"


def test_half_precision_is_not_judged() -> None:
    """Its rounding is as large as a leak, so an answer would be worth nothing."""
    model = Model(nn.Linear(4, 4).half().eval(), (torch.randn(BATCH, LENGTH, 4).half(),))
    with pytest.raises(UsageError) as error:
        future_leak(model)
    assert error.value.code == "CB-LEAK-05"
    assert "float16" in error.value.why


def test_inputs_are_left_alone() -> None:
    model = encoder()
    before = {name: tensor.clone() for name, tensor in model.example_kwargs.items()}
    padding_leak(model, mask="attention_mask")
    future_leak(model, sequence="input_ids")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.example_kwargs.items())
