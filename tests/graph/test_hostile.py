"""Hand-written difficult networks: the blocks that are found, their sites, and the reasons of the rejected candidates.

The expectations are beside each network in ``networks_*.py``; they were derived from the rules, not from results of
inspection.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from cbsurgeon.graph import Block, Rejected, Site, inspect
from cbsurgeon.graph.reasons import Reason
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import POSITIONS
from tests.graph import networks_axes
from tests.graph.networks import CASES, MODULES, Want, of
from tests.graph.readings import inspection, module_values, node_values, program

HOSTILE = [case.name for case in of(*MODULES) if case not in of(networks_axes)]
EVERY = list(CASES)
WITH_BLOCKS = [name for name in EVERY if CASES[name].blocks]
IN_EVALUATION = [name for name in WITH_BLOCKS if not CASES[name].training]  # training draws random masks

# The graph runs the kernels of the eager model; only fused attention may group a few fp32 sums differently. Values
# of these networks are of order one to a few tens.
SAME_TENSOR = 1e-4


def test_there_are_enough_networks_and_each_names_its_trap() -> None:
    assert len(HOSTILE) >= 25
    assert all(case.trap.strip() for case in CASES.values())


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", HOSTILE)
def test_blocks(name: str) -> None:
    """Kinds, projections, defaults and calls, in graph order: all of them and nothing else."""
    check_blocks(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_end_axes(name: str) -> None:
    check_end_axes(name)


@pytest.mark.parametrize("name", EVERY)
def test_stacks(name: str) -> None:
    """Blocks share a stack exactly where the network has one stream."""
    found = inspection(name)
    labels = [want.stack for want in CASES[name].blocks]
    pairs = dict(zip((block.stack for block in found.blocks), labels, strict=True))
    assert [pairs[block.stack] for block in found.blocks] == labels
    assert len(pairs) == len(set(labels)) == len(found.stacks)


@pytest.mark.parametrize("name", EVERY)
def test_order(name: str) -> None:
    """Blocks are numbered from 0 in graph order, and attention branches on their own."""
    found = inspection(name)
    assert [block.index for block in found.blocks] == list(range(len(found.blocks)))
    assert [block.index for block in found.attention] == list(range(len(found.attention)))
    order = {node: place for place, node in enumerate(node_values(name))}
    for group in (found.blocks, found.attention):
        places = [order[block.sites["end"].uses[0].value] for block in group]
        assert places == sorted(places)


@pytest.mark.parametrize("name", EVERY)
def test_rejections(name: str) -> None:
    """Every expected near miss is listed with its reason and place."""
    found = inspection(name)
    for refusal in CASES[name].rejected:
        assert any(r.reason == refusal.reason and inside(r.path, refusal.path) for r in found.rejected), (
            f"no {refusal.reason} at {refusal.path}; rejected are {listed(found.rejected)}"
        )


@pytest.mark.parametrize("name", EVERY)
def test_rejections_are_complete_sentences_about_real_nodes(name: str) -> None:
    found = inspection(name)
    nodes = node_values(name)
    for rejected in found.rejected:
        assert isinstance(rejected.reason, Reason) and rejected.reason.sentence
        assert rejected.detail.strip()
        assert rejected.nodes and set(rejected.nodes) <= set(nodes)
    nearness = [rejected.nearness for rejected in found.rejected]
    assert nearness == sorted(nearness, reverse=True), "nearest misses first"


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_nothing_is_both_found_and_rejected(name: str) -> None:
    """A module that holds one found block and nothing else is not listed among the rejected."""
    found = inspection(name)
    branches = [*found.blocks, *found.attention]
    for block in found.blocks:
        alone = sum(inside(branch.path, block.path) for branch in branches) == 1
        assert not alone or block.path not in {rejected.path for rejected in found.rejected}, block.path


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", [name for name in EVERY if CASES[name].attention is not None])
def test_attention(name: str) -> None:
    """Attention branches are listed with their End site."""
    expected = CASES[name].attention
    found = inspection(name).attention
    assert tuple(block.fc2[0] if block.fc2 else "" for block in found) == expected
    for block in found:
        assert block.kind == "attention"
        assert "end" in block.sites


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_positions(name: str) -> None:
    """Each position either has a site or a sentence saying why it has none."""
    for block, want in paired(name):
        assert set(block.unavailable) == set(want.unavailable), block.unavailable
        assert set(block.sites) == set(POSITIONS) - set(want.unavailable)
        assert all(reason.strip() for reason in block.unavailable.values())


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_sites_partition_the_axes_of_real_tensors(name: str) -> None:
    """Batch, token and channel axes are disjoint and together are all axes; the sizes are those of the tensor."""
    for block in inspection(name).blocks:
        for site in block.sites.values():
            assert len(site.uses) == block.calls
            for use in site.uses:
                check_partition(site, node_values(name)[use.value].shape)
        assert (block.tokens, block.channels) == (block.sites["end"].tokens, block.sites["end"].channels)
        assert block.token_axes == block.sites["end"].token_axes
        if "mid" in block.sites:
            assert block.hidden == block.sites["mid"].channels


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_batch_axes_are_the_symbolic_ones(name: str) -> None:
    """The axes of a site that depend on the batch are those whose size is symbolic, also after folding."""
    values = {node.name: node.meta.get("val") for node in program(name).exported.graph.nodes}
    for block in inspection(name).blocks:
        for site in block.sites.values():
            for use in site.uses:
                shape = values[use.value].shape
                symbolic = {axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)}
                assert symbolic == set(site.batch_axes), f"{use.value}: {shape}, batch axes {site.batch_axes}"


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_consumers_read_the_value(name: str) -> None:
    """A use's consumers are users of its node; all that is read at Front leads to End and not round it."""
    nodes = {node.name: node for node in program(name).exported.graph.nodes}
    for block in inspection(name).blocks:
        for site in block.sites.values():
            for use in site.uses:
                assert set(use.consumers) <= {user.name for user in nodes[use.value].users}
        if "front" not in block.sites:
            continue
        for front, end in zip(block.sites["front"].uses, block.sites["end"].uses, strict=True):
            read = set(front.consumers) or {user.name for user in nodes[front.value].users}
            leading = {node.name for node in ancestors(nodes[end.value])}
            assert read <= leading, f"{block.path}: Front {front.value} also feeds {read - leading}"


