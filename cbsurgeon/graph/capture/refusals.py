"""The errors of a capture that fails: what torch.export cannot follow, fixes or computes otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cbsurgeon.errors import CaptureError, SurgeryError
from cbsurgeon.graph.capture.regions import raising_line
from cbsurgeon.operators import Operator, recipes_of


def cannot_follow(error: Exception, reference: str, module: nn.Module) -> CaptureError:
    """Return the error about a forward() that torch.export cannot follow, with its line (CB-CAPTURE-03)."""
    return CaptureError(
        "capture failed because torch.export cannot follow the model's forward()",
        code="CB-CAPTURE-03",
        where=": ".join(filter(None, (reference, raising_line(error)))),
        why=_first_lines(error),
        do=one_type(error, module.parameters())
        or "capture a sub-module of it, or make the reported operation traceable",
    )


def one_type(error: Exception, weights: Iterable[Tensor]) -> str:
    """Return the advice for an error about number types, if the weights have several of them; else empty."""
    types = Counter(str(one.dtype).removeprefix("torch.") for one in weights if one.is_floating_point())
    if len(types) < 2 or not re.search("dtype|type .* should be the same|same type", str(error)):
        return ""
    held = " and ".join(f"{name} ({count} tensors)" for name, count in types.most_common())
    return f"convert the weights to one type, such as model.float(): they are {held}"


def does_not_run(error: Exception, weights: Iterable[Tensor], reference: str) -> CaptureError:
    """Return the error about a model that does not run on its example inputs (CB-CAPTURE-06)."""
    return CaptureError(
        "the model does not run on its example inputs",
        code="CB-CAPTURE-06",
        where=reference,
        why=f"{type(error).__name__}: {str(error)[:200]}",
        do=one_type(error, weights)
        or "give inputs of the size that the model was built for: --input CxHxW or --inputs file.npz; the reason may "
        "name the size",
    )


def fixed(where: str, why: str) -> CaptureError:
    """Return the error about a program that is valid for one batch size only (CB-CAPTURE-04)."""
    return CaptureError(
        "capture failed because the batch became a constant",
        code="CB-CAPTURE-04",
        where=where,
        why=why,
        do="look for shapes taken with int(...), loops over samples, or tensors built for one batch in forward()",
    )


def differs(reference: str, name: str, why: str) -> CaptureError:
    """Return the error about a program with other outputs than its module (CB-CAPTURE-05)."""
    return CaptureError(
        "capture failed because the program does not compute what the model does",
        code="CB-CAPTURE-05",
        where=f"{reference}, output {name}",
        why=f"{why}; a random operation in forward(), or state that changes between calls, does this",
        do="make forward() deterministic in evaluation mode",
    )


def refuse_lost_operators(module: nn.Module, recipes: Iterable[Mapping[str, Any]], reference: str) -> None:
    """Refuse an edited module in which a layer was replaced after the insertion and its operator went with it.

    A part of an edited model, and a model from which whole blocks were removed, are not refused: the blocks whose
    operators they lack are not there either.

    Args:
        module: the module.
        recipes: recipes that were inserted into it, besides those that its operators know.
        reference: name of the model for the message.

    Raises:
        SurgeryError: a block of a recipe is there without its operator (CB-SURGERY-11).
    """
    parts = dict(module.named_modules())
    operators = {path: part for path, part in parts.items() if isinstance(part, Operator)}
    for recipe in recipes_of(operators.values(), recipes):
        paths = [path for path, operator in operators.items() if operator.inserted_by == recipe]
        sites = [site for site in recipe["sites"] if site.get("enabled", True) and site.get("hooks")]
        blocks = {site["hooks"][0]["module"]: site["path"] for site in sites}
        for lost in _lost(parts, blocks, paths):
            raise SurgeryError(
                "the layer of an inserted operator was replaced, and the operator is gone",
                code="CB-SURGERY-11",
                where=f"{reference}: {lost}",
                why=f"{recipe['op']} was inserted at the {recipe['position']} of {len(sites)} blocks, and this one has "
                "none now",
                do="remove the operators (cbs.remove), change the model, then insert again",
            )


def _lost(parts: Container[str], blocks: Mapping[str, str], operators: Sequence[str]) -> Iterator[str]:
    """Yield the paths of the blocks of a recipe that are there without its operator.

    Args:
        parts: the paths of all modules.
        blocks: for each site of the recipe, the path of the layer with the operator → that of the block.
        operators: the paths of the recipe's operators. They show the prefix that a wrapper adds to every path.
    """
    hosts = [path.rpartition(".")[0] for path in operators]
    before = {host.removesuffix(layer) for host in hosts for layer in blocks if _ends_with(host, layer)}
    for prefix in sorted(before) if operators else [""]:
        for layer, block in blocks.items():
            places = [prefix + place for place in (layer, block) if place]
            there = any(place in parts for place in places)
            if there and not any(path.startswith(f"{place}.") for path in operators for place in places):
                yield prefix + (block or layer)


def _ends_with(path: str, layer: str) -> bool:
    return path == layer or path.endswith(f".{layer}")


def _first_lines(error: Exception, limit: int = 300) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return f"{type(error).__name__}: {text[:limit]}"
