"""A model that leaves float16's range: refused by name, or exported with those nodes in float32."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.checks.parity.tolerance import CEILING
from cbsurgeon.deploy import Export, export, export_onnx, open_runtime
from cbsurgeon.errors import ExportError, UsageError
from cbsurgeon.models.model import Model

WIDTH, TOKENS = 16, 6

# The second block's down projection gives values of some 1e5, beyond float16's 65504, in float32 and in the reference.
SCALE = 3.6e5

# Two mixed computations that round to float16 at the same places differ where sums are grouped differently: by a few
# roundings of values that later normalisations scale to about one.
MIXED_ATOL = 20 * torch.finfo(torch.float16).eps


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


class ViT(nn.Module):
    """Three blocks; the residual stream leaves float16's range in the second and the last norm brings it back."""

    def __init__(self, scale: float = SCALE) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)
        with torch.no_grad():
            self.blocks[1].fc2.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def model(scale: float = SCALE) -> Model:
    return Model(ViT(scale).eval(), (torch.randn(2, TOKENS, 8, generator=torch.Generator().manual_seed(1)),))


def by_hand(net: ViT, x: Tensor) -> Tensor:
    """Float16 everywhere except for the second down projection, the residual stream after it, and the norms that read
    that stream."""

    def half(module: nn.Linear | nn.LayerNorm, x: Tensor) -> Tensor:
        weight, bias = module.weight.half(), module.bias.half()
        if isinstance(module, nn.Linear):
            return nn.functional.linear(x.half(), weight, bias)
        return nn.functional.layer_norm(x.half(), (WIDTH,), weight, bias)

    def body(block: Block, x: Tensor) -> Tensor:
        return nn.functional.gelu(half(block.fc1, x))

    first, second, third = net.blocks
    x = half(net.patch, x)
    x = x + half(first.fc2, body(first, half(first.norm, x)))
    wide = x.float() + second.fc2(body(second, half(second.norm, x)).float())
    wide = wide + half(third.fc2, body(third, third.norm(wide).half())).float()
    return half(net.head, net.norm(wide).half().float().mean(1).half())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Export:
    path = tmp_path_factory.mktemp("overflow") / "kept.onnx"
    return export_onnx(model(), path, dtype="float16", keep_float32="overflowing")


def test_the_first_block_that_overflows_is_named_and_the_remedy_works(tmp_path: Path, kept: Export) -> None:
    largest = {}
    net, x = model().module, model().example_inputs[0]
    assert isinstance(net, ViT)
    net.blocks[1].fc2.register_forward_hook(lambda *call: largest.update(fc2=float(call[2].detach().abs().max())))
    net(x)
    with pytest.raises(ExportError, match=r"float16 overflows in blocks\.1\.fc2") as raised:
        export_onnx(model(), tmp_path / "m.onnx", dtype="float16")
    assert raised.value.code == "CB-EXPORT-13"
    assert f"its values reach {largest['fc2']:.3g}" in str(raised.value)
    assert "--keep-float32 overflowing" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_weight_that_overflows_is_named_by_its_module(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"overflows in blocks\.1\.fc2") as raised:
        export_onnx(model(2 * SCALE), tmp_path / "m.onnx", dtype="float16")
    assert "weight" in str(raised.value)


def test_what_overflows_is_in_float32_and_nothing_else(kept: Export) -> None:
    modules = {entry.rpartition(" (")[0] for entry in kept.kept}
    assert modules == {"blocks.1.fc2", "blocks.1", "blocks.2.norm", "blocks.2", "norm"}
    assert kept.dtype == "float16"
    assert {port.dtype for port in (*kept.inputs, *kept.outputs)} == {"float16"}
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(kept.path).graph.initializer}
    assert {weights[f"blocks.1.fc2.{part}"] for part in ("bias",)} == {onnx.TensorProto.FLOAT}
    assert {weights[f"blocks.0.{part}.bias"] for part in ("fc1", "fc2")} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_mixed_file_computes_what_a_mixed_forward_does(kept: Export, batch: int) -> None:
    x = torch.randn(batch, TOKENS, 8, generator=torch.Generator().manual_seed(batch)).half()
    net = model().module
    assert isinstance(net, ViT)
    with torch.no_grad(), open_runtime(kept.path, optimize=False) as runtime:
        ours, reference = runtime.run({"x": x})["output"].float(), by_hand(net, x.float()).float()
    assert torch.isfinite(reference).all()
    assert (ours - reference).abs().max() <= MIXED_ATOL
    assert not torch.isfinite(net.half()(x)).all(), "plain float16 overflows"