@pytest.mark.parametrize("name", IN_EVALUATION)
def test_sites_are_the_tensors_of_the_modules(name: str) -> None:
    """Front, Mid and End are, number for number, what the named modules read and return."""
    modules, nodes = module_values(name), node_values(name)
    for block, want in paired(name):
        wanted = {"front": (want.front, "input"), "mid": (want.mid, "input"), "end": (want.end, "output")}
        for position, (path, side) in wanted.items():
            if path is None or position not in block.sites:
                continue
            calls = modules[path][side]
            got = [nodes[use.value] for use in block.sites[position].uses]
            assert len(got) == len(calls)
            for value, expected in zip(got, calls, strict=True):
                assert same(value.reshape(expected.shape), expected), f"{position} of {block.path} is not {side} {path}"


@pytest.mark.parametrize("name", IN_EVALUATION)
def test_hooks_reach_the_tensor_of_the_site(name: str) -> None:
    """On the eager model each hook sees a tensor of the site, with the same axes, once per call."""
    modules, nodes = module_values(name), node_values(name)
    for block in inspection(name).blocks:
        for position, site in block.sites.items():
            values = [nodes[use.value] for use in site.uses]
            for hook in site.hooks:
                seen = modules[hook.module][hook.when]
                assert len(seen) == len(values), f"{hook} runs {len(seen)} times for {len(values)} uses"
                for value, tensor in zip(values, seen, strict=True):
                    assert value.shape == tensor.shape and same(value, tensor), f"{position} of {block.path}: {hook}"


