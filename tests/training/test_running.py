"""Compiled, in mixed precision, checkpointed, wrapped, fused: the operators run, and the results are the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.operators import build as build_operator
from cbsurgeon.operators import names
from tests.training.networks import NETWORKS, build, edited, gradients, images, logits, recipe, scales

every = pytest.mark.parametrize("name", list(NETWORKS))
ROUNDING = 2e-5
"""Compiled code sums in another order: some float32 rounding steps of outputs and gradients of order one to ten."""


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = ROUNDING) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        size = float(value.abs().max().clamp_min(1e-3))
        assert float((value - other[key]).abs().max()) <= tolerance * size * 10, key


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "op"),
    [("vit", "cb"), ("vit", "cb_s"), ("mixer", "cb_s")]
    + [pytest.param(name, "cb_s", marks=pytest.mark.slow) for name in ("deit3", "swin", "hf vit")],
)
def test_compiled_equals_eager(name: str, op: str) -> None:
    """One graph without a break; outputs and gradients, those of ``scale`` included."""
    eager = edited(name, op).eval()
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(logits(compiled(images())), logits(eager(images())), rtol=ROUNDING, atol=ROUNDING)
    given = {key.removeprefix("_orig_mod."): grad for key, grad in gradients(compiled, images()).items()}
    assert_alike(given, gradients(eager, images()))
    if op == "cb_s":
        assert all(given[key].abs().min() > 0 for key in scales(eager))


@pytest.mark.slow
@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_compiled_to_machine_code(op: str) -> None:
    eager = edited("vit", op).eval()
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True)
    torch.testing.assert_close(compiled(images()), eager(images()), rtol=ROUNDING, atol=ROUNDING)


def test_a_schedule_moves_compiled_code_without_recompiling() -> None:
    module = edited("vit", "cb_retrofit").eval()
    plain = build("vit").eval()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(module(images()), plain(images()))  # strength 0
        compiled(images())
        with torch.compiler.set_stance("fail_on_recompile"):
            for strength in (0.1, 0.25, 0.5):
                assert cbs.set_strength(module, strength) == 2
                torch.testing.assert_close(compiled(images()), module(images()), rtol=ROUNDING, atol=ROUNDING)
        torch.testing.assert_close(
            compiled(images()), edited("vit", "cb").eval()(images()), rtol=ROUNDING, atol=ROUNDING
        )


@pytest.mark.parametrize("op", names())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_type(op: str, dtype: torch.dtype) -> None:
    """Parameters stay float32 while the tensor is half as wide; the result must not be widened."""
    options = {"initial": 0.5} if op == "cb_s" else {}
    operator = build_operator(op, 16, -1, (1,), options)
    with torch.autocast("cpu", dtype=dtype):
        assert operator(torch.randn(2, 9, 16).to(dtype)).dtype == dtype
        assert operator(torch.randn(2, 9, 16)).dtype == torch.float32


@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_a_mean_of_many_tokens_is_summed_in_float32(op: str) -> None:
    """4096 tokens of 1 and 1.0078125: the sum of the first 512 alone is past what bfloat16 counts in ones."""
    tokens = torch.ones(1, 4096, 4, dtype=torch.bfloat16)
    tokens[:, ::2] += 2**-7
    operator = build_operator(op, 4, -1, (1,), {"initial": 1.0} if op == "cb_s" else {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = operator(tokens)
    exact = tokens.double().mean(1, keepdim=True)
    wanted = 0.5 * tokens.double() + 0.5 * exact if op == "cb" else tokens.double() + exact
    # Three roundings to bfloat16, each half a unit in the last of its 8 bits.
    assert float(((out.detach().double() - wanted) / wanted).abs().max()) <= 3 * 2**-9


@every
def test_autocast_runs_and_trains(name: str) -> None:
    """Outputs near those of float32, a finite gradient for every parameter, and the branch keeps its type."""
    module = edited(name, "cb_s").train()
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    for part in module.modules():
        if isinstance(part, cbs.Operator):
            part.register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = gradients(module, images())
    assert seen == [(torch.bfloat16, torch.bfloat16)] * 2
    assert grads.keys() == dict(module.named_parameters()).keys()
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    assert all(grads[key].dtype == torch.float32 and grads[key].abs().max() > 0 for key in scales(module))


@every
@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_gradient_checkpointing_changes_no_gradient(name: str, op: str) -> None:
    module = edited(name, op).train()
    torch.manual_seed(3)
    kept = gradients(module, images())  # swin with its drop path, which must drop the same again
    ran: list[int] = []
    norms = [part for part in module.modules() if isinstance(part, nn.LayerNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda *_: ran.append(1))
    if name.startswith("hf"):
        module.gradient_checkpointing_enable()
    else:
        module.set_grad_checkpointing(True)
    torch.manual_seed(3)
    again = gradients(module, images())
    assert len(ran) > len(norms), "no block was computed again: nothing was tested"
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[key], again[key]) for key in kept)


@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_data_parallel_without_a_device_is_the_module(op: str) -> None:
    module = edited("vit", op).eval()
    if torch.cuda.is_available():
        pytest.skip("with a GPU the wrapper moves its inputs there; the next test is about that")
    wrapped = nn.DataParallel(module)
    assert torch.equal(wrapped(images()), module(images()))
    assert list(wrapped.state_dict()) == [f"module.{key}" for key in module.state_dict()]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="replicas live on GPUs")
def test_replicas_use_their_own_operators() -> None:
    module = edited("vit", "cb_s").eval().cuda()
    first, second = nn.parallel.replicate(module, [0, torch.cuda.device_count() - 1])
    x = images().cuda()
    for replica in (first, second):
        device = next(iter(replica.buffers()), x).device
        torch.testing.assert_close(replica(x.to(device)).cpu(), module(x).cpu(), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_dropout_and_drop_path_stay_alive(name: str) -> None:
    module = edited(name, "cb_s", proj_drop_rate=0.3, drop_path_rate=0.3).train()
    before = build(name, proj_drop_rate=0.3, drop_path_rate=0.3).train()
    kinds = ("Dropout", "DropPath")
    alive = [(path, part.training) for path, part in module.named_modules() if type(part).__name__ in kinds]
    assert alive == [(path, part.training) for path, part in before.named_modules() if type(part).__name__ in kinds]
    assert {type(module.get_submodule(path)).__name__ for path, _ in alive} == set(kinds)
    assert all(training for _, training in alive)
    assert not torch.equal(module(images()), module(images()))
    module.eval()
    assert torch.equal(module(images()), module(images()))


def test_the_mean_is_over_the_output_of_dropout() -> None:
    """At ``end`` the operator runs after the dropout: it adds the mean of the output of the dropout."""
    module = edited("vit", "cb_s", proj_drop_rate=0.5).train()
    inside: list[Tensor] = []
    seen: list[tuple[Tensor, Tensor]] = []
    host = module.blocks[0].mlp
    host.drop2.register_forward_hook(lambda _, args, out: inside.append(out))
    host.context_broadcast.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    module(images())
    (given, out), dropped = seen[0], inside[0]
    assert torch.equal(given, dropped)
    assert 0.3 < float((dropped == 0).float().mean()) < 0.7
    torch.testing.assert_close(out - given, (0.3 * dropped.mean(1, keepdim=True)).expand_as(out), rtol=0, atol=1e-6)


def encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    with_nested = {} if not norm_first else {"enable_nested_tensor": False}
    return nn.TransformerEncoder(layer, 2, **with_nested).eval()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(("at", "pos"), [("mlp", "front"), ("mlp", "end"), ("msa", "end"), ("both", "end")])
class TestFusedInference:
    """In evaluation without gradients ``nn.TransformerEncoderLayer`` computes a layer in one call from the raw weights.
    That call knows no hook, and torch leaves it out for a layer with hooks below it; should torch ever stop asking,
    these tests fail.
    """

    def test_the_fused_call_is_there(self, norm_first: bool, at: str, pos: str, monkeypatch) -> None:
        plain, calls = encoder(norm_first), []
        real = torch._transformer_encoder_layer_fwd
        monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: (calls.append(1), real(*a))[1])
        x = torch.randn(2, 6, 16)
        with torch.no_grad():
            plain(x)
        assert len(calls) == 2  # otherwise this class would test nothing
        chosen = cbs.plan(cbs.inspect(cbs.Model(plain, (x,))), op="cb", layers="all", at=at, pos=pos)
        module = cbs.insert_(copy.deepcopy(plain), chosen)
        with torch.no_grad():
            fused = module(x)
        assert len(calls) == 2
        torch.testing.assert_close(fused, module(x), rtol=ROUNDING, atol=ROUNDING)
        with torch.no_grad():
            assert float((fused - plain(x)).abs().max()) > 0.01
        # One layer without an operator keeps its fused call.
        upper = cbs.insert_(copy.deepcopy(plain), chosen.without(0))
        with torch.no_grad():
            upper(x)
        assert len(calls) == 5

    def test_padding_is_never_silently_in_a_mean(self, norm_first: bool, at: str, pos: str) -> None:
        """With a padding mask the encoder may pass nested tensors on, whose mean over tokens is no such mean."""
        plain = encoder(norm_first)
        x = torch.randn(2, 6, 16)
        chosen = cbs.plan(cbs.inspect(cbs.Model(plain, (x,))), op="cb", layers="all", at=at, pos=pos)
        module = cbs.insert_(copy.deepcopy(plain), chosen)
        padding = torch.zeros(2, 6, dtype=torch.bool)
        padding[0, 4:] = True
        with torch.no_grad():
            if norm_first:  # no nested tensors: the operator runs
                out, fused = module(x, src_key_padding_mask=padding), plain(x, src_key_padding_mask=padding)
                assert float((out - fused)[~padding].abs().max()) > 0.01
            else:
                with pytest.raises(cbs.CBSurgeonError, match="CB-SURGERY-09"):
                    module(x, src_key_padding_mask=padding)


class Padded(nn.Module):
    """An encoder with a padding mask as an input."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=padding)


