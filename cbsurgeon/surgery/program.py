"""The program editor: insert operators into an exported program as nodes, and remove them again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from cbsurgeon.graph.block import Block, Mask, Site
from cbsurgeon.graph.editing import ProgramEditor
from cbsurgeon.graph.inspection import inspect_program
from cbsurgeon.graph.occupants import MARK, ON_INPUT, ON_OUTPUT, bypass, occupants
from cbsurgeon.graph.program import Program
from cbsurgeon.operators import Operator, build
from cbsurgeon.operators.common.masking import Masking
from cbsurgeon.operators.common.unfolding import Unfolding
from cbsurgeon.operators.context import Context
from cbsurgeon.surgery.agreement import refuse_unlike_blocks
from cbsurgeon.surgery.masking import needed
from cbsurgeon.surgery.recipe import Recipe, RecipeSite, outline
from cbsurgeon.surgery.refusals import no_mask, occupied, other_structure


def rewrite(program: Program, recipe: Recipe) -> Program:
    """Return a new program with the recipe's operators inserted.

    Raises:
        SurgeryError: the structure is not the recipe's, or a site is occupied.
    """
    found = inspect_program(program)
    _check(found.blocks, recipe)
    present = {occupant.path: occupant.op for occupant in occupants(program.exported)}
    editor = ProgramEditor(program)
    by_name = {node.name: node for node in editor.graph.nodes}
    kinds = {False: found.blocks, True: found.attention}
    for site in recipe.active:
        block, path = kinds[site.kind == "attention"][site.index], operator_path(site)
        by = block.sites[site.position].occupied or present.get(path)
        if by is not None:
            raise occupied(site, by, recipe.op)
        mask = _mask_input(block.sites[site.position], site, recipe)
        _insert(editor, by_name, block.sites[site.position], path, recipe, mask)
    return editor.finish()


def _check(blocks: tuple[Block, ...], recipe: Recipe) -> None:
    refuse_unlike_blocks(recipe)
    here = [outline(block) for block in blocks]
    for number, (old, new) in enumerate(zip(recipe.structure, here, strict=False)):
        for key, value in old.items():
            if value != new[key]:
                raise other_structure(recipe, f"block {number}: {key} is {new[key]!r} here and {value!r} in the recipe")
    if recipe.structure and len(here) != len(recipe.structure):
        raise other_structure(recipe, f"{len(here)} blocks here, {len(recipe.structure)} in the recipe")


def _mask_input(here: Site, wanted: RecipeSite, recipe: Recipe) -> Mask | None:
    """The mask of the site, or ``None`` if the operator needs none; an error if it is not the mask of the recipe."""
    if not recipe.options.get("masked"):
        return None
    mask = needed(wanted)
    if mask.module:
        raise no_mask(wanted, f"{mask} is not an input of the program: insert into the module instead")
    if here.mask != mask:
        raise no_mask(wanted, f"the recipe says {mask}, and here it is {here.mask or 'none'}")
    return mask


def _insert(
    editor: ProgramEditor, by_name: Mapping[str, fx.Node], site: Site, path: str, recipe: Recipe, mask: Mask | None
) -> None:
    operator = build(recipe.op, site.channels, site.channel_axis, site.token_axes, dict(recipe.options)).eval()
    operator.choose(site.heads)
    if mask is not None and isinstance(operator, Context):
        operator.tie(Masking(mask.input, mask.valid, rows=mask.rows), site.batch_axes[0], path)
    if site.unfold is not None:  # the number of tokens of a program is fixed when it is captured
        operator.unfold(Unfolding(replace(site.unfold, module="")))
    first = by_name[site.uses[0].value]
    dtype = first.meta["val"].dtype
    operator = operator.to(dtype) if dtype.is_floating_point else operator
    saved = operator.state_dict()
    tensors = {
        name: editor.add_weight(f"{path}.{name}", tensor, saved=name in saved)
        for name, tensor in (*operator.named_parameters(), *operator.named_buffers())
    }
    for number, use in enumerate(site.uses):
        value = by_name[use.value]
        made, result = _splice(editor.graph, value, operator, tensors, by_name[mask.input] if mask else None)
        _describe(made, value, path, operator, number)
        if use.consumers:
            for consumer in use.consumers:
                by_name[consumer].replace_input_with(value, result)
        else:
            _replace_readers(value, result, made)


def _replace_readers(value: fx.Node, result: fx.Node, made: list[fx.Node]) -> None:
    """Let every user of ``value`` except the operator itself use ``result`` instead."""
    value.replace_all_uses_with(result, delete_user_cb=lambda user: user not in made)


def operator_path(site: RecipeSite) -> str:
    """The state-dict prefix of an operator, the same as in the module if the site belongs to a module.

    It is computed from the recipe, because a program does not show which modules can hold an operator.
    """
    if site.hooks:
        hook = site.hooks[0]
        return f"{hook.module}.{ON_OUTPUT if hook.when == 'output' else ON_INPUT}"
    return f"{ON_OUTPUT}.{site.stack}.{site.index}.{site.position}".replace("#", "_")


def _splice(
    graph: fx.Graph, value: fx.Node, operator: Operator, parameters: Mapping[str, fx.Node], mask: fx.Node | None
) -> tuple[list[fx.Node], fx.Node]:
    """Trace the operator on the node's fake value and copy the traced nodes in after the node."""
    names = list(parameters)
    mode = value.meta["val"].fake_mode
    sources = [value, *parameters.values(), *([mask] if mask is not None else [])]

    def call(x: Tensor, *tensors: Tensor) -> Tensor:
        masking = operator.masking if isinstance(operator, Context) else None
        with masking.given(tensors[-1]) if mask is not None and masking is not None else nullcontext():
            state = dict(zip(names, tensors, strict=False))
            result: Tensor = torch.func.functional_call(operator, state, (x,))
        return result

    with mode, torch.no_grad():
        traced = make_fx(call, pre_dispatch=True)(*(source.meta["val"] for source in sources))
    env: dict[fx.Node, fx.Node] = {}
    made: list[fx.Node] = []
    result = value
    with graph.inserting_after(value):
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                env[node] = sources[len(env)]
            elif node.op == "output":
                result = env[node.args[0]]  # type: ignore[index]
            else:
                env[node] = graph.node_copy(node, env.__getitem__)
                env[node].meta = {"val": node.meta["val"]}
                made.append(env[node])
                graph.inserting_after(env[node]).__enter__()
    return made, result


