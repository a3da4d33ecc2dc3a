"""The masked mean: tied to the right input, equal both ways and to the formula, and blind to padding."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.checks.leaks import padding_leak
from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph import Inspection, inspect
from cbsurgeon.graph.block import Mask
from cbsurgeon.models.model import Model
from cbsurgeon.operators import CB, CBS
from cbsurgeon.operators.common.masking import Masking
from cbsurgeon.surgery import Recipe, insert_, insert_module, insert_program, plan, remove

BATCH, LENGTH, VOCABULARY, WIDTH = 3, 8, 64, 16

SPREAD = 0.2
"""Spread of fresh weights: with the default of 0.02 networks of this width are all but the identity."""

ROUNDING = 1e-5
"""Two ways to sum the same eight fp32 numbers of size one differ by some 1e-7; networks of two layers keep below."""

COARSE = 2.0**-7
"""Relative rounding of bfloat16, which the operator's result is rounded to once."""

PLANTED = 1e-3
"""A leak worth the name moves outputs of size one by far more than rounding."""


def ids() -> Tensor:
    return torch.randint(5, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


def valid() -> Tensor:
    """1 for a token: the first sample is whole, the others are padded at the end and at the beginning."""
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1, 5:] = 0
    mask[2, :2] = 0
    return mask


class Encoder(nn.Module):
    """``nn.TransformerEncoder``, whose mask is true where there is padding."""

    def __init__(self, *, batch_first: bool = True, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.1, batch_first=batch_first, norm_first=norm_first)
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.turned = not batch_first

    def forward(self, words: Tensor, padding: Tensor | None = None) -> Tensor:
        x = self.words(words)
        x = x.transpose(0, 1) if self.turned else x
        x = self.layers(x, src_key_padding_mask=padding)
        return x.transpose(0, 1) if self.turned else x


BERT = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH + 2, "initializer_range": SPREAD, "pad_token_id": 0,
}  # fmt: skip
DISTIL = {
    "dim": WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH, "initializer_range": SPREAD,
}  # fmt: skip
MOBILE: dict[str, Any] = {
    "embedding_size": WIDTH, "intra_bottleneck_size": WIDTH, "num_feedforward_networks": 1,
    "trigram_input": False,  # its words see their neighbours' embeddings, and so the first of the padding
}  # fmt: skip
EAGER = {"attn_implementation": "eager"}
HUGGING: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", BERT),
    "bert with softmax": ("BertModel", BERT | EAGER),
    "roberta": ("RobertaModel", BERT),
    "distilbert": ("DistilBertModel", DISTIL),
    "albert, one layer run twice": ("AlbertModel", BERT | {"embedding_size": WIDTH}),
    "mobilebert, attention beside the stream": ("MobileBertModel", BERT | MOBILE),
}
ENCODERS: dict[str, dict[str, bool]] = {
    "encoder": {},
    "encoder, tokens first": {"batch_first": False},
    "encoder, norm first": {"norm_first": True},
}
MODELS = (*HUGGING, *ENCODERS)


def _spread(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=SPREAD, generator=torch.Generator().manual_seed(parameter.numel()))
    return module.eval()


@cache
def model(name: str) -> Model:
    torch.manual_seed(0)
    if name in ENCODERS:
        return Model(_spread(Encoder(**ENCODERS[name])), (ids(), valid() == 0))
    transformers = pytest.importorskip("transformers", reason="the architecture is that of transformers")
    kind, sizes = HUGGING[name]
    module = getattr(transformers, kind)(getattr(transformers, kind).config_class(**sizes))
    return Model(_spread(module), example_kwargs={"input_ids": ids(), "attention_mask": valid()})


@cache
def found(name: str) -> Inspection:
    return inspect(model(name))


@cache
def edited(name: str, op: str = "cb") -> Model:
    options = {"initial": 0.5} if op == "cb_s" else {}
    return insert_module(model(name), plan(found(name), op=op, layers="all", masked=True, **options))