@pytest.mark.parametrize("name", IN_EVALUATION)
def test_modules_with_a_projection_have_an_end_hook(name: str) -> None:
    """Where the down projection is a module, End can be reached from a module; where nothing is one, it cannot."""
    for block, want in paired(name):
        if want.end is not None:
            assert block.sites["end"].hooks, f"{block.path} has no hook at End"


def test_root_only_network_has_no_hooks() -> None:
    """Functional parameters: the sites exist in the program alone."""
    for block in inspection("FunctionalParameters").blocks:
        assert all(not site.hooks for site in block.sites.values())


def test_two_first_projections_are_both_reached_at_front() -> None:
    """A gated MLP's Front feeds both projections, on the module too."""
    for block in inspection("TwoProjectionGlu").blocks:
        hooked = {hook.module for hook in block.sites["front"].hooks}
        assert hooked >= set(block.fc1) or hooked == {block.path}


def test_lora_front_and_mid_reach_both_paths() -> None:
    """The base linear and its correction read one tensor: an operator in front of one of them only would be wrong."""
    nodes = {node.name: node for node in program("LoraProjections").exported.graph.nodes}
    for block in inspection("LoraProjections").blocks:
        for position in ("front", "mid"):
            (use,) = block.sites[position].uses
            assert not use.consumers or set(use.consumers) == {user.name for user in nodes[use.value].users}
            for hook in block.sites[position].hooks:
                assert "base" not in hook.module.split("."), "the base linear is one of two readers"


def test_end_is_after_dropout() -> None:
    """The End tensor is the result of the branch's last dropout, so that training averages what is added."""
    nodes = {node.name: node for node in program("VisionTransformer").exported.graph.nodes}
    for block in inspection("VisionTransformer").blocks:
        (use,) = block.sites["end"].uses
        assert nodes[use.value].target is torch.ops.aten.dropout.default
        assert not any(hook.before_dropout for hook in block.sites["end"].hooks)


def test_functional_dropout_is_noted() -> None:
    """No module ends after a dropout that is a function call: the hook runs before it, and the site records this."""
    nodes = {node.name: node for node in program("FunctionalDropout").exported.graph.nodes}
    for block in inspection("FunctionalDropout").blocks:
        (use,) = block.sites["end"].uses
        assert nodes[use.value].target is torch.ops.aten.dropout.default
        assert block.sites["end"].hooks and all(hook.before_dropout for hook in block.sites["end"].hooks)


def test_drop_path_is_behind_end() -> None:
    """In a program captured in training mode, neither layer scale nor the random mask is before End."""
    nodes = {node.name: node for node in program("DropPathInTraining").exported.graph.nodes}
    for block in inspection("DropPathInTraining").blocks:
        (use,) = block.sites["end"].uses
        assert nodes[use.value].target is torch.ops.aten.dropout.default


def test_calls_are_uses() -> None:
    """A shared layer is one block: three calls, three uses at each site, one hook."""
    (block,) = inspection("SharedLayer").blocks
    assert block.calls == 3
    for site in block.sites.values():
        assert len({use.value for use in site.uses}) == 3


def test_fused_projection_says_why_front_is_unavailable() -> None:
    for block in inspection("FusedInputProjection").blocks:
        assert "shared" in block.unavailable["front"] or "attention" in block.unavailable["front"]


def test_hidden_is_what_the_last_projection_reads() -> None:
    """A packed gate's hidden width is that of its product."""
    assert {block.hidden for block in inspection("PackedProjectionGlu").blocks} == {12}


def test_inspecting_twice_gives_the_same() -> None:
    """Same model, same answer and fingerprint; other weights change neither."""
    first = inspection("PostNorm")
    module = CASES["PostNorm"].build().eval()  # not seeded: other weights
    again = inspect(Model(module, CASES["PostNorm"].arguments()))
    assert again.blocks == first.blocks
    assert again.rejected == first.rejected
    assert again.fingerprint == first.fingerprint != ""
    assert first.fingerprint != inspection("TwoProjectionGlu").fingerprint


