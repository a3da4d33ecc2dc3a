"""Whether an insertion in causal or masked form keeps to what each token may see."""

from __future__ import annotations

import functools
from collections.abc import Callable

from cbsurgeon.checks.leaks.probes import future_leak, padding_leak
from cbsurgeon.checks.leaks.result import Leak
from cbsurgeon.errors import UsageError
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import Recipe

MARKS = {"nonzero": 1, "zero": 0}
"""What marks a token in a mask of a given kind."""


def leaks_of(original: Model, edited: Model, recipe: Recipe) -> tuple[Leak, ...]:
    """Whether causal or masked operators keep to what each token may see; empty where the recipe has neither form.

    A probe counts only where the original passes it. One that cannot be run, or that the original fails, is returned
    without gaps and with the reason in ``not_run``.

    Args:
        original: the model before the insertion.
        edited: the same model with the recipe's operators.
        recipe: what was inserted.
    """
    found = []
    if recipe.options.get("causal"):
        found.append(_compared("future", original, edited, "later tokens", future_leak))
    if recipe.options.get("masked"):
        for mask in dict.fromkeys(site.mask for site in recipe.active if site.mask is not None):
            what = f"padding by {mask}"
            if mask.module or mask.rows or mask.valid not in MARKS:
                why = "only masks with one number per token, given to the whole model, are probed"
                found.append(Leak("padding", edited.provenance.reference, what, (), {mask.input: why}))
                continue
            probe = functools.partial(padding_leak, mask=mask.input, valid=MARKS[mask.valid])
            found.append(_compared("padding", original, edited, what, probe))
    return tuple(found)


def _compared(kind: str, original: Model, edited: Model, what: str, probe: Callable[[Model], Leak]) -> Leak:
    """The probe of the edited model, where the original passes it."""
    try:
        before = probe(original)
    except UsageError as error:
        why = f"{error.what}: {error.why}"
    else:
        if before.ok:
            return probe(edited)
        why = "the original fails this probe too"
    return Leak(kind, edited.provenance.reference, what, (), {what: why})