def tokens_of(module: nn.Module, words: Tensor, mask: Tensor | None) -> Tensor:
    """The token outputs; ``mask`` holds 1 for a token."""
    if isinstance(module, Encoder):
        output: Tensor = module(words, None if mask is None else mask == 0)
        return output
    given = {} if mask is None else {"attention_mask": mask}
    return module(input_ids=words, **given).last_hidden_state  # type: ignore[no-any-return]


def probed(changed: Model) -> Any:
    name = "attention_mask" if changed.example_kwargs else "padding"
    return padding_leak(changed, mask=name, valid=int(bool(changed.example_kwargs)))


# the formula


def by_hand(x: Tensor, mask: Tensor) -> Tensor:
    """m = sum(mask * x) / max(sum(mask), 1) over tokens, sample by sample, in float64."""
    means = []
    for sample, own in zip(x.double(), mask, strict=True):
        means.append(sample[own.bool()].sum(0) / max(int(own.sum()), 1))
    return torch.stack(means)[:, None, :]


def test_the_operator_is_the_formula() -> None:
    x = torch.randn(BATCH, LENGTH, WIDTH)
    mean = by_hand(x, valid())
    cb, cbs = CB(WIDTH, 2, (1,), masked=True), CBS(WIDTH, 2, (1,), initial=0.5, masked=True)
    for operator, expected in ((cb, (x + mean) / 2), (cbs, x + 0.5 * mean)):
        assert operator.masking is not None
        with operator.masking.given(valid()):
            torch.testing.assert_close(operator(x).double(), expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0)], ids=str)
def test_any_order_of_axes(axes: tuple[int, int, int]) -> None:
    """Axes of batch, tokens and channels; all sizes are equal, so that no size can say which is which."""
    x, mask = torch.randn(4, 4, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]])
    batch, tokens, channels = axes
    operator = CB(4, channels, (tokens,), masked=True)
    masking = Masking()
    operator.tie(masking, batch)
    plain = x.permute(batch, tokens, channels)
    with masking.given(mask):
        result = operator(x).permute(batch, tokens, channels)
    torch.testing.assert_close(result.double(), (plain + by_hand(plain, mask)) / 2, atol=ROUNDING, rtol=0)


def test_values_at_padding_are_never_read() -> None:
    """Not even where it is no number: 0 * nan would be nan."""
    x = torch.randn(BATCH, LENGTH, WIDTH)
    odd = x.masked_fill((valid() == 0)[..., None], float("nan"))
    operator = CB(WIDTH, 2, (1,), masked=True)
    assert operator.masking is not None
    with operator.masking.given(valid()):
        assert torch.equal(operator(odd)[valid() == 1], operator(x)[valid() == 1])


def test_a_sample_that_is_all_padding_has_the_mean_zero() -> None:
    x, mask = torch.randn(2, 4, WIDTH), torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
    operator = CB(WIDTH, 2, (1,), masked=True)
    assert operator.masking is not None
    with operator.masking.given(mask):
        assert torch.equal(operator(x)[0], 0.5 * x[0])


def test_half_precision_sums_in_float32() -> None:
    """Summed in bfloat16, 4096 ones would stop growing at 256."""
    x, mask = torch.ones(1, 4096, 2, dtype=torch.bfloat16), torch.ones(1, 4096)
    operator = CB(2, 2, (1,), masked=True)
    assert operator.masking is not None
    with operator.masking.given(mask):
        result = operator(x)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, x, atol=0, rtol=COARSE)


def test_causal_and_masked_is_the_mean_of_the_tokens_so_far() -> None:
    x, mask = torch.randn(BATCH, LENGTH, WIDTH), valid()
    operator = CB(WIDTH, 2, (1,), causal=True, masked=True)
    assert operator.masking is not None
    with operator.masking.given(mask):
        result = operator(x)
    for end in range(1, LENGTH + 1):
        mean = by_hand(x[:, :end], mask[:, :end])[:, 0]
        torch.testing.assert_close(result[:, end - 1].double(), (x[:, end - 1] + mean) / 2, atol=ROUNDING, rtol=0)


