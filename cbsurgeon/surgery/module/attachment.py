"""Insert operators into a module and remove them: each is a child of an existing layer, run by a hook of that layer.

No key is renamed, and the operator survives ``torch.export``, ``torch.compile``, deepcopy and pickling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon import operators
from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.capture.copying import duplicate, named_parts, parts_by_path
from cbsurgeon.graph.capture.substitution import call_with
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.graph.occupants import ON_INPUT, ON_OUTPUT
from cbsurgeon.operators import Operator, build
from cbsurgeon.operators.common.unfolding import Unfolding
from cbsurgeon.surgery.agreement import refuse_unlike_blocks
from cbsurgeon.surgery.masking import Masks, unhook
from cbsurgeon.surgery.module import carrying, configuration, keeping, unchecked
from cbsurgeon.surgery.recipe import Recipe, RecipeSite
from cbsurgeon.surgery.refusals import already_sharded, occupied, other_structure


def attach(module: nn.Module, recipe: Recipe) -> None:
    """Insert a recipe's operators into a module, in place; if an error is raised, the module is unchanged.

    Raises:
        SurgeryError: the structure is not the recipe's, a site is occupied, a site has no module, the module is
            sharded already, or a masked operator has no mask.
    """
    refuse_sharded(module)
    keeping.settle(module)
    check_structure(module, recipe)
    parts = parts_by_path(module)
    masks = Masks(parts)
    planned: list[tuple[nn.Module, str, Operator]] = []
    shown: list[tuple[nn.Module, Unfolding]] = []
    for site in recipe.active:
        host, name = _host(parts, site, recipe.op)
        operator = build(recipe.op, site.channels, site.channel_axis, site.token_axes, dict(recipe.options))
        operator.choose(site.heads)
        operator.dims = _dims(site)
        masks.tie(operator, site, f"{site.hooks[0].module}.{name}")
        if site.unfold is not None:
            operator.unfold(Unfolding(site.unfold))
            assert operator.unfolding is not None
            shown.append((parts[site.unfold.module], operator.unfolding))
        planned.append((host, name, _like(operator, host, module)))
    document, digest = recipe.to_dict(), recipe.digest
    for host, name, operator in planned:
        operator.inserted_by, operator.recipe_digest = document, digest
        carrying.carry(host, name, operator)
    _keep(parts, recipe)
    masks.hook_up()
    unchecked.watch(module, recipe.given)
    for part, unfolding in shown:
        part.register_forward_hook(unfolding.see)
    configuration.write(module, recipes_of(module))


def _dims(site: RecipeSite) -> int | None:
    """The number of axes of the tensor at a site; ``None`` if an axis has no role, or is split."""
    axes = {*site.token_axes, *site.batch_axes, site.channel_axis}
    return len(axes) if site.unfold is None and axes == set(range(len(axes))) else None


def _keep(parts: Mapping[str, nn.Module], recipe: Recipe) -> None:
    """Let operators move with their layer when it is wrapped or replaced (LoRA, quantisation); not for whole MLPs."""
    first = {path for block in recipe.structure for path in block["fc1"]}
    last = {path for block in recipe.structure for path in block["fc2"]}
    for site in recipe.active:
        hook = site.hooks[0]
        above, _, attribute = hook.module.rpartition(".")
        parent, within = parts.get(above), f"{hook.module}."
        holds = [any(f"{path}.".startswith(within) for path in paths) for paths in (first, last)]
        if all(holds) or not attribute or parent is None or isinstance(parent, nn.ModuleList | nn.ModuleDict):
            continue
        keeping.keep(parent, attribute, ON_OUTPUT if hook.when == "output" else ON_INPUT, carrying.move)


def refuse_sharded(module: nn.Module) -> None:
    """Refuse a sharded module: a parameter added after ``fully_shard`` belongs to no shard.

    Raises:
        SurgeryError: the module is sharded (CB-SURGERY-08).
    """
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "device_mesh"):
            raise already_sharded(name)


def _host(parts: Mapping[str, nn.Module], site: RecipeSite, op: str) -> tuple[nn.Module, str]:
    if not site.hooks:
        raise SurgeryError(
            f"block {site.index} has no module at its {site.position} position",
            code="CB-SURGERY-02",
            where=site.path or site.stack,
            why="samples and tokens share an axis, and no module's output shows how many tokens a sample has"
            if site.unfold is not None
            else "the tensor is computed and used inside one forward(), where no module starts or ends",
            do='insert into the program instead: cbs.insert(model, recipe, on="program") or --on program',
        )
    hook = site.hooks[0]
    host, name = parts[hook.module], ON_OUTPUT if hook.when == "output" else ON_INPUT
    if isinstance(host, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise SurgeryError(
            f"block {site.index} has only a container at its {site.position} position",
            code="CB-SURGERY-02",
            where=hook.module,
            why=f"a child added to {type(host).__name__} would also run as a layer of its own",
            do="make the recipe from the module instead of from a program: it finds the layer inside",
        )
    if name in host._modules:
        raise occupied(site, str(getattr(host._modules[name], "name", name)), op)
    return host, name


def _like(operator: Operator, host: nn.Module, module: nn.Module) -> Operator:
    """The operator, moved to the device and floating type of its layer."""
    near = [p for p in (*host.parameters(), *module.parameters()) if p.is_floating_point()]
    if near:
        operator = operator.to(device=near[0].device, dtype=near[0].dtype)
    return operator.train(host.training)


def check_structure(module: nn.Module, recipe: Recipe) -> None:
    """Refuse a module that does not have the structure a recipe was made for; the error names the first difference."""
    parts = parts_by_path(module)
    for number, block in enumerate(recipe.structure):
        for path in (*block["fc1"], *block["fc2"]):
            if path not in parts:
                raise other_structure(recipe, f"block {number} needs a module {path}, which this model does not have")
            widths = [] if block["kind"] == "token-mlp" else [block["channels"]]
            widths += [block["hidden"]] if path in block["fc2"] else []
            _check_widths(recipe, number, path, parts[path], widths)
    refuse_unlike_blocks(recipe)
    for site in recipe.active:
        needed = [hook.module for hook in site.hooks[:1]] + ([site.unfold.module] if site.unfold is not None else [])
        for path in needed:
            if path not in parts:
                raise other_structure(recipe, f"there is no module {path}")


def _check_widths(recipe: Recipe, number: int, path: str, projection: nn.Module, widths: list[int]) -> None:
    """Refuse a projection whose weights do not have the recipe's widths. Weights may have other sizes as well."""
    shapes = [tuple(p.shape) for p in projection.parameters() if p.dim() > 1]
    sizes = {size for shape in shapes for size in shape}
    if not shapes or getattr(projection, "groups", 1) != 1:  # a grouped one holds a share of its channels per weight
        return
    for width in widths:
        if width not in sizes:
            raise other_structure(
                recipe,
                f"block {number}: {path} has weights of shape {shapes[0]}, without the recipe's {width} channels",
            )


