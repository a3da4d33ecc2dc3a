"""Handing a padding mask to operators: two hooks on the module that takes it, beside those of the operators."""

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
    """The masks that one insertion needs: checked first, hooked up once everything else is certain.

    Args:
        parts: modules by path.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self._parts = parts
        self._of: dict[Mask, Masking] = {}

    def tie(self, operator: Operator, site: RecipeSite, path: str) -> None:
        """Tell a masked operator where its mask comes from; any other is left alone.

        Args:
            operator: the operator.
            site: where it goes.
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
        """Index of the parameter among positional arguments."""
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
            do="make the mask a parameter of forward() of its own, not part of a list or dictionary, and plan again",
        )

    def hook_up(self) -> None:
        """Let the modules that take the masks hand them on."""
        for mask, masking in self._of.items():
            host = self._parts[mask.module]
            # First of all, so that an operator on the same module's input finds it; last of all, as on its output.
            host.register_forward_pre_hook(masking.hand, prepend=True, with_kwargs=True)
            host.register_forward_hook(masking.clear, always_call=True)


def needed(site: RecipeSite) -> Mask:
    """The mask of a site.

    Raises:
        SurgeryError: there is none (CB-LEAK-06).
    """
    if site.mask is None or len(site.batch_axes) != 1:
        raise no_mask(site, "the recipe names no mask for it")
    return site.mask


def unhook(module: nn.Module, left: Iterable[Operator]) -> None:
    """Take the hooks away that hand masks and sizes to operators which are gone, in place.

    Args:
        module: the whole model.
        left: operators that are still there.
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
