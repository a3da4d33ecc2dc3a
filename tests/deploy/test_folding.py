"""Folding changes the cost of an operator but not its result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cbsurgeon.deploy import fold
from cbsurgeon.deploy.casting import in_float64
from cbsurgeon.deploy.folding.pattern import broadcasts
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.deploy import networks

# Folding moves exact factors of two and regroups two additions per site, so in float64 only the last bits may differ.
FLOAT64_RTOL = 1e-12


def compute64(program: Program, batch: int = 3) -> list[torch.Tensor]:
    inputs = {
        name: value.double() if value.is_floating_point() else value
        for name, value in program.with_batch(batch).items()
    }
    args, kwargs = program.arguments(inputs)
    with torch.no_grad():
        return list(program.name_outputs(in_float64(program)(*args, **kwargs)).values())


def assert_same_in_float64(program: Program, folded: Program) -> None:
    for before, after in zip(compute64(program), compute64(folded), strict=True):
        assert (before - after).abs().max() <= FLOAT64_RTOL * before.abs().max()


@pytest.mark.thin(4)
@pytest.mark.parametrize("position", ["end", "mid", "front"])
@pytest.mark.parametrize("name", list(networks.BUILDERS))
def test_folded_equals_unfolded_in_float64(name: str, position: str) -> None:
    program = networks.program(name, position)
    folded, sites = fold(program)
    assert sites and all(sites), [str(site) for site in sites]
    assert not list(broadcasts(folded.exported.graph)), "a folded site still multiplies by one half"
    assert_same_in_float64(program, folded)


@pytest.mark.parametrize("name", ["vit", "mixer", "bert"])
def test_the_form_plainlys_is_the_same_function(name: str) -> None:
    program = networks.program(name)
    folded, sites = fold(program, plainly=True)
    assert {site.form for site in sites} == {"last-projection"}
    assert_same_in_float64(program, folded)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_folding_leaves_the_program_alone(name: str) -> None:
    program = networks.program(name)
    code = str(program.exported.graph)
    weights = {key: value.clone() for key, value in program.exported.state_dict.items()}
    symbols = {key: str(node.meta["val"].shape[0]) for key, node in placeholders(program).items()}
    folded, _ = fold(program)
    assert str(program.exported.graph) == code
    assert all(torch.equal(value, program.exported.state_dict[key]) for key, value in weights.items())
    assert list(folded.exported.state_dict) == list(program.exported.state_dict), "folding renames no key"
    assert {key: str(node.meta["val"].shape[0]) for key, node in placeholders(folded).items()} == symbols


def placeholders(program: Program) -> dict[str, torch.fx.Node]:
    return {node.name: node for node in program.exported.graph.nodes if node.name in program.batch_axes}


def test_every_node_of_a_folded_program_has_a_value() -> None:
    folded, _ = fold(networks.program("bert", "mid"))
    for node in folded.exported.graph.nodes:
        if node.op == "call_function":
            assert "val" in node.meta, node
            assert node.name not in {"", None}


def test_mid_moves_behind_the_down_projection() -> None:
    folded, _ = fold(networks.program("vit", "mid"))
    widths = [
        int(node.args[0].meta["val"].shape[-1])
        for node in folded.exported.graph.nodes
        if node.target == torch.ops.aten.mean.dim and node.args[2:] == (True,)
    ]
    assert widths == [192, 192], "the mean belongs on the 192 channels behind the projection, not on 768 before it"


def test_a_model_without_operators_is_returned_unchanged() -> None:
    program = capture(networks.plain("vit"))
    folded, sites = fold(program)
    assert folded is program
    assert sites == ()


def test_cb_s_is_not_folded_and_the_reason_is_given() -> None:
    program = networks.program("vit", op="cb_s")
    folded, sites = fold(program)
    assert folded is program
    assert [site.op for site in sites] == ["cb_s", "cb_s"]
    assert all("no factor that weights could take" in site.reason for site in sites)


class Line(nn.Module):
    """The paper's line, as a user writes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x + 0.5 * x.mean(dim=1, keepdim=True)