def test_the_masked_form_works_with_padding() -> None:
    """What the refusal above advises: then padding reaches no other token, fused or not."""
    plain, x, padding = Padded().eval(), torch.randn(2, 6, 16), torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    found = cbs.inspect(cbs.Model(plain, (x, padding)))
    module = cbs.insert_(copy.deepcopy(plain), cbs.plan(found, op="cb", layers="all", options={"masked": True}))
    other = torch.where(padding[..., None], 9.0, x)
    with torch.no_grad():
        out = module(x, padding)
        assert torch.equal(out[~padding], module(other, padding)[~padding])
        assert float((out - plain(x, padding))[~padding].abs().max()) > 0.01
    torch.testing.assert_close(out[~padding], module(x, padding)[~padding], rtol=ROUNDING, atol=ROUNDING)


def test_a_bare_attention_layer_keeps_its_fused_call() -> None:
    """torchvision's ViT: ``nn.MultiheadAttention`` runs fused, and the operator after it runs as well."""
    vision = pytest.importorskip("torchvision.models", reason="the architecture is torchvision's")
    plain = vision.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).eval()
    nn.init.normal_(plain.heads.head.weight)
    found = cbs.inspect(cbs.Model(plain, (images(),)))
    module = cbs.insert_(copy.deepcopy(plain), cbs.plan(found, op="cb", layers="all", at="msa"))
    with torch.no_grad():
        fused = module(images())
        torch.testing.assert_close(fused, module(images()), rtol=ROUNDING, atol=ROUNDING)
        assert float((fused - plain(images())).abs().max()) > 0.01
    torch.testing.assert_close(fused, module(images()), rtol=ROUNDING, atol=ROUNDING)


def test_an_insertion_can_be_made_and_undone_in_training_mode() -> None:
    module = build("vit", proj_drop_rate=0.3).train()
    cbs.insert_(module, recipe("vit", "cb_s"))
    assert all(part.training for part in module.modules())