def test_the_verified_file_agrees_and_plain_float16_does_not(kept: Export) -> None:
    found = cbs.verify(model(), kept.path)
    assert found.ok, str(found)
    assert found.tolerance.rel_l2 is not None
    assert found.rel_l2 < CEILING["float16"]


def test_named_modules_stay_in_float32(tmp_path: Path) -> None:
    made = export_onnx(model(1.0), tmp_path / "m.onnx", dtype="float16", keep_float32=("blocks.2", "norm"))
    assert {entry.rpartition(" (")[0] for entry in made.kept} == {
        *(f"blocks.2{part}" for part in ("", ".norm", ".fc1", ".fc2")),
        "norm",
    }
    assert cbs.verify(model(1.0), made.path).ok


def test_a_program_keeps_them_as_well(tmp_path: Path) -> None:
    made = export(model(), tmp_path / "m.pt2", dtype="float16", keep_float32=("overflowing",))
    program = torch.export.load(str(made.path)).module(check_guards=False)
    x = model().example_inputs[0]
    with torch.no_grad():
        found, wanted = program(x.half()).float(), by_hand(model().module, x)  # type: ignore[arg-type]
    assert (found - wanted).abs().max() <= MIXED_ATOL


def test_a_model_in_range_is_exported_whole(tmp_path: Path) -> None:
    made = export_onnx(model(1.0), tmp_path / "m.onnx", dtype="float16", keep_float32=("overflowing",))
    assert not made.kept
    assert "no value is near" in made.notes[0]
    assert not export_onnx(model(1.0), tmp_path / "n.onnx", dtype="float16").notes


def test_the_lowest_number_in_a_mask_is_no_overflow(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            unseen = (1.0 - torch.eye(x.shape[1])) * torch.finfo(torch.float32).min
            scores = self.inside(x) @ x.transpose(1, 2) + unseen
            return x + (scores * 2.0).softmax(-1) @ x

    made = export_onnx(Model(Masked().eval(), (torch.randn(2, 4, 8),)), tmp_path / "m.onnx", dtype="float16")
    assert not made.notes


def test_scores_inside_attention_are_seen(tmp_path: Path) -> None:
    """PyTorch's float16 attention accumulates in float32; an exported graph has the scores as a float16 tensor."""

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            query = (x * 110.0).unsqueeze(1)
            return nn.functional.scaled_dot_product_attention(query, query, query).squeeze(1) / 110.0

    loud = Model(Attention().eval(), (torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0)),))
    with pytest.raises(ExportError, match="scaled_dot_product_attention"):
        export_onnx(loud, tmp_path / "m.onnx", dtype="float16")
    made = export_onnx(loud, tmp_path / "m.onnx", dtype="float16", keep_float32="overflowing")
    assert len(made.kept) == 2


def test_an_output_beyond_the_range_stays_in_float32(tmp_path: Path) -> None:
    big = Model(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).eval(), (torch.randn(2, 8),))
    with torch.no_grad():
        big.module[1].weight.mul_(1e6)  # type: ignore[index, union-attr]
    made = export_onnx(big, tmp_path / "m.onnx", dtype="float16", keep_float32="overflowing")
    assert [port.dtype for port in made.outputs] == ["float32"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "float16", "keep_float32": "blocks.9"}, "did you mean --keep-float32 blocks."),
        ({"keep_float32": "overflowing"}, "not cast"),
    ],
)
def test_nothing_to_keep_is_an_error(arguments: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        export_onnx(model(), tmp_path / "m.onnx", **arguments)
    assert raised.value.code == "CB-EXPORT-14"


class Gated(nn.Module):
    """A gate whose scores leave float16's range: the sigmoid of infinity is exactly one, as it is in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.blocks = nn.Linear(8, WIDTH), nn.ModuleList([Block()])
        self.patch, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 5)
        with torch.no_grad():
            self.gate.weight.mul_(1.5e5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks[0](self.patch(x) * torch.sigmoid(self.gate(x))).mean(1))


def test_an_overflow_that_does_not_change_the_outputs_is_a_note(tmp_path: Path) -> None:
    net = Gated().eval()
    x = torch.randn(2, TOKENS, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert net.gate(x).abs().max() > torch.finfo(torch.float16).max
        assert net.gate.weight.abs().max() < torch.finfo(torch.float16).max
    made = export_onnx(Model(net, (x,)), tmp_path / "m.onnx", dtype="float16")
    assert any("overflows without changing the outputs" in note and note.endswith("in gate") for note in made.notes)
    with torch.no_grad(), open_runtime(made.path, optimize=False) as runtime:
        found = runtime.run({"x": x.half()})["output"].float()
        assert (found - net(x)).abs().max() <= MIXED_ATOL