class Ported(nn.Module):
    """The same function, as ports write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + x.mean(dim=1, keepdim=True)) * 0.5


class Branch(nn.Module):
    """A residual MLP branch whose ending the test chooses."""

    def __init__(self, ending: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(channels), nn.Linear(channels, 16), nn.Linear(16, channels)
        self.ending = ending

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ending(self.fc2(torch.relu(self.fc1(self.norm(x)))))


class Scaled(nn.Module):
    """An operator after a norm: the factor 1/2 can only be folded into the layer scale after the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.line, self.gamma = nn.LayerNorm(8), Line(), nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(self.norm(x)) * self.gamma


class Twice(nn.Module):
    """Two branches over one projection: halving its weights would halve both."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.line = nn.Linear(8, 8), Line()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(self.fc(x)) + self.fc(x * 2)


class Read(nn.Module):
    """A projection whose result someone else reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.line = nn.Linear(8, 8), Line()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return self.line(y).tanh() + y


class Bent(nn.Module):
    """A non-linearity between the projection and the operator, and another one after the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.line = nn.Linear(8, 8), Line()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(self.fc(x).tanh()).tanh()


def small(module: nn.Module) -> Program:
    torch.manual_seed(0)
    return capture(Model(module.eval(), (torch.randn(2, 5, 8),)))


@pytest.mark.parametrize(("plainly", "form"), [(True, "last-projection"), (False, "last-projection, bias side")])
@pytest.mark.parametrize("line", [Line(), Ported()])
def test_hand_written_lines_fold_as_well(line: nn.Module, plainly: bool, form: str) -> None:
    program = small(Branch(line))
    folded, sites = fold(program, plainly=plainly)
    assert [site.form for site in sites] == [form]
    assert_same_in_float64(program, folded)


def test_the_mean_is_added_together_with_the_bias() -> None:
    """One pass over the tokens adds the bias, the mean, and nothing else: the mean carries the bias."""
    program = small(Branch(Line()))
    folded, _ = fold(program)
    nodes = [node for node in folded.exported.graph.nodes if node.target == torch.ops.aten.add.Tensor]
    shapes = [tuple(node.meta["val"].shape[1:]) for node in nodes]
    assert shapes == [(1, 8), (5, 8), (5, 8)], "mean + bias, branch + that, residual + branch"


def test_a_projection_without_a_bias_has_no_pass_to_share() -> None:
    module = Branch(Line())
    module.fc2 = nn.Linear(16, 8, bias=False)
    program = small(module)
    folded, sites = fold(program)
    assert [site.form for site in sites] == ["last-projection"]
    assert_same_in_float64(program, folded)


def test_the_half_is_folded_into_the_layer_scale_after_a_norm() -> None:
    program = small(Branch(Scaled()))
    folded, sites = fold(program)
    assert [site.form for site in sites] == ["layer-scale"]
    assert_same_in_float64(program, folded)


@pytest.mark.parametrize(
    ("module", "reason"), [(Twice(), "shared"), (Read(), "other operators read"), (Bent(), "not a projection")]
)
def test_an_inexact_fold_is_not_done(module: nn.Module, reason: str) -> None:
    program = small(module)
    folded, sites = fold(program)
    assert folded is program
    assert len(sites) == 1
    assert not sites[0]
    assert reason in sites[0].reason


def test_a_mean_over_channels_is_not_moved_behind_a_projection_of_channels() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(0.5 * x + 0.5 * x.mean(dim=2, keepdim=True)).tanh()

    program = small(Wrong())
    folded, _ = fold(program)
    assert_same_in_float64(program, folded)


def test_a_stale_bias_would_be_seen() -> None:
    """The identity above can fail: put the whole bias back, as a fold that forgets it would leave it."""
    program = small(Branch(Line()))
    folded, _ = fold(program, plainly=True)
    state = dict(folded.exported.state_dict)
    for key in state:
        if key.endswith("fc2.bias"):
            state[key] = nn.Parameter(program.exported.state_dict[key].detach())
    folded.exported._state_dict = state
    with pytest.raises(AssertionError):
        assert_same_in_float64(program, folded)