def test_inspecting_leaves_the_model_alone() -> None:
    """No parameter, buffer, hook or mode of the module changes."""
    model = CASES["ConvBatchNorm"].model()
    assert model.module is not None
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    inspect(model)
    after = model.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert not model.module.training


@pytest.mark.parametrize("name", ["TwoProjectionGlu", "LocalVit", "ParallelBranches", "FusedInputProjection", "Mixer"])
def test_the_module_and_its_program_give_the_same_blocks(name: str) -> None:
    """``inspect`` of a module, and of a program alone: same blocks, paths, axes and reasons."""
    found = inspection(name)
    of_module, of_program = inspect(CASES[name].model()), inspect(Model(None, program=program(name).exported))
    for other in (of_module, of_program):
        assert [summary(block) for block in other.blocks] == [summary(block) for block in found.blocks]
        assert listed(other.rejected) == listed(found.rejected)
    assert of_module.reference == name
    assert set(of_module.seconds) == {"capture", "read"}


# What the tests above are made of.


def check_blocks(name: str) -> None:
    """Compare what is found with what is wanted; shared with the axis tests."""
    got = [(b.kind, b.default, b.calls) for b in inspection(name).blocks]
    assert got == [(w.kind, w.default, w.calls) for w in CASES[name].blocks], described(name)
    for block, want in paired(name):
        assert matches(block.fc1, want.fc1), f"fc1 {block.fc1}, not {want.fc1}"
        assert matches(block.fc2, want.fc2), f"fc2 {block.fc2}, not {want.fc2}"


def check_end_axes(name: str) -> None:
    """Compare the roles of the End tensor's axes with what is wanted; shared with the axis tests."""
    for block, want in paired(name):
        end = block.sites["end"]
        got = (end.token_axes, end.channel_axis, end.batch_axes)
        assert got == (want.tokens, want.channel, want.batch), block.path


def paired(name: str) -> list[tuple[Block, Want]]:
    return list(zip(inspection(name).blocks, CASES[name].blocks, strict=True))


def described(name: str) -> str:
    found = inspection(name)
    return f"{CASES[name].trap}\nfound {found}\nrejected {listed(found.rejected)}"


def listed(rejected: tuple[Rejected, ...]) -> list[tuple[str, str]]:
    return [(candidate.reason, candidate.path) for candidate in rejected]


def inside(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def matches(got: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether two sets of paths agree, where ``a.*`` stands for ``a`` and everything inside it."""

    def covers(want: str, path: str) -> bool:
        return inside(path, want[:-2]) if want.endswith(".*") else path == want

    every_path = all(any(covers(want, path) for want in wanted) for path in got)
    return every_path and all(any(covers(want, path) for path in got) for want in wanted)


def check_partition(site: Site, shape: torch.Size) -> None:
    axes = [*site.batch_axes, *site.token_axes, site.channel_axis]
    assert sorted(axes) == list(range(len(shape))), f"{site} over {tuple(shape)}"
    assert site.tokens == math.prod(shape[axis] for axis in site.token_axes)
    assert site.channels == shape[site.channel_axis]


def same(value: Any, expected: Any) -> bool:
    assert isinstance(value, Tensor) and isinstance(expected, Tensor)
    return torch.allclose(value, expected, rtol=SAME_TENSOR, atol=SAME_TENSOR)


def ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and everything its value depends on."""
    seen: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += current.all_input_nodes
    return seen


def summary(block: Block) -> tuple[Any, ...]:
    sites = {position: (site.uses, site.token_axes, site.channel_axis) for position, site in block.sites.items()}
    return (block.kind, block.path, block.fc1, block.fc2, block.default, block.calls, block.stack, sites)
