"""Hooks that pass a padding mask from the module whose ``forward`` takes it to the operators inside that module."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.block import Mask
from cbsurgeon.operators import Operator
from cbsurgeon.operators.common.masking import Masking
from cbsurgeon.operators.common.unfolding import Unfolding
from cbsurgeon.operators.context import Context
from cbsurgeon.surgery.recipe import RecipeSite
from cbsurgeon.surgery.refusals import no_mask


class Masks:
    """The masks that one insertion needs. They are checked first; hooks are registered after all other checks.

    Args:
        parts: modules by path.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self._parts = parts
        self._of: dict[Mask, Masking] = {}

    def tie(self, operator: Operator, site: RecipeSite, path: str) -> None:
        """Connect a masked operator to its mask; any other operator is unchanged.

        Args:
            operator: the operator.
            site: its site.
            path: its state-dict prefix.

        Raises:
            SurgeryError: the recipe names no mask for the site (CB-LEAK-06), or the module does not take it
                (CB-LEAK-09).
        """
        if not isinstance(operator, Context) or not operator.masked:
            return
        mask = needed(site)
        if mask not in self._of:
            self._of[mask] = Masking(mask.input, mask.valid, mask.module, self._place(mask), rows=mask.rows)
        operator.tie(self._of[mask], site.batch_axes[0], path)

    def _place(self, mask: Mask) -> int | None:
        """Index of the mask among positional arguments; ``None`` if it is passed by keyword only."""
        host = self._parts.get(mask.module)
        parameters = list(inspect.signature(host.forward).parameters.values()) if host is not None else []
        for place, parameter in enumerate(parameters):
            if parameter.name == mask.input and parameter.kind is not parameter.VAR_POSITIONAL:
                return place if parameter.kind is not parameter.KEYWORD_ONLY else None
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        raise SurgeryError(
            f"{mask.module or 'the model'} takes no {mask.input}",
            code="CB-LEAK-09",
            where=f"parameters {', '.join(parameter.name for parameter in parameters) or 'none'}",
            why="a masked operator gets its mask from there when the module runs",
            do="make the mask a separate parameter of forward(), not part of a list or dictionary, and plan again",
        )

    def hook_up(self) -> None:
        """Register the hooks on the modules that take the masks."""
        for mask, masking in self._of.items():
            host = self._parts[mask.module]
            # Before all other pre-hooks and after all other hooks, so that operators on this module get the mask too.
            host.register_forward_pre_hook(masking.hand, prepend=True, with_kwargs=True)
            host.register_forward_hook(masking.clear, always_call=True)


def needed(site: RecipeSite) -> Mask:
    """Return the mask of a site.

    Raises:
        SurgeryError: there is none (CB-LEAK-06).
    """
    if site.mask is None or len(site.batch_axes) != 1:
        raise no_mask(site, "the recipe names no mask for it")
    return site.mask


def unhook(module: nn.Module, left: Iterable[Operator]) -> None:
    """Remove, in place, the hooks that pass masks and sizes to operators that no longer exist.

    Args:
        module: the whole model.
        left: the operators that still exist.
    """
    operators = list(left)
    alive = {id(operator.masking) for operator in operators if isinstance(operator, Context)}
    alive |= {id(operator.unfolding) for operator in operators}
    for part in module.modules():
        for hooks, beside in (
            (part._forward_pre_hooks, part._forward_pre_hooks_with_kwargs),
            (part._forward_hooks, part._forward_hooks_always_called),
        ):
            for key in [key for key, hook in hooks.items() if _stale(hook, alive)]:
                del hooks[key]
                beside.pop(key, None)


def _stale(hook: Any, alive: set[int]) -> bool:
    owner = getattr(hook, "__self__", None)
    return isinstance(owner, Masking | Unfolding) and id(owner) not in alive
