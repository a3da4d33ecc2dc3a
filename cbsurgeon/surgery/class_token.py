"""Where the class token is, for the operators that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.operators import Operator
from cbsurgeon.operators.class_token import ClassToken
from cbsurgeon.surgery.recipe import RecipeSite
from cbsurgeon.surgery.refusals import cannot_stand

NONE = (
    "no class token can be proved there: a learned token put beside the others by a concatenation, and read out by "
    "itself (mixers, windows and models that average their tokens have none; BERT's is an ordinary word)"
)
NAME_IT = "choose another operator; or, if you know where the class token is, say so: --op-option class_token=0"


def with_place(
    operator: type[Operator],
    options: Mapping[str, Any],
    sites: Sequence[tuple[RecipeSite, int | None]],
) -> dict[str, Any]:
    """The options with the place of the class token, where the operator reads one.

    Args:
        operator: the operator's class.
        options: as they were given; a ``class_token`` among them is taken at its word.
        sites: every site, with the place that was proved on the graph.

    Raises:
        SurgeryError: a site has no class token that can be proved, or not all have it at one place (CB-SURGERY-06).
    """
    if not issubclass(operator, ClassToken) or options.get("class_token") is not None:
        return dict(options)
    first, *_ = sites
    for site, place in sites:
        if place is None:
            raise cannot_stand(site, operator.name, NONE, NAME_IT)
        if place != first[1]:
            why = f"its class token is token {place}, that of block {first[0].index} is token {first[1]}"
            raise cannot_stand(site, operator.name, why, "insert into one of the two at a time")
    return {**options, "class_token": first[1]} if first[1] else dict(options)