def _describe(made: list[fx.Node], value: fx.Node, path: str, operator: Operator, number: int) -> None:
    """Set the metadata of inserted nodes: the module they would belong to, and our mark."""
    kind = f"{type(operator).__module__}.{type(operator).__qualname__}"
    stack = dict(value.meta.get("nn_module_stack") or {})
    call = f"L__self__{path}" + (f"@{number}" if number else "")
    mark = {
        "op": operator.name,
        "site": path,
        "call": number,
        "source": value.name,
        "options": operator.options(),
        "channel_axis": operator.channel_axis,
        "token_axes": list(operator.token_axes),
        **({"unfold": True} if operator.unfolding is not None else {}),
    }
    for node in made:
        node.meta["nn_module_stack"] = {**stack, call: (path, kind)}
        node.meta["stack_trace"] = f"inserted by cbsurgeon: {operator.name} at {path}"
        node.meta["torch_fn"] = (node.name, f"{kind}.forward")
        node.meta["custom"] = {MARK: {**mark}}


def restore(program: Program) -> tuple[Program, int]:
    """Return the program without inserted operators, and how many were removed."""
    editor = ProgramEditor(program)
    present = occupants(program.exported, editor.graph)
    bypass(editor.graph, present)
    paths = {occupant.path for occupant in present}
    for path in paths:
        editor.remove_weights(path)
    return editor.finish(), len(paths)
