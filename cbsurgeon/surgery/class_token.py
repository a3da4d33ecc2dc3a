"""The position of the class token, for the operators that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.operators import Operator
from cbsurgeon.operators.class_token import ClassToken
from cbsurgeon.surgery.recipe import RecipeSite
from cbsurgeon.surgery.refusals import unsuitable

NONE = (
    "no class token can be proved there: a learned token that is concatenated to the others and read separately "
    "(mixers, windows and models that average their tokens have none; BERT's [CLS] is a word of the vocabulary)"
)
NAME_IT = "choose another operator; or, if you know the position of the class token, give it: --op-option class_token=0"


def with_class_token(
    operator: type[Operator],
    options: Mapping[str, Any],
    sites: Sequence[tuple[RecipeSite, int | None]],
) -> dict[str, Any]:
    """Return the options with the position of the class token added, for an operator that reads it.

    Args:
        operator: the operator's class.
        options: the options of the user; a ``class_token`` among them is used without a proof.
        sites: every site, with the position that was proved on the graph.

    Raises:
        SurgeryError: the class token of a site is not proved, or its position differs between sites (CB-SURGERY-06).
    """
    if not issubclass(operator, ClassToken) or options.get("class_token") is not None:
        return dict(options)
    first, *_ = sites
    for site, place in sites:
        if place is None:
            raise unsuitable(site, operator.name, NONE, NAME_IT)
        if place != first[1]:
            why = f"its class token is token {place}, that of block {first[0].index} is token {first[1]}"
            raise unsuitable(site, operator.name, why, "insert into blocks with the same position of the class token")
    return {**options, "class_token": first[1]} if first[1] else dict(options)