def test_a_slice_of_tokens_and_the_mask() -> None:
    x, mask = torch.randn(BATCH, LENGTH, WIDTH), valid()
    operator = CB(WIDTH, 2, (1,), tokens=":6", masked=True)
    assert operator.masking is not None
    with operator.masking.given(mask):
        result = operator(x)
    assert torch.equal(result[:, 6:], x[:, 6:])
    expected = (x[:, :6] + by_hand(x[:, :6], mask[:, :6])) / 2
    torch.testing.assert_close(result[:, :6].double(), expected, atol=ROUNDING, rtol=0)


# finding the mask


@pytest.mark.parametrize("name", MODELS)
def test_the_mask_is_tied_to_every_site(name: str) -> None:
    own = Mask("padding", "zero") if name in ENCODERS else Mask("attention_mask", "nonzero")
    assert found(name).blocks
    for block in (*found(name).blocks, *found(name).attention):
        # An operator on queries takes no mean over tokens, so that site needs no mask.
        assert {site.mask for where, site in block.sites.items() if where != "query"} == {own}


def test_plain_insertion_is_refused_and_the_advice_works() -> None:
    with pytest.raises(SurgeryError) as error:
        plan(found("bert"), op="cb", layers="all")
    assert error.value.code == "CB-LEAK-02"
    assert "--masked" in error.value.do
    assert len(plan(found("bert"), op="cb", layers="all", masked=True)) == 2
    with pytest.raises(SurgeryError) as other:
        plan(found("bert"), op="se", layers="all")
    assert "no masked form" in other.value.do


class Attending(nn.Module):
    """One block of attention and MLP; a subclass says what of its input hides keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def hide(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(mask[:, None, :] == 0, float("-inf"))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x)
        scores = self.q(y) @ self.k(y).transpose(1, 2) / WIDTH**0.5
        x = x + self.o(self.hide(scores, mask).softmax(-1) @ self.v(y))
        return x + self.mlp(self.after(x))


class Shifted(Attending):
    """Key k is hidden by the mask's entry k + 1: the same shape, other tokens."""

    def hide(self, scores: Tensor, mask: Tensor) -> Tensor:
        return super().hide(scores, mask.roll(-1, 1))


class Swapped(Attending):
    """A sample is hidden by its neighbour's mask."""

    def hide(self, scores: Tensor, mask: Tensor) -> Tensor:
        return super().hide(scores, mask.flip(0))


class Grown(Attending):
    """A hidden token hides its right neighbour, too."""

    def hide(self, scores: Tensor, mask: Tensor) -> Tensor:
        return super().hide(scores, mask * mask.roll(1, 1))


