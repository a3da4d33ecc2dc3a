"""The batch axis of the inputs is proved, or stated with ``--batch-axis``; a wrong one is refused.

The references are the operator written by hand into the module, with the mean over the tokens of each sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import CaptureError, UsageError
from tests.cli.running import run

WIDTH, TOKENS, SAMPLES = 16, 10, 3
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: what two blocks round is about 1e-6."""


def encoder(*, batch_first: bool = False) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, norm_first=True, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


class TwoInputs(nn.Module):
    """Tokens first in one input, samples first in the other, which marks padding."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = encoder()

    def forward(self, src: Tensor, hidden: Tensor) -> Tensor:
        return self.inner(src, src_key_padding_mask=hidden)


class Recurrent(nn.Module):
    """Tokens are mixed by a GRU with its default order, and by nothing that looks like attention."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, WIDTH)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.rnn(x)[0]
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


class Compared(nn.Module):
    """Every sample attends to the others on purpose; there are no tokens but the samples' features."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = encoder()

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        return self.inner(x.reshape(batch, 1, -1).expand(batch, 2, -1)).reshape(batch, -1) + x.flatten(1).mean()


def by_hand(net: nn.TransformerEncoder, x: Tensor) -> Tensor:
    for layer in net.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        x = x + layer._sa_block(layer.norm1(x), None, None)
        y = layer.linear2(nn.functional.relu(layer.linear1(layer.norm2(x))))
        x = x + (y + y.mean(0, keepdim=True)) / 2
    return x


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_first_at_the_top_is_refused_with_the_axis_to_state() -> None:
    with pytest.raises(CaptureError, match="--batch-axis 1") as raised:
        cbs.inspect(cbs.Model(encoder(), (noise(TOKENS, SAMPLES, WIDTH),)))
    assert raised.value.code == "CB-CAPTURE-08"
    assert "attention layers.0.self_attn" in raised.value.why


@pytest.mark.thin(2)
@pytest.mark.parametrize("stated", [1, {"src": 1}])
def test_with_the_axis_stated_the_mean_runs_over_the_tokens(stated: int | Mapping[str, int], tmp_path: Path) -> None:
    net = encoder()
    model = cbs.Model(net, (noise(TOKENS, SAMPLES, WIDTH),), batch_axis=stated)
    found = cbs.inspect(model)
    assert [(block.tokens, block.token_axes, block.sites["end"].batch_axes) for block in found.blocks] == [
        (TOKENS, (0,), (1,))
    ] * 2
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all"))
    for samples in (1, 2, 7):
        x = noise(TOKENS, samples, WIDTH, seed=samples)
        with torch.no_grad():
            assert torch.allclose(edited.module(x), by_hand(net, x), atol=CLOSE)  # type: ignore[misc]
    cbs.export(edited, tmp_path / "m.onnx")
    assert [port.dims for port in cbs.export(edited, tmp_path / "n.onnx").inputs] == [(TOKENS, "batch", WIDTH)]
    assert cbs.verify(edited, tmp_path / "m.onnx").ok


def test_in_place_takes_the_axis_too() -> None:
    net, x = encoder(), noise(TOKENS, SAMPLES, WIDTH)
    with pytest.raises(CaptureError, match="--batch-axis 1"):
        cbs.insert_(net, op="cb", layers="all", inputs=x)
    edited = cbs.insert_(encoder(), op="cb", layers="all", inputs=x, batch_axis=1)
    with torch.no_grad():
        assert torch.allclose(edited(x), by_hand(net, x), atol=CLOSE)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "make", [lambda: encoder(batch_first=True), lambda: nn.Sequential(encoder(batch_first=True)).eval()]
)
def test_a_wrong_statement_is_refused(make: type[nn.Module]) -> None:
    x = noise(SAMPLES, TOKENS, WIDTH)
    assert len(cbs.inspect(cbs.Model(make(), (x,))).blocks) == 2
    with pytest.raises(CaptureError, match="--batch-axis 0") as raised:
        cbs.inspect(cbs.Model(make(), (x,), batch_axis=1))
    assert raised.value.code == "CB-CAPTURE-08"


def test_inputs_that_disagree() -> None:
    hidden = torch.zeros(SAMPLES, TOKENS, dtype=torch.bool)
    hidden[:, -2:] = True
    inputs = (noise(TOKENS, SAMPLES, WIDTH), hidden)
    with pytest.raises(CaptureError, match="--batch-axis src=1,hidden=0"):
        cbs.inspect(cbs.Model(TwoInputs().eval(), inputs))
    found = cbs.inspect(cbs.Model(TwoInputs().eval(), inputs, batch_axis={"src": 1, "hidden": 0}))
    assert [(block.tokens, block.token_axes) for block in found.blocks] == [(TOKENS, (0,))] * 2
    assert found.masks == ("hidden",)


def test_mixing_of_samples_without_attention_is_found_by_running() -> None:
    x = noise(TOKENS, SAMPLES, WIDTH)
    with pytest.raises(CaptureError, match="--batch-axis 1"):
        cbs.inspect(cbs.Model(Recurrent().eval(), (x,)))
    found = cbs.inspect(cbs.Model(Recurrent().eval(), (x,), batch_axis=1))
    assert [block.token_axes for block in found.blocks] == [(0,)]


def test_samples_that_see_each_other_on_purpose_have_to_be_stated() -> None:
    x = noise(SAMPLES, WIDTH)
    with pytest.raises(CaptureError, match="--batch-axis 0 if samples may influence each other"):
        cbs.inspect(cbs.Model(Compared().eval(), (x,)))
    assert len(cbs.inspect(cbs.Model(Compared().eval(), (x,), batch_axis=0)).blocks) == 2


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (3, "no input has an axis 3"),
        ({"source": 1}, "did you mean --batch-axis src=1"),
        ({"src": 4}, "src has no axis 4"),
        ({"src": 0, "hidden": 0}, "disagree"),
    ],
)
def test_statements_that_the_inputs_contradict(stated: int | Mapping[str, int], words: str) -> None:
    inputs = (noise(TOKENS, SAMPLES, WIDTH), torch.zeros(SAMPLES, TOKENS, dtype=torch.bool))
    with pytest.raises(UsageError, match=words) as raised:
        cbs.inspect(cbs.Model(TwoInputs().eval(), inputs, batch_axis=stated))
    assert raised.value.code == "CB-INPUT-04"


def test_the_command_line_builds_inputs_with_the_batch_at_its_axis(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        f"    layer = nn.TransformerEncoderLayer({WIDTH}, 2, 32, norm_first=True)\n"
        "    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()\n"
    )
    words = ["inspect", f"mod:{tmp_path}/net.py:make", "--input", f"{TOKENS}x{WIDTH}", "--json"]
    done = run(*words, "--batch-axis", "1")
    assert done.code == 0, done.err
    assert [block["tokens"] for block in done.document["blocks"]] == [TOKENS] * 2
    assert run(*words).code == 2
