"""Probing an edited model for leaks through its causal or masked operators."""

from __future__ import annotations

import functools
from collections.abc import Callable

from cbsurgeon.checks.leaks.probes import future_leak, padding_leak
from cbsurgeon.checks.leaks.result import Leak
from cbsurgeon.errors import UsageError
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import Recipe

MARKS = {"nonzero": 1, "zero": 0}
"""The value that marks a token (not padding) in each kind of mask."""


def leaks_of(original: Model, edited: Model, recipe: Recipe) -> tuple[Leak, ...]:
    """Probe whether causal or masked operators leak; empty if the recipe has neither form.

    A probe is only valid if the original model passes it. A probe that cannot run, or that the original fails, is
    returned without gaps and with the reason in ``not_run``.

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
                why = "only masks that are an input of the model with one number per token can be probed"
                found.append(Leak("padding", edited.provenance.reference, what, (), {mask.input: why}))
                continue
            probe = functools.partial(padding_leak, mask=mask.input, valid=MARKS[mask.valid])
            found.append(_compared("padding", original, edited, what, probe))
    return tuple(found)


def _compared(kind: str, original: Model, edited: Model, what: str, probe: Callable[[Model], Leak]) -> Leak:
    """Run a probe on the original and, if that passes, on the edited model."""
    try:
        before = probe(original)
    except UsageError as error:
        why = f"{error.what}: {error.why}"
    else:
        if before.ok:
            return probe(edited)
        why = "the original fails this probe too"
    return Leak(kind, edited.provenance.reference, what, (), {what: why})