class Queries(Attending):
    """It is queries that are hidden, and keys all remain."""

    def hide(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores * mask[:, :, None]


class Lowered(Attending):
    """Hidden keys are only made less likely."""

    def hide(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores - (1 - mask[:, None, :])


def one_block(kind: type[Attending], tokens: int = LENGTH) -> Model:
    x, mask = torch.randn(BATCH, tokens, WIDTH), valid()[:, :tokens].float()
    return Model(_spread(kind()), (x, mask))


def test_a_mask_is_matched_by_its_effect() -> None:
    inspection = inspect(one_block(Attending))
    assert inspection.blocks[0].sites["end"].mask == Mask("mask", "nonzero")
    assert inspection.unmasked == {}


@pytest.mark.parametrize("kind", [Shifted, Swapped, Grown, Queries, Lowered])
def test_a_mask_with_another_effect_is_not_matched(kind: type[Attending]) -> None:
    inspection = inspect(one_block(kind))
    assert inspection.masks == ("mask",)
    assert inspection.blocks[0].sites["end"].mask is None
    reason = next(iter(inspection.unmasked.values()))
    for options, code in (({}, "CB-LEAK-02"), ({"masked": True}, "CB-LEAK-06")):
        with pytest.raises(SurgeryError) as error:
            plan(inspection, op="cb", layers="all", **options)
        assert error.value.code == code
        assert reason in error.value.why


def test_masked_is_refused_where_there_is_no_mask() -> None:
    bare = Model(model("bert").module, example_kwargs={"input_ids": ids()})
    with pytest.raises(SurgeryError) as error:
        plan(inspect(bare), op="cb", layers="all", masked=True)
    assert error.value.code == "CB-LEAK-06"


# the edited model


@pytest.mark.parametrize("op", ["cb", "cb_s"])
@pytest.mark.parametrize("name", MODELS)
def test_padding_does_not_move_a_samples_own_tokens(name: str, op: str) -> None:
    assert probed(model(name)).ok  # else nothing could be said of the operator
    leak = probed(edited(name, op))
    assert leak.ok, leak.gaps
    assert {gap.probe for gap in leak.gaps} == {"filler", "length", "alone"}


@pytest.mark.parametrize("name", ["bert", "encoder"])
def test_the_plain_mean_planted_by_force_is_caught(name: str) -> None:
    planted = insert_module(model(name), plan(replace(found(name), masks=()), op="cb", layers="all"))
    leak = probed(planted)
    assert {gap.probe for gap in leak.gaps if gap.max_abs > PLANTED} == {"filler", "length", "alone"}


@pytest.mark.thin(5)
@pytest.mark.parametrize("op", ["cb", "cb_s"])
@pytest.mark.parametrize("name", MODELS)
def test_module_and_program_agree(name: str, op: str) -> None:
    one = edited(name, op)
    recipe = Recipe.from_dict(one.recipes[0])
    other = insert_program(model(name), recipe)
    assert other.program is not None and one.module is not None
    with torch.no_grad():
        ours = tokens_of(one.module, ids(), valid())
        theirs = other.program.module()(*one.example_inputs, **one.example_kwargs)
        theirs = theirs if isinstance(theirs, Tensor) else theirs[0]
        original = tokens_of(model(name).module, ids(), valid())  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, atol=ROUNDING, rtol=0)
    assert (ours - original).abs().max() > PLANTED


def test_the_mask_may_be_positional_or_a_keyword() -> None:
    module = edited("bert").module
    assert module is not None
    with torch.no_grad():
        named = tokens_of(module, ids(), valid())
        placed = module(ids(), valid()).last_hidden_state
        without = tokens_of(module, ids(), None)
        whole = tokens_of(module, ids(), torch.ones_like(valid()))
    assert torch.equal(named, placed)
    assert (named - without).abs().max() > PLANTED
    torch.testing.assert_close(without, whole, atol=ROUNDING, rtol=0)  # no mask given: everything is a token


def test_keys_copies_pickles_and_removal() -> None:
    original, changed = model("bert").module, edited("bert")
    assert original is not None and changed.module is not None
    assert changed.module.state_dict().keys() == original.state_dict().keys()
    with torch.no_grad():
        expected = tokens_of(changed.module, ids(), valid())
        for other in (copy.deepcopy(changed.module), pickle.loads(pickle.dumps(changed.module))):
            assert torch.equal(tokens_of(other, ids(), valid()), expected)
        bare = remove(changed).module
        assert bare is not None
        assert torch.equal(tokens_of(bare, ids(), valid()), tokens_of(original, ids(), valid()))
    for part in bare.modules():
        assert not (part._forward_hooks or part._forward_pre_hooks or part._forward_hooks_always_called)
        assert not part._forward_pre_hooks_with_kwargs


def test_a_recipe_is_replayed_from_its_text() -> None:
    text = Recipe.from_dict(edited("bert").recipes[0]).to_json()
    recipe = Recipe.from_json(text)
    assert recipe.to_json() == text
    module = insert_(copy.deepcopy(model("bert").module), recipe)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(tokens_of(module, ids(), valid()), tokens_of(edited("bert").module, ids(), valid()))  # type: ignore[arg-type]


def test_a_recipe_for_a_mask_the_model_does_not_take_is_refused() -> None:
    document = copy.deepcopy(dict(edited("encoder").recipes[0]))
    document["sites"][0]["mask"]["input"] = "attention_mask"
    module = copy.deepcopy(model("encoder").module)
    assert module is not None
    with pytest.raises(SurgeryError) as error:
        insert_(module, Recipe.from_dict(document))
    assert error.value.code == "CB-LEAK-09"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    with pytest.raises(SurgeryError) as other:
        insert_program(model("encoder"), Recipe.from_dict(document))
    assert other.value.code == "CB-LEAK-06"


def test_an_inserted_operator_is_found_by_inspection() -> None:
    again = inspect(edited("bert"))
    assert [block.path for block in again.blocks] == [block.path for block in found("bert").blocks]
    assert {block.sites["end"].occupied for block in again.blocks} == {"cb"}
    with pytest.raises(SurgeryError) as error:
        plan(again, op="cb", layers="all", masked=True)
    assert error.value.code == "CB-SURGERY-03"


def test_compiled_without_a_break() -> None:
    module = edited("bert").module
    assert module is not None
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    other = valid().flip(1)
    with torch.no_grad():
        for mask in (valid(), other):
            torch.testing.assert_close(
                tokens_of(compiled, ids(), mask), tokens_of(module, ids(), mask), atol=ROUNDING, rtol=0
            )


def test_gradients_reach_everything_but_padding() -> None:
    module = copy.deepcopy(edited("encoder", "cb_s").module)
    assert module is not None
    module.zero_grad()
    tokens_of(module, ids(), valid())[valid() == 1].square().sum().backward()
    scales = [parameter for name, parameter in module.named_parameters() if name.endswith("scale")]
    assert len(scales) == 2
    assert all(scale.grad is not None and scale.grad.abs().min() > 0 for scale in scales)
    x = torch.randn(BATCH, LENGTH, WIDTH, requires_grad=True)
    operator = CB(WIDTH, 2, (1,), masked=True)
    assert operator.masking is not None
    with operator.masking.given(valid()):
        operator(x)[valid() == 1].square().sum().backward()
    assert x.grad is not None
    assert not x.grad[valid() == 0].any()


def test_bfloat16_and_an_empty_sample() -> None:
    module = copy.deepcopy(edited("bert").module)
    assert module is not None
    mask = valid()
    mask[1] = 0
    with torch.no_grad():
        assert tokens_of(module, ids(), mask).isfinite().all()
        coarse = tokens_of(module.bfloat16(), ids(), mask)
    assert coarse.dtype == torch.bfloat16
    assert coarse.isfinite().all()


# a mask that must not be another's


def gradients(module: nn.Module, run: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    module.zero_grad()
    run(module).backward()
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_repeats_with_the_mask_of_its_own_pass(reentrant: bool) -> None:
    """Two passes with different masks before either goes backward: the hooks of both are over by then."""
    plain = copy.deepcopy(edited("bert").module)
    assert plain is not None
    plain.train()
    for part in plain.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]

    def run(module: nn.Module) -> Tensor:
        words = module.embeddings.word_embeddings(ids())  # type: ignore[union-attr, operator]
        first, second = (
            module(inputs_embeds=words, attention_mask=mask).last_hidden_state for mask in (valid(), valid().flip(1))
        )
        return first.square().sum() + 2 * second.square().sum()

    for one, other in zip(gradients(plain, run), gradients(saving, run), strict=True):
        torch.testing.assert_close(one, other)


def test_a_part_run_by_itself_is_refused_and_not_guessed() -> None:
    module = edited("bert").module
    assert module is not None
    with pytest.raises(SurgeryError) as error, torch.no_grad():
        module.encoder(torch.randn(BATCH, LENGTH, WIDTH))  # type: ignore[operator]
    assert error.value.code == "CB-LEAK-07"


@pytest.mark.parametrize("shape", [(BATCH, 1), (BATCH, LENGTH, LENGTH), (2, LENGTH), (LENGTH,)], ids=str)
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """Also where it could be broadcast."""
    operator = CB(WIDTH, 2, (1,), masked=True)
    assert operator.masking is not None
    with pytest.raises(SurgeryError) as error, operator.masking.given(torch.ones(shape)):
        operator(torch.randn(BATCH, LENGTH, WIDTH))
    assert error.value.code == "CB-LEAK-08"


def test_a_pass_that_failed_leaves_no_mask_behind() -> None:
    module = edited("bert").module
    assert module is not None
    with pytest.raises(IndexError), torch.no_grad():
        tokens_of(module, ids() + VOCABULARY, valid())
    with pytest.raises(SurgeryError), torch.no_grad():
        module.encoder(torch.randn(BATCH, LENGTH, WIDTH))  # type: ignore[operator]


def replica(module: nn.Module) -> nn.Module:
    """What ``DataParallel`` makes of a module for one device."""
    made: nn.Module = module._replicate_for_data_parallel()  # type: ignore[operator]
    for name, child in module._modules.items():
        made._modules[name] = None if child is None else replica(child)
    for name, parameter in module._parameters.items():
        made._parameters[name] = parameter
    return made


def test_replicas_in_threads_keep_their_masks_apart() -> None:
    module = edited("bert").module
    assert module is not None
    masks = [valid(), valid().flip(1)]
    with torch.no_grad():
        expected = [tokens_of(module, ids(), mask) for mask in masks]
    meet = threading.Barrier(len(masks), timeout=60)
    got: dict[int, Tensor] = {}

    def work(number: int) -> None:
        own = replica(module)
        embed = own.embeddings.forward  # type: ignore[union-attr]

        def met(*args: Any, **kwargs: Any) -> Any:
            meet.wait()  # both have handed on their mask before either goes on
            return embed(*args, **kwargs)  # type: ignore[operator]

        own.embeddings.forward = met  # type: ignore[union-attr, assignment]
        with torch.no_grad():
            got[number] = tokens_of(own, ids(), masks[number])

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(masks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(torch.equal(got[number], one) for number, one in enumerate(expected))


# ViLT: a part that is given one mask of text and picture


@cache
def vilt() -> Model:
    transformers = pytest.importorskip("transformers", reason="the architecture is that of transformers")
    torch.manual_seed(0)
    module = transformers.ViltModel(transformers.ViltConfig(**BERT, image_size=32, patch_size=16))
    pixels = torch.ones(BATCH, 32, 32, dtype=torch.long)
    pixels[1, :, 16:] = 0
    inputs = {
        "input_ids": ids(), "attention_mask": valid(), "pixel_values": torch.randn(BATCH, 3, 32, 32),
        "pixel_mask": pixels,
    }  # fmt: skip
    return Model(_spread(module), example_kwargs=inputs)


def test_vilt_takes_the_mask_its_encoder_is_given() -> None:
    inspection = inspect(vilt())
    assert {block.sites["end"].mask for block in inspection.blocks} == {Mask("attention_mask", "open", "encoder", True)}
    masked = insert_module(vilt(), plan(inspection, op="cb", layers="all", masked=True))
    planted = insert_module(vilt(), plan(replace(inspection, masks=()), op="cb", layers="all"))
    assert padding_leak(masked, mask="attention_mask").ok
    assert not padding_leak(planted, mask="attention_mask").ok


# deployment


def test_onnx_takes_the_mask_as_an_input(tmp_path: Any) -> None:
    pytest.importorskip("onnxscript", reason="the exporter needs it")
    runtime = pytest.importorskip("onnxruntime", reason="it is the other side")
    from cbsurgeon import verbs

    changed = edited("encoder")
    exported = verbs.export(changed, tmp_path / "masked.onnx", batch=BATCH)
    session = runtime.InferenceSession(str(tmp_path / "masked.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["words", "padding"]
    padding = valid().flip(1) == 0
    got = session.run(None, {"words": ids().numpy(), "padding": padding.numpy()})[0]
    with torch.no_grad():
        expected = changed.module(ids(), padding)  # type: ignore[misc]
    own = ~padding  # rows of padding see nothing, and what a runtime makes of them is of no consequence
    torch.testing.assert_close(torch.from_numpy(got)[own], expected[own], atol=ROUNDING, rtol=ROUNDING)
    assert "folded 0 of 2" in str(exported)


def test_saved_and_loaded_it_is_the_same(tmp_path: Any) -> None:
    from cbsurgeon import verbs

    recipe = Recipe.from_dict(edited("bert").recipes[0])
    path = tmp_path / "masked.json"
    path.write_text(recipe.to_json(), encoding="utf-8")
    again = verbs.insert(model("bert"), verbs.read_recipe(path))
    with torch.no_grad():
        assert torch.equal(
            tokens_of(again.module, ids(), valid()),  # type: ignore[arg-type]
            tokens_of(edited("bert").module, ids(), valid()),  # type: ignore[arg-type]
        )