def attached(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Operator]]:
    """Yield every inserted operator: path of its layer, the layer, the name of the child, the operator."""
    keeping.settle(module)
    for path, host in named_parts(module):
        for name in (ON_OUTPUT, ON_INPUT):
            operator = host._modules.get(name)
            if isinstance(operator, Operator):
                yield path, host, name, operator


def recipes_of(module: nn.Module) -> list[Mapping[str, Any]]:
    """Return the recipes that a module's operators were inserted with, each once, in the order of its sub-modules."""
    return operators.recipes_of(operator for *_, operator in attached(module))


def detach(module: nn.Module) -> int:
    """Remove every inserted operator from a module, in place.

    Returns:
        The number of operators that were removed.
    """
    return detach_named(module, {f"{path}.{name}" for path, _, name, _ in attached(module)})


def detach_named(module: nn.Module, names: set[str]) -> int:
    """Remove the operators with these state-dict prefixes, in place; return how many were removed."""
    found = [(host, name) for path, host, name, _ in attached(module) if f"{path}.{name}" in names]
    for host, name in found:
        carrying.drop(host, name)
    keeping.release(module)
    unhook(module, [operator for *_, operator in attached(module)])
    configuration.write(module, recipes_of(module))
    if not any(True for _ in attached(module)):
        unchecked.forget(module)
    return len(found)


def count_calls(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Return how often each inserted operator runs in one forward pass on these inputs.

    The pass uses fake tensors, which have shapes but no values. It runs in a copy that shares the module's tensors,
    because some modules store what they compute. If forward() needs values, the model is run on real tensors.
    """
    try:
        other = duplicate(module, share=True)
        with _counting(other) as ran:
            _run_on_shapes(other, args, kwargs)
    except Exception:  # forward() may fail in any way on tensors without values; the real run below decides
        with _counting(module) as ran, torch.no_grad():
            own_args, own_kwargs = copied(args, kwargs)
            _drain(module(*own_args, **own_kwargs))
    return ran


def _drain(output: Any) -> None:
    """Run a forward() that is a generator to its end."""
    if isinstance(output, Iterator):
        for _ in output:
            pass


@contextmanager
def _counting(module: nn.Module) -> Iterator[dict[str, int]]:
    ran: dict[str, int] = {}
    handles = []
    for path, _, name, operator in attached(module):
        ran[f"{path}.{name}"] = 0
        handles.append(operator.register_forward_hook(_counter(ran, f"{path}.{name}")))
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def _run_on_shapes(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        state = {key: mode.from_tensor(tensor) for key, tensor in (*module.named_parameters(), *module.named_buffers())}
        fake = torch.utils._pytree.tree_map_only(Tensor, mode.from_tensor, (tuple(args), dict(kwargs)))
        _drain(call_with(module, state, *fake))


def _counter(ran: dict[str, int], key: str) -> Any:
    def count(module: nn.Module, args: Any, output: Any) -> None:
        ran[key] += 1

    return count
