"""One model of the sweep: operators inserted through the module and through the program, and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.sweeping import attempt
from cbsurgeon.errors import CaptureError
from cbsurgeon.graph import Inspection, Program, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.parts import capture_parts, record, with_one_position_masked
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.surgery import Recipe, insert_module, insert_program, plan
from tests.surgery import arms, by_hand

ASLEEP, AWAKE = 1e-2, 5e-2
"""Parameters whose magnitudes are below the first number get random values with the second as standard deviation."""

ROUNDING = 1e-4
"""Alternatively, the results may differ by this fraction of the change that the insertion causes, because some outputs
amplify rounding errors as they amplify insertions."""

TELLING = 20
"""The change that an insertion causes must be at least this many times the difference between the results; otherwise
their agreement is not conclusive. CB does not change the mean of the tokens, so a head that averages them does not
change with CB in the last block."""

CASES = (("cb", "end"), ("cb_s", "end"), ("cb_s", "mid"), ("cb_s", "front"))


def measure(entry: Entry) -> dict[str, Any]:
    """Measure all cases of one entry; a model that cannot be captured whole is compared part by part."""
    with attempt(entry, cases=[]) as result:
        for model, program in parts(entry):
            result["cases"] += _cases(model, program)
    return result


def parts(entry: Entry) -> Iterator[tuple[Model, Program]]:
    """The model with its program, or each of its largest sub-modules that can be captured, with recorded inputs."""
    module, args, kwargs = entry.build()
    _wake(module)
    whole = Model(module, args, Provenance(entry.name), kwargs, batch_axis=entry.batch_axis)
    try:
        program = capture(whole)
    except CaptureError:
        programs = capture_parts(whole).programs
        # For capture, masks of ones were changed so that they mask something; the parts must run on the same inputs.
        args, kwargs = pytree.tree_map_only(Tensor, with_one_position_masked, (args, kwargs))
        recorded = record(module, args, kwargs, only={program.prefix for program in programs})
        for program in programs:
            inputs, prefix = recorded[program.prefix], program.prefix
            origin = Provenance(f"{entry.name} {prefix}")
            part = module.get_submodule(prefix)
            yield Model(part, inputs.args, origin, dict(inputs.kwargs), program=program.exported), program.under("")
    else:
        yield replace(whole, program=program.exported), program


def _cases(model: Model, program: Program) -> Iterator[dict[str, Any]]:
    # This test is about sites, not about leaks.
    found = replace(inspect(model), causal_stacks={}, masks=())
    for op, position in CASES:
        here = [block for block in found.blocks if block.default and position in block.sites]
        if here:
            recipe = plan(found, op=op, layers="all", pos=position, allow_partial=True)
            yield {"op": op, "position": position, "sites": len(recipe.active)} | _compare(
                model, program, found, recipe
            )


def _wake(module: nn.Module) -> None:
    """Give random values to parameters that are near zero (layer scale, heads), because they would hide differences."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.numel() and float(parameter.detach().abs().max()) < ASLEEP:
            nn.init.normal_(parameter, std=AWAKE)


def _compare(model: Model, program: Program, found: Inspection, recipe: Recipe) -> dict[str, Any]:
    rewritten = insert_program(Model(None, (), program=program.exported), recipe)
    assert rewritten.program is not None
    scaled = arms.scales(rewritten.program.state_dict)
    plain = by_hand.run(program, {}, program.example)
    by_program = by_hand.run(capture(rewritten), {}, program.example)
    reference = by_hand.run(program, arms.operators(found, recipe, scaled), program.example)
    away = arms.distance(by_program, reference)
    moves = arms.distance(by_program, plain)
    if all(site.hooks for site in recipe.active):
        edited = insert_module(model, recipe)
        assert edited.module is not None
        kept = _keys_kept(model.module, edited.module, recipe)
        arms.scales(edited.module.state_dict())
        by_module = arms.run_module(edited.module, model)
        apart, equal = arms.distance(by_module, by_program), arms.same(by_module, by_program)
    else:  # no module has the tensor of some site, and the module is refused there
        apart, equal, kept = None, False, True
    return {
        "two_ways": apart,
        "by_hand": away,
        "moves": moves,
        "bit_equal": equal,
        "keys_kept": kept,
        "agree": kept and max(apart or 0.0, away) <= max(arms.SHARE, ROUNDING * moves),
        "telling": moves >= TELLING * max(apart or 0.0, away),
    }


def _keys_kept(module: nn.Module, edited: nn.Module, recipe: Recipe) -> bool:
    """Return whether all old keys and tensors are unchanged and in order, and the only new keys are one scale per site
    of CB_S."""
    before, after = module.state_dict(), edited.state_dict()
    added = [key for key in after if key not in before]
    tensors = {after[key].data_ptr() for key in added}  # a shared module shows its scale under each of its names
    scales = all(key.endswith(".scale") for key in added) and len(tensors) == (
        len(recipe) if recipe.op == "cb_s" else 0
    )
    old = [key for key in after if key in before] == list(before)
    return scales and old and all(torch.equal(after[key], before[key]) for key in before)
