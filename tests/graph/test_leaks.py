"""Causal attention and padding masks are recognised, and planning refuses the models that have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph import Inspection, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.execution import values
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import plan
from tests.graph.expectations import WIDTH
from tests.graph.parts import Attention, CrossAttention, Mlp

BATCH, LENGTH = 2, 6
TEXT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64,
    "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
PICTURE = {key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}


def ids(length: int = LENGTH) -> Tensor:
    return torch.randint(5, 64, (BATCH, length), generator=torch.Generator().manual_seed(0))


def mask(length: int = LENGTH) -> Tensor:
    ones = torch.ones(BATCH, length, dtype=torch.long)
    ones[-1, -2:] = 0
    return ones


def built(architecture: str, sizes: Mapping[str, Any]) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    module: nn.Module = kind(kind.config_class(**sizes))
    return module.eval()


GPT2 = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 64,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32, "vocab_size": 64,
    "max_position_embeddings": 32, "word_embed_proj_dim": 16,
}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
BART = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "vocab_size": 64,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32,
}  # fmt: skip
CACHE = {"use_cache": False}
EAGER = {"attn_implementation": "eager"}

# name → architecture, sizes, inputs besides input_ids
CAUSAL: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]] = {
    "gpt2": ("GPT2Model", GPT2 | CACHE, {}),
    "gpt2-softmax": ("GPT2Model", GPT2 | CACHE | EAGER, {}),
    "gpt2-padded": ("GPT2Model", GPT2 | CACHE, {"attention_mask": mask()}),
    "llama": ("LlamaModel", TEXT | CACHE, {}),
    "opt": ("OPTModel", OPT | CACHE, {}),
    "t5": ("T5Model", T5 | CACHE, {"decoder_input_ids": ids(5)}),
    "bart": ("BartModel", BART | CACHE, {"decoder_input_ids": ids(5)}),
    "clip-text": ("CLIPTextModel", TEXT, {}),
}
MASKED: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]] = {
    "bert": ("BertModel", TEXT, {"attention_mask": mask()}),
    "bert-softmax": ("BertModel", TEXT | EAGER, {"attention_mask": mask()}),
    "bert-unpadded": ("BertModel", TEXT, {"attention_mask": torch.ones_like(mask())}),
    "roberta": ("RobertaModel", TEXT, {"attention_mask": mask()}),
}


@cache
def found(kind: str, name: str) -> Inspection:
    architecture, sizes, inputs = (CAUSAL if kind == "causal" else MASKED)[name]
    return inspect(Model(built(architecture, sizes), example_kwargs={"input_ids": ids(), **inputs}))


def refusal(inspection: Inspection) -> SurgeryError:
    with pytest.raises(SurgeryError) as error:
        plan(inspection, op="cb", layers="all", at="mlp" if inspection.blocks else "msa")
    return error.value


def assert_free(inspection: Inspection) -> None:
    assert (inspection.causal, inspection.masks) == ((), ())
    assert len(plan(inspection, op="cb", layers="all")) == len(inspection.blocks) > 0


@pytest.mark.thin(4)
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models_are_refused(name: str) -> None:
    inspection = found("causal", name)
    assert len(inspection.causal) == 1  # one stream, one piece of evidence; an encoder beside the decoder has none
    error = refusal(inspection)
    assert error.code == "CB-LEAK-01"
    assert inspection.causal[0] in error.why


def test_the_encoder_of_a_causal_decoder_is_fine() -> None:
    assert_free(inspect(Model(built("T5EncoderModel", T5), example_kwargs={"input_ids": ids()})))


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", MASKED)
def test_masked_models_are_refused_and_the_input_is_named(name: str) -> None:
    inspection = found("masked", name)
    assert inspection.masks == ("attention_mask",)
    assert inspection.causal == ()  # a padding mask hides filler, not the future
    error = refusal(inspection)
    assert error.code == "CB-LEAK-02"
    assert error.where.endswith("input attention_mask")


def test_the_padding_mask_of_a_causal_model_is_named_too() -> None:
    assert found("causal", "gpt2-padded").masks == ("attention_mask",)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_same_model_without_its_mask_is_fine(implementation: str) -> None:
    module = built("BertModel", TEXT | {"attn_implementation": implementation})
    assert_free(inspect(Model(module, example_kwargs={"input_ids": ids()})))


def vilt() -> Model:
    torch.manual_seed(0)
    inputs = {
        "input_ids": ids(),
        "attention_mask": mask(),
        "pixel_values": torch.randn(BATCH, 3, 32, 32),
        "pixel_mask": torch.ones(BATCH, 32, 32, dtype=torch.long),
    }
    return Model(built("ViltModel", TEXT | {"image_size": 32, "patch_size": 16}), example_kwargs=inputs)


@pytest.mark.wide
def test_masks_of_a_captured_part_are_named_as_the_model_takes_them() -> None:
    """ViLT's encoder is captured on its own and given one mask of text and patches, made from both of the model's."""
    inspection = inspect(vilt())
    assert inspection.masks == ("attention_mask", "pixel_mask")
    error = refusal(inspection)
    assert error.code == "CB-LEAK-02"
    assert error.where.endswith("input attention_mask, pixel_mask")


@pytest.mark.wide
def test_a_captured_part_without_masks_is_fine() -> None:
    """ViLT then makes masks of ones, and its encoder is given none because they hide nothing."""
    whole = vilt()
    inputs = {key: value for key, value in whole.example_kwargs.items() if not key.endswith("mask")}
    assert_free(inspect(Model(whole.module, example_kwargs=inputs)))


def vision(name: str) -> tuple[nn.Module, Tensor]:
    import timm

    torch.manual_seed(0)
    if name == "swin":
        module = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=56, depths=(2, 2), embed_dim=16, num_heads=(2, 2)
        )
        return module.eval(), torch.randn(BATCH, 3, 56, 56)
    if name == "deit":
        return timm.create_model("deit_tiny_patch16_224", img_size=64, depth=2).eval(), torch.randn(BATCH, 3, 64, 64)
    return built("ViTModel", PICTURE | {"image_size": 32, "patch_size": 8}), torch.randn(BATCH, 3, 32, 32)


@pytest.mark.parametrize("name", ["vit", "swin", "deit"])
def test_vision_models_are_fine(name: str) -> None:
    """Swin adds position biases to its scores, and masks that keep shifted windows apart: neither hides padding."""
    module, picture = vision(name)
    assert_free(inspect(Model(module, (picture,))))


class Blocks(nn.Module):
    """Two pre-norm blocks over (B, N, C) whose attention a subclass limits."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.attns = nn.ModuleList(self.attention() for _ in range(2))
        self.mlps = nn.ModuleList(Mlp() for _ in range(2))

    def attention(self) -> nn.Module:
        return CrossAttention()

    def run(self, x: Tensor, attend: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        for i, (attn, mlp) in enumerate(zip(self.attns, self.mlps, strict=True)):
            x = x + attend(attn, self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return x


class TriangularBuffer(Blocks):
    """The mask is a constant of the module, made long before capture: the graph shows no triangle."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden", torch.full((LENGTH, LENGTH), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, lambda attn, y: attn(y, bias=self.hidden))


class Told(Blocks):
    """``is_causal=True``: no mask anywhere."""

    def attention(self) -> nn.Module:
        class Causal(Attention):
            def forward(self, x: Tensor) -> Tensor:
                b, n, c = x.shape
                parts = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
                x = F.scaled_dot_product_attention(*parts, is_causal=True)
                return self.proj(x.transpose(1, 2).reshape(b, n, c))

        return Causal()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, lambda attn, y: attn(y))


class Filled(CrossAttention):
    """Scores are replaced by ``masked_fill`` at masked positions."""

    def forward(self, x: Tensor, memory: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        assert bias is not None
        x = scores.masked_fill(bias, -1e9).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).flatten(2))


class FilledTriangle(Blocks):
    def attention(self) -> nn.Module:
        return Filled()

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
        return self.run(x, lambda attn, y: attn(y, bias=hidden))


class FilledPadding(FilledTriangle):
    """The same with a mask per sample, given by the user as lengths would give it: true where there is filler."""

    def forward(self, x: Tensor, filler: Tensor) -> Tensor:  # type: ignore[override]
        return self.run(x, lambda attn, y: attn(y, bias=filler[:, None, None, :]))


class Windowed(Blocks):
    """A band around the diagonal: a token sees one neighbour on each side, the future among them."""

    def __init__(self) -> None:
        super().__init__()
        near = torch.ones(LENGTH, LENGTH).tril(1).triu(-1)
        self.register_buffer("hidden", torch.zeros(LENGTH, LENGTH).masked_fill(near == 0, float("-inf")))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, lambda attn, y: attn(y, bias=self.hidden))


class WindowedInGraph(Blocks):
    """The same band spelled out in forward(): it has a ``tril`` in it and is not causal."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        near = torch.ones(n, n).tril(1).triu(-1)
        hidden = torch.zeros(n, n).masked_fill(near == 0, float("-inf"))
        return self.run(x, lambda attn, y: attn(y, bias=hidden))


class PositionBias(Blocks):
    """A learned bias per pair of positions and head is added to the scores: it hides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2, LENGTH, LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, lambda attn, y: attn(y, bias=self.bias))


def hand_made(module: nn.Module, *more: Tensor) -> Inspection:
    x = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    return inspect(Model(module.eval(), (x, *more)))


@pytest.mark.parametrize("make", [TriangularBuffer, Told, FilledTriangle])
def test_causal_masks_in_many_spellings(make: type[nn.Module]) -> None:
    inspection = hand_made(make())
    assert inspection.causal
    assert inspection.masks == ()
    assert refusal(inspection).code == "CB-LEAK-01"


@pytest.mark.parametrize("make", [Windowed, WindowedInGraph, PositionBias])
def test_biases_that_are_not_causal_masks(make: type[nn.Module]) -> None:
    assert_free(hand_made(make()))


def test_an_input_of_masked_fill_is_a_padding_mask() -> None:
    filler = mask() == 0
    inspection = hand_made(FilledPadding(), filler)
    assert inspection.causal == ()
    assert inspection.masks == ("filler",)
    assert refusal(inspection).code == "CB-LEAK-02"


def test_replacing_an_input_leaves_the_inputs_after_it() -> None:
    """The probe puts another stream in the place of an input: the mask that follows it must still be the mask."""
    x, filler = torch.randn(BATCH, LENGTH, WIDTH), mask() == 0
    program = capture(Model(FilledPadding().eval(), (x, filler)))
    other = values(program, program.example, ["filler"], {"x": torch.zeros_like(x)})["filler"]
    assert torch.equal(other, filler)
